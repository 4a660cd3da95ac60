"""The labels of a run in a file, so that what was published of it can be derived again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alignprune_pl.data.datamodule import NoisyImages


def save_labels(path: Path, data: NoisyImages) -> None:
    """Write a compressed ``.npz`` that ``numpy.load`` reads without pickle; the file is replaced as a whole.

    It has ``train_index``, int64[n], where each training sample stands in the benchmark's training data; ``label``,
    int64[n], what is trained on; ``clean_label``, int64[n], and ``noise_mask``, bool[n], where they are known; and
    ``reference_index``, int64[r], where the reference was split off the training data.

    Args:
        path: Ends in ``.npz``.
        data: The run's.
    """
    arrays: dict[str, Tensor | None] = {
        "train_index": data.train_index,
        "label": data.labels,
        "clean_label": data.clean_labels,
        "noise_mask": data.noise_mask,
        "reference_index": data.reference_index,
    }
    scratch = path.with_suffix(".part.npz")
    known: dict[str, Any] = {name: array.numpy() for name, array in arrays.items() if array is not None}
    np.savez_compressed(scratch, **known)
    os.replace(scratch, path)
