"""Full training, the baseline of every comparison."""

from __future__ import annotations

import torch

from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.core.sharded import Shard


@POLICIES.register("none")
class NoPruning(Policy):
    """Keeps every sample, with weight one; reads no score."""

    reads_score = False

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch of all samples; see :class:`~alignprune_pl.Policy`."""
        return EpochPlan.of(torch.arange(len(scores)))

    def plan_on_shards(self, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
        """Plan one epoch of a shard; see :class:`~alignprune_pl.Policy`."""
        return self.plan(scores, ask)
