"""The contract of a score, and what several of them share."""

from __future__ import annotations

from typing import Any, Protocol, get_args, runtime_checkable

from torch import Tensor

from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.registry import Registry, as_call, check_memory
from alignprune_pl.core.trajectory import Observable, TrajectoryStore


class Score(Protocol):
    """One number for each training sample, from its trajectory.

    A class of one's own derives from this one, and states what differs from these defaults. It stores the arguments of
    its constructor under their own names: by them a checkpoint knows its score. A score that remembers more than the
    store does has ``reset``, ``state_dict`` and ``load_state_dict``, as policies have them.

    Attributes:
        low_is: What a low value means: ``"easy"`` (already learnt) or ``"suspect"`` (label perhaps wrong).
        needs_reference: Whether the score is undefined without a reference set.
        warm_up: How many closed epochs the store must have, or a whole window if that is less; before that the last
            loss is the score. Zero where it observes something else.
        window: How many of the last epochs it looks at; None for all that the store remembers.
        min_epochs: How many of them it needs; with a shorter window it could never be defined.
        observes: What its trajectories are of.
    """

    low_is: Orientation = "easy"
    needs_reference: bool = False
    warm_up: int = 0
    window: int | None = None
    min_epochs: int = 0
    observes: Observable = "loss"

    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n], NaN where undefined; the same again for the same epoch.

        It is called from the first closed epoch on. An infinite score counts as none.
        """
        ...

    def __repr__(self) -> str:
        return as_call(self)


@runtime_checkable
class RatesReference(Protocol):
    """A score that rates the samples of the reference set too, as if they were training samples."""

    def reference_scores(self) -> Tensor:
        """As of the last call: float32[r], NaN where undefined; empty without a reference set."""
        ...


def check_score(score: Any) -> None:
    """Refuse what is not a score.

    Raises:
        ValueError: If it cannot be called, or does not state what it means by a valid word.
    """
    missing = [name for name in Score.__annotations__ if not hasattr(score, name)]
    if not callable(score) or missing:
        raise ValueError(
            f"score={score!r} is given, but a score that is called with the trajectories is expected, with the attributes "
            f"{', '.join(Score.__annotations__)}; derive it from alignprune_pl.scores.Score."
        )
    check_memory("score", score)
    if score.low_is not in ("easy", "suspect"):
        raise ValueError(f"{score!r} has low_is={score.low_is!r}, but 'easy' or 'suspect' is expected.")
    if score.observes not in get_args(Observable):
        raise ValueError(
            f"{score!r} has observes={score.observes!r}, but 'loss', 'batch_loss', 'el2n', 'margin' or 'rival' is expected."
        )
    if score.warm_up > 0 and score.observes not in ("loss", "batch_loss"):
        raise ValueError(
            f"{score!r} has warm_up={score.warm_up}, in which the last loss is the score, but it observes {score.observes}; "
            "use warm_up=0."
        )


SCORES: Registry[Score] = Registry("score", "alignprune_pl.scores", check_score)
"""Every known score by name."""


def check_window(window: int | None) -> int | None:
    """``window`` as given, if it is a number of epochs.

    Raises:
        ValueError: If it is below 2.
    """
    if window is not None and not (isinstance(window, int) and window >= 2):
        raise ValueError(f"window={window!r} is given, but at least 2 epochs are expected; None takes all there are.")
    return window


def check_missing(missing: str) -> None:
    """Refuse another word for what stands for an epoch in which a sample was pruned.

    Raises:
        ValueError: If it is neither ``"carry"`` nor ``"mask"``.
    """
    if missing not in ("carry", "mask"):
        raise ValueError(f"missing={missing!r} is given, but 'carry' or 'mask' is expected.")


def check_alpha(alpha: float, name: str = "alpha") -> float:
    """``alpha`` as given, if it is a share of an old mean.

    Raises:
        ValueError: If it is outside [0, 1).
    """
    if not (isinstance(alpha, int | float) and 0 <= alpha < 1):
        raise ValueError(
            f"{name}={alpha!r} is given, but a share in [0, 1) is expected; 0.7 keeps most of the old mean."
        )
    return alpha
