"""What a person decided of labels in a review."""

from __future__ import annotations

import hashlib

from alignprune_pl.report.run_files import RunFiles

VERSION = 1
"""Of the form of a file of decisions."""


def dataset_key(run: RunFiles) -> str:
    """Which data and labels decisions are of: 16 hexadecimal digits of the samples' places, their labels and the classes."""
    digest = hashlib.sha256()
    for name in ("train_index", "label"):
        digest.update(run.labels[name].astype("<i8").tobytes())
    digest.update("\n".join(run.classes).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
