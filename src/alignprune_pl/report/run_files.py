"""A finished run, read from the files in its folder."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from alignprune_pl.report.detection import bounded, most_suspect, wrong_probability

Array = NDArray[Any]


@dataclass(frozen=True)
class RunFiles:
    """What a run has left.

    Attributes:
        folder: The run's.
        config: Its settings, from ``config.yaml``.
        summary: Its figures at the end and the parts that it was made of, from ``summary.json``.
        epochs: From ``epochs.csv``: float64[epochs] by column, NaN where a figure was not known.
        labels: From ``labels.npz``: ``train_index`` and ``label`` int64[n], and what was known of their truth.
        record: From ``record.npz``: trajectories, scores and predictions, with ``classes`` (their
            names), ``thumbnails`` uint8[k, s, s, 3] of the most suspect samples and, of files, ``paths``.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    epochs: dict[str, Array]
    labels: dict[str, Array]
    record: dict[str, Array]

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
            "This run has no estimate of how many labels are wrong: suspects are found in any scores, also where all labels "
            "are right, so read them from the most suspect on and not as a count."
        )

    @cached_property
    def wrong_probability(self) -> Array:
        """float64[n], how likely each label is wrong; see :func:`~alignprune_pl.report.detection.wrong_probability`."""
        return wrong_probability(self.suspicion, self.noise_rate)

    @cached_property
    def suspects(self) -> Array:
        """int64[k], the samples whose label is taken for wrong, the most suspect first."""
        probability = self.wrong_probability
        count = int((probability > 0.5).sum()) if self.noise_rate is None else round(self.noise_rate * len(probability))
        return most_suspect(self.suspicion, count)

    def check_predictions(self) -> None:
        """Refuse a run that kept no predictions.

        Raises:
            ValueError: If it has none.
        """
        if "predicted" not in self.record:
            raise ValueError(
                f"{self.folder} has no predictions for all of its training samples, by which labels are judged; run "
                "scripts/train.py again without limit_predict_batches and fast_dev_run."
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
    needed = ("config.yaml", "summary.json", "epochs.csv", "labels.npz", "record.npz")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is given, but the folder of a finished run is expected, and {', '.join(missing)} is missing; run "
            "scripts/train.py with report=true."
        )
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        epochs = _columns(folder / "epochs.csv")
        labels, record = (_arrays(folder / name) for name in ("labels.npz", "record.npz"))
        record["suspicion"] = bounded(record["suspicion"])
    except Exception as error:  # a damaged archive can raise nearly anything
        raise ValueError(f"{folder} has a file that cannot be read ({error}); run it again.") from error
    return RunFiles(folder, config, summary, epochs, labels, record)


def _arrays(path: Path) -> dict[str, Array]:
    with path.open("rb") as file, np.load(file) as archive:  # which leaves a damaged one open
        return {name: archive[name] for name in archive.files}


def _columns(path: Path) -> dict[str, Array]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0] if rows else {}
    return {name: np.array([float(row[name] or math.nan) for row in rows]) for name in names}
