"""Text files of a data set: lists and tables, each error naming the file, the line and what stands there."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator
from pathlib import Path

from alignprune_pl.data.files import DataFileError

# The longer mark first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def text_of(path: Path, kind: str = "a text file", expected: str = "it is part of the data set") -> str:
    """What a text file says, in UTF-8, or in the Unicode that its byte order mark tells.

    Args:
        path: The file.
        kind: What it is to be, for the sentence.
        expected: What to do if it is missing, likewise.

    Raises:
        DataFileError: If the file is missing or is not text.
    """
    if not os.path.isfile(path):
        raise DataFileError(f"{path} is {'a folder' if os.path.isdir(path) else 'missing'}; {expected}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataFileError(f"{path} cannot be read ({error.strerror}); let it be read.") from error
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise DataFileError(
            f"{path} is not {kind} in UTF-8: {_place(content[: error.start].decode(encoding, 'replace'))}, is the byte "
            f"0x{byte:02x} ({chr(byte)!r} in Latin-1); save it as one, or replace it with a fresh copy."
        ) from error
    if "\0" in text:
        raise DataFileError(
            f"{path} is not {kind} in UTF-8: {_place(text.partition(chr(0))[0])}, is the character U+0000; save it as one, "
            "or replace it with a fresh copy."
        )
    return text


def _place(before: str) -> str:
    """Where a text goes on."""
    lines = io.StringIO(before, newline=None).read().split("\n")
    return f"line {len(lines)}, column {len(lines[-1]) + 1}"


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers from 1.

    Raises:
        DataFileError: If the file is missing or is not text.
    """
    for number, line in enumerate(io.StringIO(text_of(path), newline=None), start=1):
        if line.strip():
            yield number, line.rstrip("\n")


def class_number(text: str, num_classes: int) -> int | None:
    """The class that a number names; None if it names none of 0 to C-1.

    Example:
        >>> class_number("7", 10), class_number("10", 10), class_number("seven", 10)
        (7, None, None)
    """
    is_short = text.isdecimal() and len(text) <= 18  # int() refuses the longest
    return int(text) if is_short and int(text) < num_classes else None


def paths_and_labels(path: Path, num_classes: int) -> tuple[list[str], list[int]]:
    """A file with an image's path and its label on each line.

    Args:
        path: The file.
        num_classes: C.

    Raises:
        DataFileError: If a line is anything else, a label is outside 0 to C-1, or there is no line.
    """
    paths, labels = [], []
    for number, line in lines(path):
        parts = line.rsplit(maxsplit=1)
        label = class_number(parts[1], num_classes) if len(parts) == 2 else None
        if label is None:
            raise DataFileError(
                f"{path}, line {number}, is {line[:80]!r}, but an image's path and a label from 0 to {num_classes - 1} are "
                "expected; mend the line or replace the file with a fresh copy."
            )
        paths.append(parts[0].strip())
        labels.append(label)
    if not paths:
        raise DataFileError(f"{path} is empty; replace it with a fresh copy.")
    return paths, labels
