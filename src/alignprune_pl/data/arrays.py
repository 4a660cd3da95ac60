"""A user's own embeddings, tables or images, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from alignprune_pl.data.array_rows import Array, ArrayRows, as_stored, channels_first, with_one_channel
from alignprune_pl.data.files import DataFileError
from alignprune_pl.data.numpy_files import NumpyFiles, described
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.views import Columns, CropFlip, Views, are_images

_WHOLE = "biu"  # NumPy's kinds of whole numbers
_CHANNELS = (1, 3)
_EXACT_IN_FLOAT32 = (torch.float16, torch.float32, torch.uint8, torch.int8, torch.int16)


def arrays(path: str | Path, labels: str = "train_y", standardise: bool = True, augment: bool = False) -> Benchmark:
    """Inputs and labels from the arrays of an ``.npz`` file, or of a folder of ``.npy`` files.

    There are ``train_x``, ``train_y``, ``test_x`` and ``test_y``, and where they are known ``train_clean`` (the true
    labels), ``reference_x`` and ``reference_y`` (a clean reference of its own) and ``classes`` (their names). Other arrays
    ``train_...`` of labels are further annotations. uint8[n, H, W], [n, H, W, C] and [n, C, H, W] of one or three channels
    are images, normalised by channel. All other numbers are columns, each with mean 0 and standard deviation 1 over the
    training rows; a constant one becomes zero. Arrays that are not compressed stay on disk.

    Args:
        path: The file or the folder.
        labels: The array of the labels that are trained on.
        standardise: Whether columns are; otherwise they are taken as they are.
        augment: Whether images, which then are squares, are cropped and flipped at random in training.

    Raises:
        DataFileError: If a file or an array is missing or not whole, or arrays do not fit each other.
        ValueError: If ``augment`` is asked of what is no square image.
    """
    files = NumpyFiles(Path(path))
    train_x = _inputs(files, "train_x")
    if labels not in files:
        raise DataFileError(_without_labels(files, labels, len(train_x)))
    known = {"given": labels, **({"clean": "train_clean"} if "train_clean" in files else {})}
    train = {what: _labels(files, name, "train_x", len(train_x)) for what, name in known.items()}
    classes = _classes(files, {known[what]: part for what, part in train.items()})
    views = _views(train_x, files.where("train_x"), standardise, augment)
    _tell_of_compressed(files)
    return Benchmark(
        name="arrays",
        classes=classes,
        views=views,
        train=Part(train_x, train["given"]),
        evaluated={"test": _part(files, "test", train_x, classes)},
        clean_labels=train.get("clean"),
        annotations=_annotations(files, len(train_x), len(classes)),
        reference=_part(files, "reference", train_x, classes) if "reference_x" in files else None,
        reference_from="the rows of reference_x",
    )


# ---- inputs -----------------------------------------------------------------------------------------------


def _inputs(files: NumpyFiles, name: str) -> ArrayRows:
    array = files.read(name)
    are = f"{files.where(name)} is {described(array.shape, array.dtype)}"
    if array.dtype.kind not in f"{_WHOLE}f" or not array.ndim:
        raise DataFileError(f"{are}, but numbers [n, ...] are expected; convert them, such as by astype('float32').")
    if 0 in array.shape:
        raise DataFileError(f"{are}, but at least one row and one column are expected; save it again.")
    if not _is_images(array):
        return ArrayRows(array, as_stored if array.ndim > 1 else with_one_channel)
    if array.ndim == 3:
        return ArrayRows(array, with_one_channel)
    first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
    if first == last:
        raise DataFileError(
            f"{are}, but images as uint8[n, H, W], [n, H, W, C] or [n, C, H, W] with C of 1 or 3 are expected; rearrange "
            "them, or save numbers that are no images as int16."
        )
    return ArrayRows(array, as_stored if first else channels_first)


def _is_images(array: Array) -> bool:
    return array.dtype == np.uint8 and array.ndim in (3, 4)


def _part(files: NumpyFiles, part: str, train: ArrayRows, classes: tuple[str, ...]) -> Part:
    """Test or reference, of the same form as what is trained on, with finite numbers and known labels."""
    name = f"{part}_x"
    inputs = _inputs(files, name)
    kinds = {rows.dtype.is_floating_point for rows in (train, inputs)}
    if inputs.shape[1:] != train.shape[1:] or len(kinds) > 1 or are_images(inputs) != are_images(train):
        found, expected = (
            f"{str(rows.dtype).removeprefix('torch.')}{['n', *rows.shape[1:]]}" for rows in (inputs, train)
        )
        raise DataFileError(
            f"{files.where(name)} is {found}, but train_x is {expected}; make both in the same way.".replace("'n'", "n")
        )
    for _ in _finite_blocks(inputs, files.where(name)):
        pass
    labels = _labels(files, f"{part}_y", name, len(inputs))
    _check_known(labels, files.where(f"{part}_y"), classes)
    return Part(inputs, labels)


def _views(rows: ArrayRows, where: str, standardise: bool, augment: bool) -> Views | Columns:
    if are_images(rows):
        height, width = rows.shape[2:]
        if augment and height != width:
            raise ValueError(
                f"dataset.augment=true is given, but {where} has images of {height} x {width} pixels, and squares are "
                "expected; leave it out."
            )
        # The share of the side that CIFAR's and Tiny-ImageNet's protocols take.
        return Views(*_by_channel(rows), train=CropFlip(height, height // 8) if augment else None)
    if augment:
        raise ValueError(
            f"dataset.augment=true is given, but {where} has no images, which are uint8[n, H, W], [n, H, W, C] or "
            "[n, C, H, W]; leave it out."
        )
    mean, deviation = by_column(rows, where)
    if not standardise:
        mean, deviation = np.zeros_like(mean), np.ones_like(deviation)
    calculated = torch.float32 if rows.dtype in _EXACT_IN_FLOAT32 else torch.float64
    return Columns(torch.from_numpy(mean).to(calculated), torch.from_numpy(deviation).to(calculated))


def by_column(rows: ArrayRows, where: str) -> tuple[Array, Array]:
    """Mean and standard deviation of each column, in blocks: no more than one is ever in memory.

    Args:
        rows: [n, ...].
        where: Which array that is, for sentences.

    Returns:
        Two of float64[...]; the deviation of a constant column is 1, and its mean its number exactly.

    Raises:
        DataFileError: If a number is not finite.

    Source: blocks are combined by Chan, Golub and LeVeque, The American Statistician 37 (1983).
    """
    count, first = 0, rows[0].double().numpy()
    mean, squares = np.zeros_like(first), np.zeros_like(first)
    for block in _finite_blocks(rows, where):
        apart = block - first  # zeros, and not rounded numbers, where a column is constant
        own = apart.mean(axis=0)
        gap, share = own - mean, len(block) / (count + len(block))
        squares += ((apart - own) ** 2).sum(axis=0) + gap**2 * (count * share)
        mean += gap * share
        count += len(block)
    deviation = np.sqrt(squares / count)
    return first + mean, np.where(deviation > 0, deviation, 1.0)


def _by_channel(images: ArrayRows) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, with pixels in [0, 1]; of one that is constant the latter is 1."""
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for _, block in images.blocks():
        for channel, count in enumerate(counts):
            count += np.bincount(block[:, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    deviation = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    is_constant = (counts > 0).sum(axis=1) == 1
    return tuple(mean.tolist()), tuple(np.where(is_constant, 1.0, deviation).tolist())


def _finite_blocks(rows: ArrayRows, where: str) -> Iterator[Array]:
    """Blocks of all rows, [b, ...]."""
    for start, block in rows.blocks():
        with np.errstate(over="ignore"):
            is_finite = np.isfinite(block.astype(np.float32, copy=False))
        if not is_finite.all():
            row, *column = np.argwhere(~is_finite)[0].tolist()
            at = column[0] if len(column) == 1 else column
            raise DataFileError(
                f"{where} has {block[(row, *column)]} in row {start + row}, column {at}, but finite numbers of float32 are "
                "expected; mend it, or leave the row out."
            )
        yield block


def _tell_of_compressed(files: NumpyFiles) -> None:
    compressed = [name for name in ("train_x", "test_x", "reference_x") if name in files and files.is_compressed(name)]
    if compressed:
        rank_zero_info(
            f"{files.path}: {', '.join(compressed)} had to be unpacked into memory; numpy.savez writes arrays that are read "
            "from disk by rows."
        )


# ---- labels -----------------------------------------------------------------------------------------------


def _labels(files: NumpyFiles, name: str, of: str, rows: int) -> Tensor:
    """int64[n], from 0."""
    array = files.read(name)
    are = f"{files.where(name)} is {described(array.shape, array.dtype)}"
    if array.dtype.kind not in _WHOLE or array.ndim != 1:
        raise DataFileError(f"{are}, but whole numbers [n], the classes from 0, are expected; number the classes.")
    if len(array) != rows:
        raise DataFileError(f"{are}, but {of} has {rows} rows; give one label for each.")
    labels = torch.from_numpy(array.astype(np.int64))
    if int(labels.min()) < 0:
        row = int((labels < 0).nonzero()[0])
        raise DataFileError(
            f"{files.where(name)} has the label {int(labels[row])} in row {row}, but classes from 0 are expected; number "
            "them so, or leave the row out."
        )
    return labels


def _classes(files: NumpyFiles, train: dict[str, Tensor]) -> tuple[str, ...]:
    """The names of the classes, which are as many as the training labels have, or as are named."""
    if "classes" in files:
        array = files.read("classes")
        if array.ndim != 1 or array.dtype.kind not in f"{_WHOLE}US":
            raise DataFileError(
                f"{files.where('classes')} is {described(array.shape, array.dtype)}, but one word for each class is "
                "expected; save it by numpy.array([...], dtype=str)."
            )
        names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in array.tolist())
    else:
        rows = len(next(iter(train.values())))
        most = max(int(labels.max()) for labels in train.values())
        # A number that stands for no class, such as an id, would make a network of as many outputs.
        names = tuple(str(label) for label in range(min(most + 1, rows)))
        found = torch.cat([labels.unique() for labels in train.values()]).unique()
        if len(names) == most + 1 > len(found):
            missing = min(set(range(most + 1)) - set(found.tolist()))
            raise DataFileError(
                f"{files.where(next(iter(train)))} has labels up to {most} but none of class {missing}, and all classes "
                "from 0 on are expected; number them so, or name them all in the array classes."
            )
    for name, labels in train.items():
        _check_known(labels, files.where(name), names)
    return names


def _check_known(labels: Tensor, where: str, classes: tuple[str, ...]) -> None:
    unknown = (labels >= len(classes)).nonzero()
    if len(unknown):
        row = int(unknown[0])
        raise DataFileError(
            f"{where} has the label {int(labels[row])} in row {row}, but the {len(classes)} classes of the training data "
            f"are 0 to {len(classes) - 1}; mend it, or name all classes in the array classes."
        )


def _labellings(files: NumpyFiles, rows: int) -> list[str]:
    """The arrays that may be labels of the training rows."""
    shapes = {
        name: files.shape_and_kind(name) for name in files.names if name.startswith("train_") and name != "train_x"
    }
    return [name for name, (shape, kind) in shapes.items() if shape == (rows,) and kind in _WHOLE]


def _annotations(files: NumpyFiles, rows: int, classes: int) -> dict[str, Tensor]:
    """Every labelling but the true one, if it is of these classes."""
    names = [name for name in _labellings(files, rows) if name != "train_clean"]
    read = {name: torch.from_numpy(files.read(name).astype(np.int64)) for name in names}
    return {name: labels for name, labels in read.items() if 0 <= int(labels.min()) <= int(labels.max()) < classes}


def _without_labels(files: NumpyFiles, labels: str, rows: int) -> str:
    found, start = (
        _labellings(files, rows),
        f"{files.path} has no array {labels}, but the labels to train on are expected",
    )
    if not found:
        return f"{start}; add them to {', '.join(files.names)}, which are there."
    return f"{start}; choose those that it has by dataset.labels=NAME: {', '.join(found)}."
