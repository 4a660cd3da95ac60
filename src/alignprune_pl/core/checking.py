"""Checks of arguments, written once: each error is one sentence of what was given, what is expected and what to do."""

from __future__ import annotations

import re
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, TypeVar

Word = TypeVar("Word", bound=str)

_INTERVAL = re.compile(r"([\[(])(.+), (.+)([\])])")


def refused(name: str, value: object, expected: str, remedy: str = "") -> str:
    """The sentence that refuses an argument.

    Example:
        >>> refused("ratio", 2, "a share in [0, 1)", "0.3 prunes three samples in ten")
        'ratio=2 is given, but a share in [0, 1) is expected; 0.3 prunes three samples in ten.'
    """
    return f"{name}={value!r} is given, but {expected} is expected{f'; {remedy}' if remedy else ''}."


def check_number(name: str, value: Any, interval: str, what: str = "a number", remedy: str = "") -> float:
    """``value`` as a float, of numpy's kinds too, if it lies in an interval.

    Args:
        name: The argument, for the sentence.
        value: What was given for it.
        interval: As it is written: ``"[0, 1)"``, ``"(0, inf)"``.
        what: What lies in it.
        remedy: What to do, or what a usual value does.

    Raises:
        ValueError: If it is no number, NaN, a boolean, or outside.

    Example:
        >>> check_number("alpha", 0.7, "[0, 1)")
        0.7
    """
    parts = _INTERVAL.fullmatch(interval)
    if parts is None:
        raise ValueError(f"{interval!r} is no interval such as '[0, 1)'.")
    opening, low, high, closing = parts.groups()
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    is_inside = is_number and (value >= float(low) if opening == "[" else value > float(low))
    is_inside = is_inside and (value <= float(high) if closing == "]" else value < float(high))
    if not is_inside:
        raise ValueError(refused(name, value, f"{what} in {interval}", remedy))
    return float(value)


def check_count(name: str, value: Any, least: int, what: str = "a whole number", remedy: str = "") -> int:
    """``value`` as an int, of numpy's kinds too, if it is a whole number of at least ``least``.

    Raises:
        ValueError: If it is less, or no whole number.

    Example:
        >>> check_count("groups", 5, 1)
        5
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(refused(name, value, f"{what} of at least {least}", remedy))
    return int(value)


def check_word(name: str, value: Word, words: Collection[str], remedy: str = "") -> Word:
    """``value`` as given, if it is one of the words.

    Raises:
        ValueError: If it is another.

    Example:
        >>> check_word("missing", "carry", ("carry", "mask"))
        'carry'
    """
    if value not in words:
        *most, last = (repr(word) for word in words)
        raise ValueError(refused(name, value, f"{', '.join(most)} or {last}", remedy))
    return value
