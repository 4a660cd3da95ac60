"""Full training, the baseline of every comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.policies.subsets import POLICIES, Policy


@POLICIES.register("none")
class NoPruning(Policy):
    """Keeps every sample, with weight one; reads no score."""

    reads_score = False

    def plan(
        self,
        scores: Tensor,
        epoch: int,
        generator: torch.Generator,
        max_epochs: int | None = None,
        low_is: Orientation = "easy",
    ) -> EpochPlan:
        """Plan one epoch of all samples; see :class:`~alignprune_pl.policies.Policy`."""
        return EpochPlan.of(torch.arange(len(scores)))
