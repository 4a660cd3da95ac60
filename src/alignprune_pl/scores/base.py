"""The contract of a score."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from alignprune_pl.trajectory import TrajectoryStore


class Score(Protocol):
    """One number for each training sample, from its loss trajectory.

    Attributes:
        low_is: What a low value means: ``"easy"`` (already learnt) or ``"suspect"`` (label perhaps wrong).
        needs_reference: Whether the score is undefined without a reference set.
        warm_up: How many closed epochs the store must have; before that the last loss is the score.
    """

    low_is: Literal["easy", "suspect"]
    needs_reference: bool
    warm_up: int

    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n], NaN where undefined."""
        ...
