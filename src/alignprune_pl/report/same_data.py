"""Whether runs trained on the same data, so that one can be better than another."""

from __future__ import annotations

import numpy as np

from alignprune_pl.report.run_files import RunFiles
from alignprune_pl.report.settings import differing, settings_of

_DECIDING = ("dataset.", "noise.", "labels", "data.train_size", "data.imbalance")
# Where files lie, and what becomes of an image once it is read.
_NOT_DECIDING = ("root", "path", "download", "human", "augment", "standardise", "image_size", "mean", "std")


def other_data(run: RunFiles, other: RunFiles) -> str:
    """In what the data of two runs differ, in words; "" where they are the same, as far as the runs tell."""
    if run.title != other.title:
        return f"{run.title} against {other.title}"
    if run.classes != other.classes:
        return f"{len(run.classes)} classes against {len(other.classes)}, or others"
    own, others = _deciding(run), _deciding(other)
    for name in differing(own, others):
        return f"{name}={own.get(name)} against {others.get(name)}"
    # Files that lie elsewhere may be the same ones: the labels tell, before any was made wrong.
    return "" if _have_labels_in_common(run, other) else "other labels of the same samples"


def _deciding(run: RunFiles) -> dict[str, str]:
    return {
        name: value
        for name, value in settings_of(run.config).items()
        if name.startswith(_DECIDING) and name.rpartition(".")[2] not in _NOT_DECIDING
    }


def _have_labels_in_common(run: RunFiles, other: RunFiles) -> bool:
    """Whether no sample of both has another label; True where labels were made wrong and the true ones are not known."""
    name = "clean_label" if all("clean_label" in each.labels for each in (run, other)) else "label"
    if name == "label" and any(each.mask is not None for each in (run, other)):
        return True
    (places, labels), (theirs, expected) = ((each.labels["train_index"], each.labels[name]) for each in (run, other))
    _, here, there = np.intersect1d(places, theirs, return_indices=True)
    return bool((labels[here] == expected[there]).all())
