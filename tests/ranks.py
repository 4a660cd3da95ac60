"""What tests of ranks share: scores of many kinds, and all ranks in one process."""

from __future__ import annotations

import pytest
import torch

from alignprune_pl.core.over_ranks import Numbers
from alignprune_pl.core.sharded import Shard, ShardScores

N = 1003
WORLDS = (1, 2, 4, 7)


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def made_up(n=N):
    """Scores of many kinds: as they are, and as they should not matter."""
    loss = torch.rand(n, generator=drawn(0)).clamp(min=1e-7).log().neg()
    missing = torch.rand(n, generator=drawn(1)) < 0.2
    return {
        "losses": loss,
        "some missing": loss.masked_fill(missing, torch.nan),
        "none known": torch.full((n,), torch.nan),
        "of both signs": (2 * torch.randn(n, generator=drawn(2))).tanh(),
        "many equal": (3 * loss).round(),
        "all equal": torch.full((n,), 0.1),
        "two zeros": torch.where(loss < 0.7, -0.0, torch.where(loss < 1.5, 0.0, loss)),
        "far apart": loss.pow(30.0).masked_fill(missing, 1e-42),
    }


KINDS = pytest.mark.parametrize("kind", made_up())


def shards(world, n=N):
    return [Shard(n, world, rank) for rank in range(world)]


def indices(shard):
    return shard.samples(torch.arange(shard.size))


class Ranks:
    """All ranks, one after the other in this process."""

    def __init__(self, values, world):
        self.parts = [ShardScores(shard, values[indices(shard)]) for shard in shards(world, len(values))]
        self.asked = []

    def summed(self, part):
        # Within each rank there is no process group to add up over.
        total = torch.stack([rank.summed(part) for rank in self.parts]).sum(dim=0)
        self.asked.append(total.nbytes)
        return total

    def weights(self, rule):
        """Of every sample, zero where it is left out: float32[n]."""
        return together([(rank.shard, rank.plan(rule)) for rank in self.parts])


def together(plans):
    """The weights of all samples of the plans of all shards."""
    weights = torch.zeros(plans[0][0].num_samples)
    for shard, plan in plans:
        weights[shard.samples(plan.keep)] = plan.weight
    return weights


def weights_of(plan, n=N):
    return torch.zeros(n).index_copy_(0, plan.keep, plan.weight)


def numbers_of(generator, n=N):
    return Numbers.drawn(generator)(torch.arange(n))
