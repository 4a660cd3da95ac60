"""Exponential means of all losses so far: of a sample's own, or of the batches that it was in (BLS)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.contracts import Score
from alignprune_pl.core.growing import resized
from alignprune_pl.core.registry import SCORES
from alignprune_pl.core.trajectory import Observable, TrajectoryStore
from alignprune_pl.scores.arguments import check_decay


def ema_step(mean: Tensor, losses: Tensor, alpha: float) -> Tensor:
    """Alpha * mean + (1 - alpha) * loss where there is a new loss; the first loss is the first mean.

    Args:
        mean: float32[n], NaN where there is none yet.
        losses: float32[n], NaN where there is no new one.
        alpha: The share of the old mean, in [0, 1).

    Returns:
        float32[n].

    Example:
        >>> ema_step(torch.tensor([1.0, 1.0, torch.nan]), torch.tensor([2.0, torch.nan, 3.0]), 0.75)
        tensor([1.2500, 1.0000, 3.0000])
    """
    moved = torch.where(mean.isnan(), losses, alpha * mean + (1 - alpha) * losses)
    return torch.where(losses.isnan(), mean, moved)


@SCORES.register("ema_loss")
class EmaLossScore(Score):
    """The exponential mean of a sample's losses; low is easy.

    It moves in the epochs in which the sample is trained, and reaches back further than any window.

    Args:
        alpha: The share of the old mean in the new one.

    Raises:
        ValueError: If ``alpha`` is outside [0, 1).

    Source: the score of Raju, Daruwalla and Lipasti 2021 (arXiv 2111.12621).
    """

    observes: Observable = "loss"
    by_sample: tuple[str, ...] | None = ("mean",)

    def __init__(self, alpha: float = 0.7) -> None:
        self.alpha = check_decay("alpha", alpha)
        self.reset()

    def reset(self) -> None:
        """Forget all losses."""
        self._epochs = 0
        self._mean = torch.empty(0, dtype=torch.float32)

    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n], NaN where never observed."""
        if len(self._mean) != store.num_samples or self._epochs > store.epochs:
            self.reset()
            self._mean = torch.full((store.num_samples,), math.nan, dtype=torch.float32)
        self._mean = self._mean.to(store.last_loss().device)
        # One epoch at a time; if several have passed, those that the store remembers.
        missed = store.epochs - self._epochs
        if missed > 1:
            for losses in store.losses(missed).T[:-1]:
                self._mean = ema_step(self._mean, losses, self.alpha)
        if missed > 0:
            self._mean = ema_step(self._mean, store.newest(), self.alpha)
        self._epochs = store.epochs
        return self._mean.clone()

    def grow(self, num_samples: int) -> None:
        """The new samples have no losses yet."""
        self._mean = resized(self._mean, num_samples, math.nan)

    def state_dict(self) -> dict[str, Any]:
        """How many epochs are in the mean, and the mean of each sample: float32[n]."""
        return {"epochs": self._epochs, "mean": self._mean.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self._epochs, self._mean = state["epochs"], state["mean"]


@SCORES.register("batch_loss")
class BatchLossScore(EmaLossScore):
    """BLS: the exponential mean of the mean loss of the batches that a sample was in; low is easy.

    It needs no per-sample loss: the batch's loss is what ``training_step`` returns. The weights of a batch's samples
    reach it as their mean, which is what the authors' code does with InfoBatch.

    Args:
        alpha: The share of the old mean in the new one, 0.7 to 0.9 in the paper.

    Raises:
        ValueError: If ``alpha`` is outside [0, 1).

    Source: BLS (arXiv 2604.04681).
    """

    observes: Observable = "batch_loss"
