"""CSV files of images and labels, however a spreadsheet saves them."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignprune_pl.data.files import DataFileError
from alignprune_pl.data.text import text_of

_NEEDED = ("path", "label")
_KNOWN = (*_NEEDED, "clean_label")
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Row:
    """One image of a table.

    Attributes:
        number: The line that it begins in, from 1.
        path: As it is written.
        label: A class's name, always as text: ``01``, ``nan`` and ``None`` are names like any other.
        clean: The true class's name; None where the table has no such column.
    """

    number: int
    path: str
    label: str
    clean: str | None


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file with the columns ``path`` and ``label``, and ``clean_label`` where it is known.

    The header says whether commas, semicolons, tabs or bars separate the cells. Spaces around a cell do not count, and
    neither do rows without any text. Labels are compared in their composed Unicode form.

    Args:
        path: The file, in UTF-8, or in the Unicode that its byte order mark tells.

    Raises:
        DataFileError: If it is missing or no such file, naming the line, or a row lacks a value or has too many.
    """
    text = _text(path)
    delimiter = delimiter_of(text)
    records = records_of(text, delimiter, path)
    _, header = next(records, (0, []))
    _check_header(header, path)
    rows = [_row(number, header, cells, delimiter, path) for number, cells in records]
    if not rows:
        raise DataFileError(f"{path} has no rows, but one for each image is expected.")
    return rows


def relabelled(path: Path, labels: Mapping[int, str | None]) -> bytes:
    """A table with other labels, its columns and the order of its rows as they are.

    Args:
        path: The file, as :func:`read_table` reads it.
        labels: By the line that a row begins in, its new label, or None to leave the row out; other rows stay.
    """
    text = _text(path)
    delimiter = delimiter_of(text)
    (_, header), *records = records_of(text, delimiter, path)
    at, written = header.index("label"), io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator="\r\n" if "\r\n" in text else "\n")
    writer.writerow(header)
    for number, cells in records:
        label = labels.get(number, cells[at])
        if label is not None:
            writer.writerow([*cells[:at], label, *cells[at + 1 :]])
    return written.getvalue().encode()


def _text(path: Path) -> str:
    return text_of(path, "a CSV file", "a CSV file with the columns path and label is expected")


def delimiter_of(text: str, needed: Sequence[str] = _NEEDED) -> str:
    """By which the header has the columns that are needed; a comma if by none."""
    header = next((line for line in io.StringIO(text, newline="") if line.strip()), "")[:100_000]  # csv has a limit
    for delimiter in _DELIMITERS:
        cells = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        if set(needed) <= {cell.strip() for cell in cells}:
            return delimiter
    return ","


def records_of(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that have any text, each with the line that it begins in."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            column = _quote(text, begins)
            raise DataFileError(
                f"{path}, line {begins}, column {column}, has a quote that is not closed, or not where its cell "
                f"ends ({error}); put quotes at both ends of the cell, and double those inside it."
            ) from error
        if any(cells):
            yield begins, cells


def _quote(text: str, line: int) -> int:
    """The column of the first quote of a line that has no partner there; of its first one if each has."""
    content = next(found for number, found in enumerate(io.StringIO(text, newline=""), start=1) if number == line)
    alone = re.sub(r'"(?:[^"]|"")*"', lambda pair: " " * len(pair[0]), content).find('"')
    return max(alone if alone >= 0 else content.find('"'), 0) + 1


def _check_header(header: list[str], path: Path) -> None:
    if not set(_NEEDED) <= set(header):
        shown = " ".join(", ".join(header).split())[:80] or "(none)"
        raise DataFileError(
            f"{path} has the columns {shown}, but path and label, separated by commas, semicolons, tabs or bars, are "
            "expected; name them so in the first line."
        )
    doubled = next((name for name in _KNOWN if header.count(name) > 1), None)
    if doubled is not None:
        raise DataFileError(
            f"{path} has {header.count(doubled)} columns {doubled}, but one is expected; remove the others."
        )


def _row(number: int, header: list[str], cells: list[str], delimiter: str, path: Path) -> Row:
    where = f"{path}, line {number},"
    further = next((cell for cell in cells[len(header) :] if cell), None)
    if further is not None:
        raise DataFileError(
            f"{where} has {further[:80]!r} behind its last column, but {len(header)} cells are expected, as in the header; "
            f"put a cell in quotes that has {delimiter!r} in it."
        )
    values = dict(zip(header, cells, strict=False))
    for name in _KNOWN:
        if name in header and not values.get(name):
            raise DataFileError(f"{where} has no {name}; give it, or leave the column out of the whole file.")
        breaks = len(re.findall(r"\r\n|\r|\n", values.get(name, "")))
        if breaks:
            raise DataFileError(
                f"{where} has a {name} that goes on over {breaks + 1} lines; close the quote that begins in this line."
            )
    label, clean = (unicodedata.normalize("NFC", values.get(name, "")) for name in _KNOWN[1:])
    return Row(number, values["path"], label, clean or None)
