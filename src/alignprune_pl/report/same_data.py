"""Whether runs trained on the same data, so that one can be better than another."""

from __future__ import annotations

import numpy as np

from alignprune_pl.report.run_files import RunFiles
from alignprune_pl.report.settings import settings_of

# What decides it besides the files, which may lie elsewhere on another machine.
_DECIDING = ("dataset.labels", "dataset.annotation", "dataset.num_classes", "data.train_size", "data.imbalance")


def other_data(run: RunFiles, other: RunFiles) -> str:
    """In what the data of two runs differ, in words; "" where they are the same, as far as the runs tell."""
    if run.title != other.title:
        return f"{run.title} against {other.title}"
    if run.classes and other.classes and run.classes != other.classes:
        return f"{len(run.classes)} classes against {len(other.classes)}, or others"
    own, others = settings_of(run.config), settings_of(other.config)
    for name in own.keys() & others.keys():
        is_mended = name == "labels" and "None" in (own[name], others[name])
        if own[name] != others[name] and (name in _DECIDING or is_mended or _is_of_noise(name)):
            return f"{name}={own[name]} against {others[name]}"
    # Files that lie elsewhere may be the same ones: the labels tell, before any was made wrong.
    return "" if _have_labels_in_common(run, other) else "other labels of the same samples"


def _is_of_noise(name: str) -> bool:
    return name.startswith("noise.") and name != "noise.matrix"  # which is a file


def _have_labels_in_common(run: RunFiles, other: RunFiles) -> bool:
    """Whether no sample of both has another label; True where labels were made wrong and the true ones are not known."""
    both = run.labels, other.labels
    name = "clean_label" if all("clean_label" in labels for labels in both) else "label"
    is_made = name == "label" and (run.mask is not None or other.mask is not None)
    if is_made or not all(name in labels for labels in both):
        return True
    (places, labels), (theirs, expected) = ((each["train_index"], each[name]) for each in both)
    if np.array_equal(places, theirs):
        return np.array_equal(labels, expected)
    _, here, there = np.intersect1d(places, theirs, assume_unique=True, return_indices=True)
    return np.array_equal(labels[here], expected[there])
