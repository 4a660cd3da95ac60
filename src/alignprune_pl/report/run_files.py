"""The files of a run's folder, written and read; and the finished run that they make."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alignprune_pl.report.csv_table import csv_of, read_table
from alignprune_pl.report.detection import Array, bounded, most_suspect
from alignprune_pl.report.whole_file import replaced

CONFIG, LABELS, EPOCHS, RECORD, SUMMARY = "config.yaml", "labels.npz", "epochs.csv", "record.npz", "summary.json"

# ---- writing ----------------------------------------------------------------------------------------------


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a run's settings.

    Raises:
        yaml.YAMLError: If one of them is no number, word, list or mapping.
    """
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    _write(folder / CONFIG, text.encode())


def write_labels(folder: Path, arrays: Mapping[str, Array]) -> None:
    """Write what a run trained on, compressed and without pickle."""
    _write_arrays(folder / LABELS, arrays)


def write_record(folder: Path, arrays: Mapping[str, Array]) -> None:
    """Write what a run found, compressed and without pickle."""
    _write_arrays(folder / RECORD, arrays)


def write_epochs(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write one row an epoch; the columns are all names that there are, in the order in which they came."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    _write(folder / EPOCHS, csv_of(names, ([row.get(name, math.nan) for name in names] for row in rows)))


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write a run's figures at its end, and what it was made of.

    Raises:
        TypeError: If one of them is no number, word, list or mapping.
    """
    _write(folder / SUMMARY, (json.dumps(dict(summary), indent=2) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    with replaced(path) as file:
        file.write(content)


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with replaced(path) as file:
        np.savez_compressed(file, **arrays)


# ---- reading ----------------------------------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, Any]:
    """A run's settings."""
    with _named(folder / CONFIG) as path:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def read_summary(folder: Path) -> dict[str, Any]:
    """A run's figures at its end, and what it was made of."""
    with _named(folder / SUMMARY) as path:
        return dict(json.loads(path.read_text(encoding="utf-8")))


def read_epochs(folder: Path) -> dict[str, Array]:
    """A run's figures by epoch: float64[epochs] by column, NaN where a figure was not known."""
    with _named(folder / EPOCHS) as path:
        return {name: column.astype(np.float64) for name, column in read_table(path).items()}


def read_labels(folder: Path) -> dict[str, Array]:
    """What a run trained on, as :class:`RunFiles` has it."""
    return _arrays(folder / LABELS)


_NEEDED: dict[str, tuple[str, ...]] = {
    SUMMARY: (
        *("dataset", "noise", "policy", "score", "options", "train_samples", "reference_samples", "reference_from"),
        *("seed", "alignprune_pl", "torch", "lightning"),
    ),
    EPOCHS: ("epoch",),
    LABELS: ("train_index",),
    RECORD: ("suspicion", "probability", "shown", "trajectories", "reference_trajectory", "classes"),
}


def _wrong(files: Mapping[str, Mapping[str, Any]]) -> str:
    """What makes the contents of files none of a run, or of several runs; nothing if they are of one."""
    labels, record = files[LABELS], files[RECORD]
    missing = [f"{file} has no {name}" for file, names in _NEEDED.items() for name in names if name not in files[file]]
    if "predicted" in record and "label" not in labels:
        missing.append(f"{LABELS} has no label")
    if missing:
        return missing[0]
    n, classes = len(labels["train_index"]), len(record["classes"])
    of_samples = {
        name: record.get(name, labels.get(name)) for name in ("suspicion", "probability", "paths", "noise_mask")
    }
    of_classes = {name: record.get(name, labels.get(name)) for name in ("label", "clean_label", "predicted")}
    for name, values in {**of_samples, **of_classes}.items():
        if values is not None and len(values) != n:
            return f"{name} is of {len(values)} samples, train_index of {n}"
    for name, values in of_classes.items():
        if values is not None and n and not 0 <= values.min() <= values.max() < classes:
            return f"{name} is from {values.min()} to {values.max()}, but {classes} classes have names"
    return ""


def _arrays(path: Path) -> dict[str, Array]:
    with _named(path), path.open("rb") as file, np.load(file) as archive:  # which leaves a damaged one open
        return {name: archive[name] for name in archive.files}


@contextmanager
def _named(path: Path) -> Iterator[Path]:
    """Say which file it is that its reader cannot read.

    Raises:
        ValueError: If it is damaged.
        OSError: If it is not there, or may not be read.
    """
    try:
        yield path
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}); run it again.") from error


def accuracy_among(names: Sequence[str]) -> str | None:
    """The column of the accuracy in validation: ``val/acc``, or the first whose name has ``val`` and ``acc``."""
    if "val/acc" in names:
        return "val/acc"
    return next((name for name in names if "val" in name.lower() and "acc" in name.lower()), None)


def is_of_validation(name: str) -> bool:
    """Whether a logged figure is one of validation, by its name: ``val/loss``, ``val_acc``, ``valAcc``, ``valid``."""
    return re.match(r"(?i:val(id(ation)?)?)(?![a-z])", name) is not None


@dataclass(frozen=True)
class RunFiles:
    """What a run has left.

    Attributes:
        folder: The run's.
        config: Its settings, from ``config.yaml``.
        summary: Its figures at the end and the parts that it was made of, from ``summary.json``.
        epochs: From ``epochs.csv``: float64[epochs] by column, NaN where a figure was not known.
        labels: From ``labels.npz``: ``train_index`` int64[n], where each sample stands in the data set. Where they are
            known, ``label`` and ``clean_label`` int64[n], ``noise_mask`` bool[n] and ``reference_index`` int64[r].
        record: From ``record.npz``: trajectories, scores, and how likely each label is wrong. Where there were any,
            predictions, with ``classes`` (their names). ``thumbnails`` uint8[k, s, s, 3] of the most suspect samples and,
            of files, ``paths``.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    epochs: dict[str, Array]
    labels: dict[str, Array]
    record: dict[str, Array]

    @property
    def title(self) -> str:
        """What was trained on: the data set and its noise."""
        return ", ".join(filter(None, (self.summary["dataset"], self.summary["noise"])))

    @property
    def mask(self) -> Array | None:
        """bool[n], the wrong labels, where they are known and there are any."""
        mask = self.labels.get("noise_mask")
        return mask if mask is not None and mask.any() else None

    @property
    def is_truth_known(self) -> bool:
        """Whether the labels that are not in the mask are known to be right; else they are only not made wrong."""
        return "clean_label" in self.labels

    @property
    def wrong_labels(self) -> str:
        """What to call those in the mask."""
        return "wrong labels" if self.is_truth_known or self.mask is None else "labels made wrong"

    @property
    def is_all_correct(self) -> bool:
        """Whether the labels are known to be right, all of them."""
        return self.is_truth_known and self.mask is None

    @property
    def suspicion(self) -> Array:
        """float32[n], high is suspect, and finite; NaN where there is no score."""
        return self.record["suspicion"]

    @property
    def unscored(self) -> int:
        """How many samples have no score."""
        return int(np.isnan(self.suspicion).sum())

    @property
    def ranked(self) -> tuple[Array, Array] | None:
        """The mask and the score of the samples that have one, bool[m] and float64[m], as the run's log counts them.

        None where these are not known to be of both kinds.
        """
        known = ~np.isnan(self.suspicion)
        if self.mask is None or len(np.unique(self.mask[known])) < 2:
            return None
        return self.mask[known], self.suspicion[known].astype(np.float64)

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return [str(name) for name in self.record["classes"]]

    @property
    def noise_rate(self) -> float | None:
        """The share of wrong labels as the run has estimated it; None if it has not."""
        rate = self.summary.get("estimated_noise_rate")
        return None if rate is None else float(rate)

    @property
    def caution(self) -> str:
        """What to bear in mind about how many suspects there are; empty if the run has estimated how many are wrong."""
        if self.noise_rate is not None:
            return ""
        return (
            "This run has no estimate of how many labels are wrong. Suspects are found in any scores, also where all labels "
            "are right. Read them from the most suspect on, and not as a count."
        )

    @property
    def wrong_probability(self) -> Array:
        """float64[n], how likely each label is wrong; 0 where there is no score."""
        return self.record["probability"]

    @cached_property
    def suspects(self) -> Array:
        """int64[k], the samples whose label is taken for wrong, the most suspect first."""
        probability = self.wrong_probability
        count = int((probability > 0.5).sum()) if self.noise_rate is None else round(self.noise_rate * len(probability))
        return most_suspect(self.suspicion, count)

    @property
    def has_predictions(self) -> bool:
        """Whether the run kept what its network takes each training sample for."""
        return "predicted" in self.record

    def check_predictions(self) -> None:
        """Refuse a run that kept no predictions.

        Raises:
            ValueError: If it has none.
        """
        if not self.has_predictions:
            raise ValueError(
                f"{self.folder} has no predictions for its training samples, by which labels are judged; train with one "
                "loss of logits and classes in training_step, cross_entropy or nll_loss, that AlignPrune captures."
            )

    @property
    def issues(self) -> Array:
        """int64[k], those of the suspects that the finished network takes for another class, in the same order.

        Raises:
            ValueError: If the run kept no predictions.
        """
        self.check_predictions()
        is_other: Array = self.record["predicted"] != self.labels["label"]
        kept: Array = self.suspects[is_other[self.suspects]]
        return kept


def readable(text: str) -> str:
    """Text in which letters of no known encoding are marked."""
    return os.fsencode(text).decode(errors="replace")


def read_run(folder: Path) -> RunFiles:
    """A run's files.

    Raises:
        ValueError: If one is missing, or is not what such a file is.
    """
    missing = [name for name in (CONFIG, SUMMARY, EPOCHS, LABELS, RECORD) if not (folder / name).is_file()]
    if missing:
        lacks = f"{', '.join(missing)} is missing" if folder.is_dir() else "it is not there"
        why = "it is a file" if folder.is_file() else lacks
        raise ValueError(
            f"{folder} is given, but the folder of a finished run is expected, and {why}; train "
            "with report=true, or give your Trainer a RunFolder."
        )
    config, summary, epochs = read_config(folder), read_summary(folder), read_epochs(folder)
    labels, record = read_labels(folder), _arrays(folder / RECORD)
    wrong = _wrong({SUMMARY: summary, EPOCHS: epochs, LABELS: labels, RECORD: record})
    if wrong:
        raise ValueError(f"{folder} has a file that cannot be read ({wrong}); run it again.")
    record["suspicion"] = bounded(record["suspicion"])
    return RunFiles(folder, config, summary, epochs, labels, record)
