"""The labels of a run, and what it found of them, in files, so that what was published of it can be derived again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignprune_pl.data.datamodule import NoisyImages
from alignprune_pl.training.record import RunRecord

_PICTURED = 16


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
    _save(path, {name: array.numpy() for name, array in arrays.items() if array is not None})


def save_record(path: Path, record: RunRecord, data: NoisyImages) -> None:
    """Write what a report and an audit are made from, likewise.

    Besides the arrays of the record there are ``classes``, their names; of the most suspect
    samples ``thumbnail_of``, int64[k], and ``thumbnails``, uint8[k, s, s, 3]; and ``paths``, those of the images in UTF-8,
    where they are files of their own.

    Args:
        path: Ends in ``.npz``.
        record: Has followed the run.
        data: The run's.
    """
    arrays = record.arrays()
    order = torch.from_numpy(arrays["suspicion"]).nan_to_num(-torch.inf).argsort(descending=True, stable=True)
    pictured = order[:_PICTURED]
    paths = data.paths()
    further: dict[str, Any] = {
        "classes": np.array(data.benchmark.classes),
        "thumbnail_of": pictured.numpy(),
        "thumbnails": data.thumbnails(pictured).permute(0, 2, 3, 1).numpy(),
        **({} if paths is None else {"paths": np.array([os.fsencode(name) for name in paths])}),
    }
    _save(path, {**arrays, **further})


def _save(path: Path, arrays: dict[str, Any]) -> None:
    scratch = path.with_suffix(".part.npz")
    np.savez_compressed(scratch, **arrays)
    os.replace(scratch, path)
