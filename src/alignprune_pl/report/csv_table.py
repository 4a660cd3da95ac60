"""Tables as CSV, of which pandas and polars, with nothing set, read the values that were written."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignprune_pl.report.detection import Array

# What readers take for nothing or for a truth value, whatever its case; what is a number is found by itself.
_NO_WORDS = {"na", "n/a", "null", "none", "true", "false", "<na>", "#n/a", "#n/a n/a", "#na"}
_NO_WORDS |= {"1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}


def csv_of(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table of numbers, truth values and text; NaN stands where a value is not known.

    A text that a reader would take for something else is a JSON string: the class ``01`` is ``"01"`` with its quotes, and
    ``NA`` is ``"NA"``. So is one that is empty or cannot be printed. All others are as they are.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def read_table(path: str | Path) -> dict[str, Array]:
    """The columns of a table that we have written, by name, with all numbers and texts as they were.

    Returns:
        int64[n], bool[n] or float64[n], or objects[n] of a column that has text.

    Raises:
        ValueError: If its rows are not of one length.
        OSError: If it cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "label_issues.csv"
        >>> _ = path.write_bytes(csv_of(["index", "given_name"], [(0, "cat"), (1, "NA")]))
        >>> read_table(path)["given_name"].tolist()
        ['cat', 'NA']
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    columns = list(zip(*rows, strict=True)) or [()] * len(head)
    return {name: _column(cells) for name, cells in zip(head, columns, strict=True)}


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value if _is_word(value) else json.dumps(value)
    return "NaN" if isinstance(value, float) and math.isnan(value) else str(value)


def _is_word(text: str) -> bool:
    """Whether every reader takes it for the text that it is."""
    if not text.isprintable() or text != text.strip() or text[:1] in ("", '"') or text.casefold() in _NO_WORDS:
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _column(cells: Sequence[str]) -> Array:
    kinds: list[Callable[[str], Any]] = [int, {"True": True, "False": False}.__getitem__, _number]
    for kind in kinds:
        try:
            return np.array([kind(cell) for cell in cells])
        except (ValueError, KeyError):
            continue
    # Of objects, as numpy's own text ends at a zero byte.
    return np.array([json.loads(cell) if cell.startswith('"') else cell for cell in cells], dtype=object)


def _number(cell: str) -> float:
    return float(cell or math.nan)
