"""Random pruning, the baseline that methods must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.plan import EpochPlan
from alignprune_pl.policies.base import check_ratio, kept_count, random_subset


class Random:
    """A fresh random subset of floor((1 - ratio) * n) samples each epoch; reads no score, weights are one.

    Args:
        ratio: The pruning ratio r in [0, 1).

    Raises:
        ValueError: If ``ratio`` is outside [0, 1).
    """

    def __init__(self, ratio: float = 0.3) -> None:
        self.ratio = check_ratio(ratio)

    def plan(self, scores: Tensor, epoch: int, generator: torch.Generator, max_epochs: int | None = None) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.policies.Policy`."""
        n = len(scores)
        return EpochPlan.of(random_subset(torch.arange(n), kept_count(n, self.ratio), generator).sort().values)

    def __repr__(self) -> str:
        return f"Random(ratio={self.ratio})"
