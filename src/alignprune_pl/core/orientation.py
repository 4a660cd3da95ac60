"""Which end of a score is which."""

from __future__ import annotations

from typing import Literal

from alignprune_pl.core.checking import check_word

Orientation = Literal["easy", "suspect"]
"""What a low value of a score means: already learnt, or with a label that is perhaps wrong."""

End = Literal["low", "easy", "suspect"]
"""An end of a score: the low one whatever it means, or the one that has a meaning."""


def check_end(name: str, end: End) -> End:
    """``end`` as given, if it is one.

    Raises:
        ValueError: If it is another word.
    """
    return check_word(name, end, ("low", "easy", "suspect"), "'low' takes a score's low end, whatever it means")
