"""What a person decided of labels in a review: the files of it, checked, kept and put together."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from alignprune_pl.report.detection import Array
from alignprune_pl.report.run_files import RunFiles, readable
from alignprune_pl.report.whole_file import replaced

VERSION = 1
"""Of the form of a file of decisions."""

WORDS = ("relabel", "keep", "junk", "undecided")
"""What may be decided of a label: it becomes another, is right, its sample belongs to no class, or nothing is decided."""

_ORIGIN = ("version", "dataset")
_OF_ONE = ("index", "given_label", "given_name", "decision", "label", "label_name", "decided_at")


def dataset_key(run: RunFiles) -> str:
    """Which data and labels decisions are of, as 16 hexadecimal digits.

    Of the samples' places, labels, true labels and paths, as far as these are known, of the classes and of the data set's
    name. Arrays with the same labels in the same order are one data set, whatever else they hold.
    """
    digest = hashlib.sha256()
    for name in ("train_index", "label", "clean_label"):
        digest.update(run.labels.get(name, np.empty(0)).astype("<i8").tobytes())
    for path in run.record.get("paths", ()):
        digest.update(bytes(path) + b"\0")
    digest.update("\n".join([run.summary["dataset"], *run.classes]).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Decision:
    """What is decided of one sample's label.

    Attributes:
        index: Where the sample stands in the data set, as in the audit's table.
        word: One of :data:`WORDS`.
        label: The new class of ``relabel``; None otherwise.
        decided_at: When, as the file says it, with its time zone.
    """

    index: int
    word: str
    label: int | None
    decided_at: str


# ---- reading ----------------------------------------------------------------------------------------------


def read_decisions(path: Path, run: RunFiles) -> list[Decision]:
    """The decisions of a file, as the review page exports it, in the order of their index.

    CSV may be separated by commas, semicolons or tabs and begin with a byte order mark, as Excel writes it. A file whose
    name ends in ``.json`` is JSON.

    Raises:
        ValueError: If it is no such file, of another version or data set, or an entry does not fit the run.
        OSError: If it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start + 1}); export it from the review page again, or save it as CSV UTF-8."
        ) from None
    labels = dict(zip(run.labels["train_index"].tolist(), run.labels["label"].tolist(), strict=True))
    found: dict[int, Decision] = {}
    names = [readable(name) for name in run.classes]
    key = dataset_key(run)  # once, as it takes all samples
    for where, entry in _of_json(text, path) if path.suffix.lower() == ".json" else _of_csv(text, path):
        _check_names(where, entry, _ORIGIN)
        _check_origin(where, entry, run, key)
        _check_names(where, entry, _OF_ONE)
        decision = _decision(where, entry, names)
        if decision.index in found:
            raise ValueError(f"{where}, has the index {decision.index} for the second time; leave one of them.")
        _check_label(where, entry, labels.get(decision.index), run)
        found[decision.index] = decision
    if not found:
        raise ValueError(f"{path} has no decisions; decide something on the review page, and export it again.")
    return [found[index] for index in sorted(found)]


def _of_csv(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row by the names of its columns, and where it stands."""
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    try:
        names = next(reader, [])
        while True:
            begins = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                return
            where = f"{path}, line {begins}"
            if any(cells) and len(cells) != len(names):
                raise ValueError(f"{where}, has {len(cells)} cells, but the header has {len(names)}; export it again.")
            if any(cells):  # Excel may leave empty rows
                yield where, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {begins}, is no CSV ({error}); export the file again.") from None


def _of_json(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entry with the version and the data set of its file, and where it stands."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); export the file again.") from None
    entries = content.get("decisions") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} has no list of decisions; export the file from the review page again.")
    origin = {name: content[name] for name in _ORIGIN if name in content}
    yield from ((f"{path}, decision {number}", {**entry, **origin}) for number, entry in enumerate(entries, start=1))


def _check_names(where: str, entry: Mapping[str, Any], expected: tuple[str, ...]) -> None:
    missing = next((name for name in expected if name not in entry), None)
    if missing is not None:
        raise ValueError(f"{where}, has no {missing}, but it is expected; export the file from the review page again.")


def _check_origin(where: str, entry: Mapping[str, Any], run: RunFiles, key: str) -> None:
    if _number(entry["version"]) != VERSION:
        raise ValueError(
            f"{where}, has the version {entry['version']!r}, but {VERSION} is expected; export the file from a review page "
            "of the version that is installed."
        )
    if entry["dataset"] != key:
        raise ValueError(
            f"{where}, is of the data set {entry['dataset']}, but {run.folder} is of {key}; give the run whose review page "
            "has exported the file."
        )


def _check_label(where: str, entry: Mapping[str, Any], label: int | None, run: RunFiles) -> None:
    if label is None:
        raise ValueError(f"{where}, has the index {entry['index']}, which {run.folder} did not train on; remove it.")
    if _number(entry["given_label"]) != label:
        raise ValueError(
            f"{where}, has the given_label {entry['given_label']!r}, but in {run.folder} it is {label} "
            f"({run.classes[label]}); export the file from that run's review page again."
        )


def _decision(where: str, entry: Mapping[str, Any], names: Sequence[str]) -> Decision:
    index, word, label = _number(entry["index"]), entry["decision"], _number(entry["label"])
    if index is None:
        raise ValueError(f"{where}, has the index {entry['index']!r}, but a whole number is expected; mend it.")
    if word not in WORDS:
        raise ValueError(f"{where}, has the decision {word!r}, but one of {', '.join(WORDS)} is expected; mend it.")
    if word == "relabel" and (label is None or label >= len(names)):
        raise ValueError(
            f"{where}, has the label {entry['label']!r}, but a class from 0 to {len(names) - 1} is expected; mend it."
        )
    name = entry["label_name"]
    if word == "relabel" and name != names[label or 0] and name in names:
        raise ValueError(
            f"{where}, has the label {label}, which is {names[label or 0]}, but the label_name {name}; mend the one or the "
            "other."
        )
    try:
        _time(str(entry["decided_at"]))
    except ValueError:
        raise ValueError(
            f"{where}, has the decided_at {entry['decided_at']!r}, but a time such as 2026-01-31T12:00:00Z is expected; "
            "export the file again."
        ) from None
    if word != "relabel" and entry["label"] not in ("", None):
        raise ValueError(f"{where}, has the label {entry['label']!r}, but {word} has none; empty it, or write relabel.")
    return Decision(index, word, label, str(entry["decided_at"]))


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(re.sub("Z$", "+00:00", text))
    if time.tzinfo is None:
        raise ValueError("no time zone")
    return time


def _number(value: object) -> int | None:
    """A whole number from 0, as it stands in JSON or in a cell; None of anything else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


# ---- keeping and putting together ---------------------------------------------------------------------------


def keep_decisions(run: RunFiles, decisions: Sequence[Decision]) -> Path:
    """Keep decisions in the run's folder, as ``decisions/001.csv`` and so on; those that are there already stay once.

    Returns:
        The file that has them.

    Raises:
        OSError: If it cannot be written.
    """
    content, there = _content(run, decisions), kept_files(run)
    for path in there:
        if path.read_bytes() == content:
            return path
    number = 1 + max((int(path.stem) for path in there), default=0)
    path = run.folder / "decisions" / f"{number:03d}.csv"
    with replaced(path) as file:
        file.write(content)
    return path


def kept_files(run: RunFiles) -> list[Path]:
    """The files of decisions in a run's folder, the earliest first."""
    found = (run.folder / "decisions").glob("*.csv")
    return sorted((path for path in found if re.fullmatch("[0-9]{3,9}", path.stem)), key=lambda path: int(path.stem))


def _content(run: RunFiles, decisions: Sequence[Decision]) -> bytes:
    """A file of decisions, the same whatever file they came from."""
    text, key = io.StringIO(newline=""), dataset_key(run)
    given = dict(zip(run.labels["train_index"].tolist(), run.labels["label"].tolist(), strict=True))
    names = [readable(name) for name in run.classes]
    writer = csv.writer(text)
    writer.writerow((*_ORIGIN, *_OF_ONE))
    for one in decisions:
        label = given[one.index]
        new = ("", "") if one.label is None else (one.label, names[one.label])
        writer.writerow((VERSION, key, one.index, label, names[label], one.word, *new, one.decided_at))
    return text.getvalue().encode()


@dataclass(frozen=True)
class Mended:
    """The labels of a run's samples after all decisions.

    Attributes:
        labels: int64[n], in the run's order.
        is_left_out: bool[n], the samples that belong to no class.
        changed: How many samples have another label.
        kept: How many labels were looked at and stay.
        files: How many files of decisions there are.
    """

    labels: Array
    is_left_out: Array
    changed: int
    kept: int
    files: int


def mended(run: RunFiles) -> Mended:
    """The labels by the decisions in a run's folder; of a sample the newest counts, of two of one time the later file's.

    Raises:
        ValueError: If a file is damaged, or of other data.
        OSError: If it cannot be read.
    """
    files = kept_files(run)
    every = [one for path in files for one in read_decisions(path, run)]
    latest = {one.index: one for one in sorted(every, key=lambda one: _time(one.decided_at))}
    given = run.labels["label"]
    labels, is_left_out = given.copy(), np.zeros(len(given), dtype=bool)
    at = {index: position for position, index in enumerate(run.labels["train_index"].tolist())}
    for one in latest.values():
        is_left_out[at[one.index]] = one.word == "junk"
        if one.label is not None:
            labels[at[one.index]] = one.label
    looked = sum(one.word in ("keep", "relabel") for one in latest.values())
    changed = int((labels != given).sum())
    return Mended(labels, is_left_out, changed, looked - changed, len(files))
