"""Which end of a score is which, and how a rule is made to read the end that it means."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Orientation = Literal["easy", "suspect"]
"""What a low value of a score means: already learnt, or with a label that is perhaps wrong."""

End = Literal["low", "easy", "suspect"]
"""An end of a score: the low one whatever it means, or the one that has a meaning."""


def turned(scores: Tensor, low_is: Orientation, end: End) -> Tensor:
    """Scores whose low end is ``end``, for a rule that treats low scores in a way of its own.

    Args:
        scores: float[n].
        low_is: What their low end means.
        end: What it shall be. ``"low"`` leaves them as they are, the plain substitution of one score for another.

    Returns:
        ``scores``, or their negative.

    Example:
        >>> import torch
        >>> turned(torch.tensor([-1.0, 1.0]), low_is="suspect", end="easy")
        tensor([ 1., -1.])
    """
    return scores if end in ("low", low_is) else -scores


def check_end(name: str, end: str) -> End:
    """``end`` as given, if it is one.

    Raises:
        ValueError: If it is another word.
    """
    if end not in ("low", "easy", "suspect"):
        raise ValueError(
            f"{name}={end!r} is given, but 'low', 'easy' or 'suspect' is expected; 'low' takes a score's low end, "
            "whatever it means."
        )
    return end  # type: ignore[return-value]
