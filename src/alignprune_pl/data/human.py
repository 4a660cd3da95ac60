"""The human labels of CIFAR-10N and CIFAR-100N, beside the images that they are for."""

from __future__ import annotations

import _codecs
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignprune_pl.data.files import DataFileError
from alignprune_pl.data.sets import Benchmark

# numpy moved its internals in 2.0; the files name the old place or, saved anew, the new one.
_CORE = np.core if np.lib.NumpyVersion(np.__version__) < "2.0.0" else np._core  # type: ignore[attr-defined]

# What an array of integers in a .pt file is made of: torch's own safe loader lets nothing else be called.
_ARRAYS: list[Any] = [
    (_CORE.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (_CORE.multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    type(np.dtype(np.int64)),
    _codecs.encode,
]


def human_labels(benchmark: Benchmark, name: str, path: Path, keys: Mapping[str, str]) -> Benchmark:
    """The benchmark with human labels of its training images.

    Args:
        benchmark: Its clean labels are compared with the file's.
        name: Of the benchmark with human labels.
        path: A file of Wei et al. (ICLR 2022, "Learning with Noisy Labels Revisited").
        keys: Our names of the sets of labels to the file's.

    Raises:
        DataFileError: If the file is missing, damaged, or belongs to other images or another order of them.
    """
    loaded = _load(path)
    clean = _labels(loaded, "clean_label", path, benchmark)
    wrong = (clean != benchmark.train.labels).nonzero().squeeze(1)
    if len(wrong):
        raise DataFileError(
            f"{path} gives another clean_label than {benchmark.name} for {len(wrong)} of {len(clean)} images, the first "
            f"of them number {int(wrong[0])}; both must be the original files, in the order of the Python version."
        )
    annotations = {ours: _labels(loaded, theirs, path, benchmark) for ours, theirs in keys.items()}
    return replace(benchmark, name=name, annotations=annotations)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataFileError(
            f"{path} is missing; give the file of human labels, from the authors of CIFAR-N, as dataset.human=..."
        )
    try:
        with torch.serialization.safe_globals(_ARRAYS):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        reason = " ".join(str(error).split("WeightsUnpickler error:")[-1].split())[:120]
        raise DataFileError(
            f"{path} is not a whole file of human labels ({reason}); replace it with a fresh copy."
        ) from error
    if not isinstance(loaded, dict):
        raise DataFileError(
            f"{path} holds a {type(loaded).__name__}, but a file of human labels is a dictionary; replace it."
        )
    return loaded


def _labels(loaded: Mapping[str, Any], key: str, path: Path, benchmark: Benchmark) -> Tensor:
    n, num_classes = len(benchmark.train), benchmark.num_classes
    found = loaded.get(key)
    labels = torch.as_tensor(found) if isinstance(found, np.ndarray) and found.dtype == np.int64 else None
    whole = labels is not None and labels.shape == (n,) and 0 <= int(labels.min()) <= int(labels.max()) < num_classes
    if labels is None or not whole:
        given = f"{found.dtype}{list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise DataFileError(
            f"{path} has {given} as {key}, but int64[{n}] of classes 0 to {num_classes - 1}, one for each training image "
            f"of {benchmark.name}, is expected; use the original file."
        )
    return labels
