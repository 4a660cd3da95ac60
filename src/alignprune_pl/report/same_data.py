"""Whether runs trained on the same data, so that one can be better than another."""

from __future__ import annotations

import numpy as np

from alignprune_pl.report.run_files import RunFiles
from alignprune_pl.report.settings import differing, settings_of

# What decides it besides the files, which may lie elsewhere on another machine.
_DECIDING = ("dataset.labels", "dataset.annotation", "dataset.num_classes", "data.train_size", "data.imbalance")


def other_data(run: RunFiles, other: RunFiles) -> str:
    """In what the data of two runs differ, in words; "" where they are the same, as far as the runs tell."""
    if run.title != other.title:
        return f"{run.title} against {other.title}"
    if run.classes and other.classes and run.classes != other.classes:
        return f"{len(run.classes)} classes against {len(other.classes)}, or others"
    own, others = settings_of(run.config), settings_of(other.config)
    for name in differing(own, others):
        if name in own and name in others and _decides(name, own[name], others[name]):
            return f"{name}={own[name]} against {others[name]}"
    # Files that lie elsewhere may be the same ones: the labels tell, before any was made wrong.
    return "" if _have_labels_in_common(run, other) else "other labels of the same samples"


def _decides(name: str, *values: str) -> bool:
    """Whether a setting of such different values decides what the data are; which file of labels, these tell themselves."""
    if name == "labels":
        return "None" in values
    return name in _DECIDING or (name.startswith("noise.") and name != "noise.matrix")


def _have_labels_in_common(run: RunFiles, other: RunFiles) -> bool:
    """Whether no sample of both has another label; True where labels were made wrong and the true ones are not known."""
    both = run.labels, other.labels
    name = "clean_label" if all("clean_label" in labels for labels in both) else "label"
    is_made = name == "label" and (run.mask is not None or other.mask is not None)
    if is_made or not all(name in labels for labels in both):
        return True
    (places, labels), (theirs, expected) = ((each["train_index"], each[name]) for each in both)
    found = np.full(1 + max(part.max(initial=-1) for part in (places, theirs)), -1)
    found[places] = labels
    return bool(((found[theirs] < 0) | (found[theirs] == expected)).all())
