"""Checks of arguments that several scores have."""

from __future__ import annotations

from typing import Literal

from alignprune_pl.core.checking import check_count, check_number, check_word

Missing = Literal["carry", "mask"]
"""What stands for an epoch in which a sample was pruned: its last observed loss, or nothing."""


def check_window(window: int | None) -> int | None:
    """``window`` as given, if it is a number of epochs.

    Raises:
        ValueError: If it is below 2.
    """
    return (
        None if window is None else check_count("window", window, 2, "a number of epochs", "None takes all there are")
    )


def check_missing(missing: Missing) -> Missing:
    """``missing`` as given.

    Raises:
        ValueError: If it is neither ``"carry"`` nor ``"mask"``.
    """
    return check_word("missing", missing, ("carry", "mask"))


def check_least(name: str, epochs: int, least: int) -> int:
    """A number of epochs as given, if it is enough to correlate them.

    Raises:
        ValueError: If it is below ``least``.
    """
    return check_count(name, epochs, least, "a number of epochs", "fewer have no correlation")


def check_decay(name: str, share: float) -> float:
    """The share of an old mean in the new one, as given.

    Raises:
        ValueError: If it is outside [0, 1).
    """
    return check_number(name, share, "[0, 1)", "a share", "0.7 keeps most of the old mean")
