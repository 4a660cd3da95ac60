"""Labels that were mended in a review: a file of them, in the form of its data set, read and written."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from alignprune_pl.data.files import DataFileError, ImageFiles
from alignprune_pl.data.folders import is_left_out
from alignprune_pl.data.numpy_files import NumpyFiles, described
from alignprune_pl.data.sets import Benchmark
from alignprune_pl.data.tables import delimiter_of, read_table, records_of, relabelled
from alignprune_pl.data.text import class_number, text_of

VERSION = 1
"""Of the form of a file of moves."""

_MOVE = ("path", "from", "to")

# ---- reading ----------------------------------------------------------------------------------------------


def read_labels(benchmark: Benchmark, path: Path) -> Tensor:
    """The labels of a benchmark's training samples by a file that a review has led to.

    By what its name ends in it is one of these:

    - ``.csv`` with the columns ``path`` and ``label``: a table of images, of which each row is a sample.
    - ``.csv`` with the columns ``index`` and ``label``: a sample by its place, and its class by name.
    - ``.json``: images that belong to another class than that of their folder, and those that belong to none.
    - ``.npz`` with the array ``label``: a class for each sample, or -1.

    Returns:
        int64[n]; -1 of a sample that belongs to no class, or that a table does not list.

    Raises:
        DataFileError: If it is no such file, or does not fit the benchmark, naming the line or the entry.
    """
    readers = {".csv": _of_table, ".json": _of_moves, ".npz": _of_array}
    if path.suffix.lower() not in readers or not path.is_file():
        what = "is given" if path.suffix.lower() not in readers else "is missing"
        raise DataFileError(
            f"labels={path} {what}, but a .csv, .json or .npz file of mended labels is expected; alignprune-audit RUN "
            "--apply writes one."
        )
    labels = readers[path.suffix.lower()](benchmark, path)
    out, others = int((labels < 0).sum()), int((labels != benchmark.train.labels)[labels >= 0].sum())
    told = f", and leaves out {out:,} samples, which are not trained on" if out else ""
    rank_zero_info(f"{path} replaces {others:,} of the {len(labels):,} labels of {benchmark.name}{told}.")
    return labels


def _of_table(benchmark: Benchmark, path: Path) -> Tensor:
    text = text_of(path, "a CSV file", "give a file of mended labels")
    header = next((cells for _, cells in records_of(text, delimiter_of(text, ("label",)), path)), [])
    # A table of one's own may have a column index of its own.
    is_of_images = isinstance(benchmark.train.inputs, ImageFiles) and "path" in header
    is_of_images &= benchmark.name == "csv" or "index" not in header
    return _by_path(benchmark, path) if is_of_images else _by_index(benchmark, text, path)


def _by_path(benchmark: Benchmark, path: Path) -> Tensor:
    """Of a path that is listed several times, each row is the next sample that has it."""
    label_of, places = _label_of(benchmark), _Places(benchmark)
    labels = torch.full((len(benchmark.train),), -1)
    used: dict[int, int] = {}
    for row in read_table(path):
        if is_left_out(row.path):
            continue
        where = f"{path}, line {row.number},"
        found = places.of(row.path, where)
        nth = used[found[0]] = used.get(found[0], -1) + 1
        if nth >= len(found):
            raise DataFileError(
                f"{where} has the path {row.path} once more than the {len(found)} times that {benchmark.name} has it; "
                "remove the row."
            )
        labels[found[nth]] = _known(label_of, row.label, where, benchmark)
    return labels


def _by_index(benchmark: Benchmark, text: str, path: Path) -> Tensor:
    (_, header), *records = list(records_of(text, delimiter_of(text, ("index", "label")), path)) or [(0, [])]
    missing = next((name for name in ("index", "label") if name not in header), None)
    if missing is not None:
        raise DataFileError(f"{path} has no column {missing}, but index and label are expected; write it again.")
    label_of, n, files = _label_of(benchmark), len(benchmark.train), benchmark.train.inputs
    paths = files.paths() if isinstance(files, ImageFiles) and "path" in header else None
    labels = torch.full((n,), -1)
    for number, cells in records:
        where, values = f"{path}, line {number},", dict(zip(header, cells, strict=False))
        said = values.get("index", "")
        index = class_number(said, n)
        if index is None:
            raise DataFileError(
                f"{where} has the index {said!r}, but {benchmark.name} has the samples 0 to {n - 1}; remove the "
                "row, or give the labels of this data set."
            )
        if labels[index] >= 0:
            raise DataFileError(f"{where} has the index {index} for the second time; leave one of them.")
        if paths is not None and values.get("path") not in ("", _word(paths[index])):
            raise DataFileError(
                f"{where} has the path {values.get('path')} for the index {index}, which in {benchmark.name} is "
                f"{_word(paths[index])}; give the labels of this data set."
            )
        labels[index] = _known(label_of, values.get("label", ""), where, benchmark)
    return labels


def _of_moves(benchmark: Benchmark, path: Path) -> Tensor:
    try:
        content = json.loads(text_of(path, "a JSON file", "give a file of mended labels"))
    except ValueError as error:
        raise DataFileError(f"{path} is no JSON ({error}); write it again.") from error
    label_of, places, labels = _label_of(benchmark), _Places(benchmark), benchmark.train.labels.clone()
    told: set[str] = set()
    for where, file, start, end in _entries(content, path):
        if file in told:
            raise DataFileError(f"{where} has the path {file} for the second time; leave one of them.")
        told.add(file)
        found = places.of(file, where)
        folder = benchmark.classes[int(benchmark.train.labels[found[0]])]
        if start is not None and unicodedata.normalize("NFC", start) != folder:
            raise DataFileError(
                f"{where} takes {file} from {start}, but {benchmark.name} has it in {folder}; give the moves of this data "
                "set, or remove those that were made."
            )
        labels[found] = -1 if end is None else _known(label_of, end, where, benchmark)
    return labels


def _entries(content: Any, path: Path) -> Iterator[tuple[str, str, str | None, str | None]]:
    """Of each move where it stands, path, from and to; of junk neither of the latter."""
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise DataFileError(f"{path} has the version {version}, but {VERSION} is expected; write it again.")
    if not isinstance(content.get("moves"), list) or not isinstance(content.get("junk"), list):
        raise DataFileError(f"{path} has no lists moves and junk, but both are expected; write it again.")
    for number, move in enumerate(content["moves"], start=1):
        where = f"{path}, move {number},"
        file, start, end = (move.get(name) for name in _MOVE) if isinstance(move, dict) else (None,) * 3
        if not isinstance(file, str) or not isinstance(start, str) or not isinstance(end, str):
            raise DataFileError(
                f"{where} is {str(move)[:80]}, but a path with from and to is expected; mend or remove it."
            )
        yield where, file, start, end
    for number, file in enumerate(content["junk"], start=1):
        where = f"{path}, junk {number},"
        if not isinstance(file, str):
            raise DataFileError(f"{where} is {str(file)[:80]}, but a path is expected; mend or remove it.")
        yield where, file, None, None


def _of_array(benchmark: Benchmark, path: Path) -> Tensor:
    files, n = NumpyFiles(path), len(benchmark.train)
    array = files.read("label")
    are = f"{files.where('label')} is {described(array.shape, array.dtype)}"
    if array.dtype.kind not in "iu" or array.shape != (n,):
        raise DataFileError(f"{are}, but whole numbers [{n}] are expected, one for each sample of {benchmark.name}.")
    labels = torch.from_numpy(array.astype(np.int64))
    outside = ((labels < -1) | (labels >= benchmark.num_classes)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise DataFileError(
            f"{files.where('label')} has the label {int(labels[row])} in row {row}, but a class from 0 to "
            f"{benchmark.num_classes - 1}, or -1 to leave the sample out, is expected; mend it."
        )
    return labels


class _Places:
    """Where samples stand in a benchmark's training data, by the path of their file."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._name, files = benchmark.name, benchmark.train.inputs
        self._places: dict[str, list[int]] = {}
        for place, path in enumerate(files.paths() if isinstance(files, ImageFiles) else []):
            self._places.setdefault(path, []).append(place)
        # A table may have other slashes and accents than the disk has.
        self._spelled = {_spelling(path): path for path in self._places}

    def of(self, path: str, where: str) -> list[int]:
        found = self._places.get(path) or self._places.get(self._spelled.get(_spelling(path), ""))
        if found is None:
            raise DataFileError(
                f"{where} has the path {path}, which is not among the training images of {self._name}; remove it, or give "
                "the labels of this data set."
            )
        return found


def _spelling(text: str) -> str:
    """By what a path or a name is known, however a table spells it."""
    return unicodedata.normalize("NFC", text.replace("\\", "/"))


def _label_of(benchmark: Benchmark) -> dict[str, int]:
    return {name: label for label, name in enumerate(_told_apart(benchmark.classes))}


def _told_apart(classes: Sequence[str]) -> list[str]:
    """The names of classes by which a file tells them.

    Raises:
        ValueError: If two are alike.
    """
    names = [_spelling(_word(name)) for name in classes]
    again = next((name for name in names if names.count(name) > 1), None)
    if again is not None:
        raise ValueError(
            f"Two classes have the name {again!r}, so that labels cannot be told by names; name them apart."
        )
    return names


def _word(text: str) -> str:
    """A name or a path as it stands in a cell; letters of no known encoding are marked."""
    return os.fsencode(text).decode(errors="replace").strip()


def _known(label_of: dict[str, int], name: str, where: str, benchmark: Benchmark) -> int:
    label = label_of.get(_spelling(_word(name)))
    if label is None:
        names = ", ".join(benchmark.classes[:10]) + (", ..." if benchmark.num_classes > 10 else "")
        raise DataFileError(f"{where} has the label {name!r}, but {benchmark.name} has the classes {names}; mend it.")
    return label


# ---- writing ----------------------------------------------------------------------------------------------


def table_of_images(path: Path, benchmark: Benchmark, labels: Tensor) -> bytes:
    """The table of a data set of images with other labels, without the rows of samples that have none.

    Args:
        path: The data set's own table.
        benchmark: The data set.
        labels: int64[n], -1 of a sample without a label.
    """
    _told_apart(benchmark.classes)
    rows = [row for row in read_table(path) if not is_left_out(row.path)]
    names = [None if label < 0 else benchmark.classes[label] for label in labels.tolist()]
    changed = {row.number: name for row, name in zip(rows, names, strict=True) if name != row.label}
    return relabelled(path, changed)


def moves(benchmark: Benchmark, labels: Tensor) -> bytes:
    """The images that belong to another class than that of their folder, and those that belong to none, as JSON.

    Args:
        benchmark: The data set, of which each image is in the folder of its class.
        labels: int64[n], -1 of a sample that belongs to no class.
    """
    files, given, classes = benchmark.train.inputs, benchmark.train.labels, benchmark.classes
    _told_apart(classes)
    if not isinstance(files, ImageFiles):
        raise ValueError(f"{benchmark.name} has no files of images, of which moves are expected.")
    paths = files.paths()
    content = {
        "version": VERSION,
        "moves": [
            {"path": paths[at], "from": classes[given[at]], "to": classes[labels[at]]}
            for at in ((labels != given) & (labels >= 0)).nonzero().squeeze(1).tolist()
        ],
        "junk": [paths[at] for at in (labels < 0).nonzero().squeeze(1).tolist()],
    }
    return (json.dumps(content, indent=1) + "\n").encode()  # in ASCII, which holds any name of a file


def array(labels: Tensor) -> bytes:
    """Labels int64[n], -1 of a sample that belongs to no class, as the array ``label`` of an ``.npz`` file."""
    content = io.BytesIO()
    np.savez(content, label=labels.numpy())
    return content.getvalue()


def table_of_places(
    index: Sequence[int], labels: Sequence[int], classes: Sequence[str], paths: Sequence[str] | None = None
) -> bytes:
    """Samples by their place in a data set, each with the name of its class and, where it is known, its path, as CSV.

    Raises:
        ValueError: If two classes have one name.
    """
    _told_apart(classes)
    names = [_word(name) for name in classes]
    columns: dict[str, Sequence[Any]] = {"index": index, "label": [names[label] for label in labels]}
    if paths is not None:
        columns["path"] = [_word(path) for path in paths]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return text.getvalue().encode()
