"""Random pruning, the baseline that methods must beat."""

from __future__ import annotations

from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.plan import EpochPlan, permutation
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.core.sharded import Shard
from alignprune_pl.policies.on_shards import random_on_shards
from alignprune_pl.policies.subsets import check_ratio, indices, kept_count, members


@POLICIES.register("random")
class Random(Policy):
    """A fresh random subset of floor((1 - ratio) * n) samples each epoch; reads no score, weights are one.

    Args:
        ratio: The pruning ratio r in [0, 1).

    Raises:
        ValueError: If ``ratio`` is outside [0, 1).

    Source: RS2 with replacement across epochs (Okanovic et al., ICLR 2024, arXiv 2305.18424).
    """

    reads_score = False

    def __init__(self, ratio: float = 0.3) -> None:
        self.ratio = check_ratio(ratio)

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        n = len(scores)
        drawn = permutation(n, ask.generator)[: kept_count(n, self.ratio)]
        return EpochPlan.of(indices(members(n, drawn)))

    def plan_on_shards(self, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
        """Plan one epoch of a shard; see :class:`~alignprune_pl.Policy`."""
        return random_on_shards(self, scores, ask, shard)
