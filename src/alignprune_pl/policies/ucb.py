"""UCB: an upper confidence bound of each sample's score, from the scores of past epochs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_number
from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.growing import resized
from alignprune_pl.core.orientation import End, Orientation, check_end
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.policies.subsets import check_ratio, highest, indices, kept_count


@POLICIES.register("ucb")
class UCB(Policy):
    """Keeps the floor((1 - ratio) * n) samples with the highest mean + c * variance of their scores so far.

    n counts the samples that have a score; those without one are kept besides.

    Mean and variance are exponential. A score that has not changed since the sample was pruned, such as its loss, is no
    new one. Where a low score begins to mean the opposite, as when DAS replaces the loss, they begin anew.
    Where ``prunes`` turns the score the mean is turned, while the variance always adds to the bound. Weights are one.

    Args:
        ratio: The pruning ratio r in [0, 1).
        c: What a variance of one adds to the bound.
        alpha: The share of the old mean in the new one, in [0, 1).
        prunes: The end of the score that is pruned: ``"low"`` as in the original, whatever it means; ``"easy"`` or
            ``"suspect"``.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1), ``c`` negative or infinite, ``alpha`` outside [0, 1), or ``prunes``
            another word.

    Source: Raju, Daruwalla and Lipasti 2021 (arXiv 2111.12621).
    """

    by_place = True

    def __init__(self, ratio: float = 0.3, c: float = 1.0, alpha: float = 0.7, prunes: End = "low") -> None:
        self.ratio = check_ratio(ratio)
        self.c = check_number("c", c, "[0, inf)", "a number", "1 adds the variance once")
        self.alpha = check_number("alpha", alpha, "[0, 1)", "a share", "0.7 keeps most of the old mean")
        self.prunes = check_end("prunes", prunes)
        self.reset()

    def reset(self) -> None:
        """Forget all past scores."""
        self._epoch: int | None = None
        self._low_is: Orientation | None = None
        self._last = self._mean = self._variance = torch.empty(0, dtype=torch.float32)
        self._kept = torch.empty(0, dtype=torch.bool)

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        if ask.epoch != self._epoch:
            self._take_in(scores.values, scores.low_is)
            self._epoch = ask.epoch
        is_unscored = scores.values.isnan()
        bound = Scores(self._mean, scores.low_is).turned(self.prunes) + self.c * self._variance
        bound = bound.masked_fill(is_unscored, math.nan)
        unscored = int(is_unscored.sum())
        self._kept = highest(bound, unscored + kept_count(len(scores) - unscored, self.ratio), ask.generator)
        return EpochPlan.of(indices(self._kept))

    def _take_in(self, scores: Tensor, low_is: Orientation) -> None:
        if self._low_is != low_is or len(self._mean) != len(scores):
            self._last = self._mean = torch.full_like(scores, math.nan)
            self._variance = torch.zeros_like(scores)
            self._kept = torch.ones_like(scores, dtype=torch.bool)
            self._low_is = low_is
        # A comparison with NaN is True for "not equal": a first score is a new one.
        is_new = ((scores != self._last) | self._kept) & ~scores.isnan()
        difference = torch.where(self._mean.isnan(), 0.0, scores - self._mean)
        variance = self.alpha * (self._variance + (1 - self.alpha) * difference.square())
        mean = torch.where(self._mean.isnan(), scores, self._mean + (1 - self.alpha) * difference)
        self._variance = torch.where(is_new, variance, self._variance)
        self._mean = torch.where(is_new, mean, self._mean)
        self._last = torch.where(is_new, scores, self._last)

    def grow(self, num_samples: int) -> None:
        """The new samples have no past scores."""
        self._last, self._mean = (resized(part, num_samples, math.nan) for part in (self._last, self._mean))
        self._variance, self._kept = resized(self._variance, num_samples, 0.0), resized(self._kept, num_samples, True)

    def state_dict(self) -> dict[str, Any]:
        """The epoch planned last, what low meant, and of each sample its last score, mean, variance and if it was kept."""
        return {
            "epoch": self._epoch,
            "low_is": self._low_is,
            "last": self._last,
            "mean": self._mean,
            "variance": self._variance,
            "kept": self._kept,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self._epoch, self._low_is = state["epoch"], state["low_is"]
        self._last, self._mean, self._variance = state["last"], state["mean"], state["variance"]
        self._kept = state["kept"]
