"""InfoBatch: prune at random among the well-learned samples, and rescale those that stay."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.orientation import End, check_end
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.core.sharded import Shard
from alignprune_pl.policies.on_shards import infobatch_on_shards
from alignprune_pl.policies.subsets import (
    anneals,
    check_delta,
    check_ratio,
    indices,
    kept_count,
    random_subset,
)


def infobatch_plan(scores: Tensor, ratio: float, generator: torch.Generator, *, rescale: bool = True) -> EpochPlan:
    """Keep floor((1 - r) * m) of the m samples that score below the mean, and all others.

    A kept well-learned sample has weight 1 / (1 - r), so that the expected gradient is the full one. 1 - r is
    clamped to [0.1, 1] as in the original.

    Args:
        scores: float32[n]. A NaN is no score: it stays out of the mean, and its sample is kept with weight one.
        ratio: The pruning ratio r in [0, 1).
        generator: Draws the samples to keep.
        rescale: False leaves every weight at one.

    Source: InfoBatch (arXiv 2303.04947), section 3.

    Example:
        >>> plan = infobatch_plan(torch.tensor([0.0, 0.1, 5.0, 6.0]), 0.5, torch.Generator().manual_seed(0))
        >>> len(plan.keep), plan.weight.tolist()
        (3, [2.0, 1.0, 1.0])
    """
    ratio = min(ratio, 0.9)
    # A comparison with NaN is False: a sample without a score is never well-learned. Double precision, so
    # that equal scores are never below their own rounded mean.
    well_learned = scores.double() < scores.double().nanmean()
    easy = indices(well_learned)
    kept = random_subset(easy, kept_count(len(easy), ratio), generator)
    keep = indices((~well_learned).index_fill_(0, kept, True))
    weight = torch.ones(len(keep), dtype=torch.float32)
    if rescale:
        weight[well_learned[keep]] = 1 / (1 - ratio)
    return EpochPlan(keep, weight)


@POLICIES.register("infobatch")
class InfoBatch(Policy):
    """Prunes a share of the samples that score below the mean; anneals with all samples at the end.

    With a score where low is suspect, such as DAS, the default is what AlignPrune does: the score just takes the loss's
    place. The suspect samples are then the ones pruned, and those that survive are rescaled like the others.

    Args:
        ratio: The pruning ratio r in [0, 1): the share pruned among the samples below the mean; above 0.9 it
            acts as 0.9.
        delta: The share of the epochs with pruning; the rest trains on everything.
        rescale: Whether surviving samples below the mean weigh 1 / (1 - r). False keeps suspects that survive
            from being up-weighted.
        prunes: The end of the score that is pruned: ``"low"``, whatever it means; ``"easy"`` or ``"suspect"``.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1), ``delta`` outside [0, 1], or ``prunes`` another word.

    Source: InfoBatch (arXiv 2303.04947).
    """

    def __init__(self, ratio: float = 0.5, delta: float = 0.875, rescale: bool = True, prunes: End = "low") -> None:
        self.ratio = check_ratio(ratio)
        self.delta = check_delta(delta)
        self.rescale = rescale
        self.prunes = check_end("prunes", prunes)

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        if anneals(ask, self.delta):
            return EpochPlan.of(torch.arange(len(scores)))
        return infobatch_plan(scores.turned(self.prunes), self.ratio, ask.generator, rescale=self.rescale)

    def plan_on_shards(self, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
        """Plan one epoch of a shard; see :class:`~alignprune_pl.Policy`."""
        return infobatch_on_shards(self, scores, ask, shard)
