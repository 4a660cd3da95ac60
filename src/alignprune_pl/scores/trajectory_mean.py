"""The mean of all losses that a sample has had, the recent ones counting more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.contracts import Score
from alignprune_pl.core.growing import resized
from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.registry import SCORES
from alignprune_pl.core.trajectory import Observable, TrajectoryStore
from alignprune_pl.scores.arguments import check_decay


class DecayedMean(Score):
    """The mean of what is observed of a sample since the start, weighted by ``decay`` to the power of its age."""

    rates_reference = True
    by_sample: tuple[str, ...] | None = ("sums",)

    def __init__(self, decay: float) -> None:
        self.decay = check_decay("decay", decay)
        self.reset()

    def reset(self) -> None:
        """Forget all losses."""
        self._epochs = 0
        self._sums = torch.empty(2, 0, dtype=torch.float32)
        self._reference_sums = torch.empty(2, 0, dtype=torch.float32)

    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n], NaN where never observed."""
        newest = store.newest()
        if self._sums.shape[1] != store.num_samples or self._epochs > store.epochs:
            self.reset()
            self._sums = torch.zeros(2, store.num_samples, dtype=torch.float32)
        self._sums = self._sums.to(newest.device)
        # One epoch at a time; if several have passed, those that the store remembers.
        missed = store.epochs - self._epochs
        if missed > 1:
            for losses in store.losses(missed).T[:-1]:
                self._sums = self._added(self._sums, losses)
        if missed > 0:
            newest, reference = self._newest(store)
            self._sums = self._added(self._sums, newest)
            self._reference_sums = self._added(self._reference_sums, reference.cpu())
        self._epochs = store.epochs
        return self._sums[0] / self._sums[1]  # 0 / 0 is NaN

    def _newest(self, store: TrajectoryStore) -> tuple[Tensor, Tensor]:
        """What the newest epoch adds to the means: of each training sample, float32[n], and of the reference's."""
        return store.newest(), store.newest_reference.value

    def _added(self, sums: Tensor, losses: Tensor) -> Tensor:
        if sums.shape[1] != len(losses):
            sums = torch.zeros(2, len(losses), dtype=torch.float32)
        seen = ~losses.isnan()
        return self.decay * sums + torch.stack([torch.where(seen, losses, 0.0), seen.float()])

    def reference_scores(self) -> Tensor:
        """Of the reference samples, float32[r]; as of the last call."""
        return self._reference_sums[0] / self._reference_sums[1]

    def grow(self, num_samples: int) -> None:
        """The new samples have no losses yet."""
        self._sums = resized(self._sums, num_samples, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """How many epochs are in the mean; weighted sums of losses and observations, float32[2, n]; the reference's."""
        return {"epochs": self._epochs, "sums": self._sums.cpu(), "reference_sums": self._reference_sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self._epochs, self._sums, self._reference_sums = state["epochs"], state["sums"], state["reference_sums"]


@SCORES.register("trajectory")
class TrajectoryScore(DecayedMean):
    """The mean of a sample's losses since the start, weighted by ``decay`` to the power of their age; low is easy.

    What a network has memorised lies about every recent window, and a mean since the start remembers the time before.
    Unlike the exponential mean, it has no weight on the first loss beyond its own, and a sample that is seldom observed
    has losses of few epochs, not old ones.

    Args:
        decay: The weight of an epoch in that of the next one, in [0, 1); 0.95 halves it in thirteen to fourteen epochs.

    Raises:
        ValueError: If ``decay`` is outside [0, 1).
    """

    low_is: Orientation = "easy"
    observes: Observable = "loss"

    def __init__(self, decay: float = 0.95) -> None:
        super().__init__(decay)
