"""The contract of a policy, and what several of them share."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from alignprune_pl.plan import EpochPlan


class Policy(Protocol):
    """Decides which samples an epoch trains on, from one score a sample."""

    def plan(self, scores: Tensor, epoch: int, generator: torch.Generator, max_epochs: int | None = None) -> EpochPlan:
        """Plan one epoch; samples come in ascending order, the callback shuffles them.

        Args:
            scores: float32[n], NaN where a sample has no score; such a sample is never pruned for its score.
            epoch: The epoch to plan, from 0.
            generator: Where every random choice comes from.
            max_epochs: E, the length of the run; None where it is not known, and then nothing anneals.
        """
        ...


def check_ratio(ratio: float) -> float:
    """``ratio`` as given, if it is a pruning ratio.

    Raises:
        ValueError: If it is outside [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ValueError(
            f"ratio={ratio} is given, but a pruning ratio in [0, 1) is expected; 0.3 prunes three samples in ten."
        )
    return ratio


def check_delta(delta: float) -> float:
    """``delta`` as given, if it is a share of the epochs.

    Raises:
        ValueError: If it is outside [0, 1].
    """
    if not 0 <= delta <= 1:
        raise ValueError(
            f"delta={delta} is given, but a share of the epochs in [0, 1] is expected; 0.875 anneals the last eighth."
        )
    return delta


def anneals(epoch: int, max_epochs: int | None, delta: float) -> bool:
    """Whether ``epoch`` lies in the last (1 - delta) * E epochs."""
    return max_epochs is not None and epoch >= delta * max_epochs


def kept_count(n: int, ratio: float) -> int:
    """floor((1 - ratio) * n), undisturbed by the rounding of 1 - ratio.

    Example:
        >>> kept_count(10, 0.8), int((1 - 0.8) * 10)
        (2, 1)
    """
    return math.floor(round((1 - ratio) * n, 6))


def random_subset(index: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """``size`` elements of ``index`` (int64[n]), uniformly without replacement, in random order."""
    return index[torch.randperm(len(index), generator=generator)[:size]]
