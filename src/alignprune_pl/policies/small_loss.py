"""Small-loss selection: the classic rule against wrong labels."""

from __future__ import annotations

from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.core.sharded import Shard
from alignprune_pl.policies.on_shards import small_loss_on_shards
from alignprune_pl.policies.subsets import check_ratio, highest, indices, kept_count


@POLICIES.register("small_loss")
class SmallLoss(Policy):
    """Keeps the floor((1 - ratio) * n) samples that are furthest from the suspect end; weights are one.

    With the loss these are the smallest losses, with DAS the best aligned samples. Samples without a score are kept
    before all others. By the loss, a pruned sample keeps the score that it was pruned for, and seldom comes back.

    Args:
        ratio: The pruning ratio r in [0, 1); the share of wrong labels, where it is known.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1).

    Source: Co-teaching's selection (Han et al., NeurIPS 2018, arXiv 1804.06872), by one network and over the whole set.
    """

    def __init__(self, ratio: float = 0.3) -> None:
        self.ratio = check_ratio(ratio)

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        trust = scores.turned("suspect")
        return EpochPlan.of(indices(highest(trust, kept_count(len(scores), self.ratio), ask.generator)))

    def plan_on_shards(self, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
        """Plan one epoch of a shard; see :class:`~alignprune_pl.Policy`."""
        return small_loss_on_shards(self, scores, ask, shard)
