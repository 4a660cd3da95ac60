"""A user's own images: a folder for each class, or CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_utilities.core.rank_zero import rank_zero_info

from alignprune_pl.data.files import DataFileError, ImageFiles
from alignprune_pl.data.folders import class_order, folder_per_class, is_left_out
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.tables import Row, read_table
from alignprune_pl.data.views import IMAGENET_MEAN, IMAGENET_STD, random_resized_crops


def image_folder(
    root: str | Path,
    image_size: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Benchmark:
    """Images in ``train/CLASS/`` and ``val/CLASS/``, with labels of unknown truth.

    Images in ``reference/CLASS/``, where there are any, are the clean reference.

    Args:
        root: The folder that holds them.
        image_size: The side of a crop, in pixels.
        mean: Of each channel, with pixels in [0, 1]; by default ImageNet's.
        std: Of each channel, with pixels in [0, 1]; by default ImageNet's.

    Raises:
        DataFileError: If a folder is missing, or the classes differ.
    """
    root = Path(root)
    classes, train = folder_per_class(root / "train")
    _, val = folder_per_class(root / "val", classes)
    reference = folder_per_class(root / "reference", classes)[1] if (root / "reference").is_dir() else None
    return Benchmark(
        name="image_folder",
        classes=classes,
        views=random_resized_crops(image_size, tuple(mean), tuple(std)),
        train=train,
        evaluated={"test": val},
        reference=reference,
        reference_from="the images in reference/",
    )


def csv_files(
    train: str | Path,
    test: str | Path,
    reference: str | Path | None = None,
    root: str | Path | None = None,
    image_size: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Benchmark:
    """Images listed in CSV files with the columns ``path`` and ``label``, and ``clean_label`` where it is known.

    Labels may be any words; they are numbered in :func:`class_order`. :func:`read_table` says what a file may look like, and
    hidden files are left out as in a folder. With ``clean_label`` in the
    training file the truth is known: it is measured what is kept, and noise models start from it.

    Args:
        train: What is trained on.
        test: What is evaluated on; its ``clean_label``, where there is one, is the label.
        reference: Clean images; by default a share of the training data is split off.
        root: The folder that relative paths start from; by default that of each file.
        image_size: The side of a crop, in pixels.
        mean: Of each channel, with pixels in [0, 1]; by default ImageNet's.
        std: Of each channel, with pixels in [0, 1]; by default ImageNet's.

    Raises:
        DataFileError: If a file is missing, lacks a column or value, or has a label that the training file lacks.
    """
    rows = _rows(Path(train))
    classes = class_order(name for row in rows for name in (row.label, row.clean) if name is not None)
    label_of = {name: label for label, name in enumerate(classes)}
    known = all(row.clean is not None for row in rows)
    return Benchmark(
        name="csv",
        classes=classes,
        views=random_resized_crops(image_size, tuple(mean), tuple(std)),
        train=Part(_images(rows, Path(train), root), torch.tensor([label_of[row.label] for row in rows])),
        evaluated={"test": _clean_part(Path(test), label_of, root)},
        clean_labels=torch.tensor([label_of[row.clean or ""] for row in rows]) if known else None,
        reference=None if reference is None else _clean_part(Path(reference), label_of, root),
        reference_from=f"the images of {reference}",
    )


def _rows(path: Path) -> list[Row]:
    """A table's rows, but for hidden files and those of systems."""
    rows = read_table(path)
    kept = [row for row in rows if not is_left_out(row.path)]
    if len(kept) < len(rows):
        example = next(row.path for row in rows if is_left_out(row.path))
        if not kept:
            raise DataFileError(
                f"{path} lists hidden files alone, such as {example}, but images are expected; list those, or rename them."
            )
        left = len(rows) - len(kept)
        rank_zero_info(
            f"{path}: {left:,} of {len(rows):,} rows are left out: hidden or of a system (such as {example})."
        )
    return kept


def _images(rows: list[Row], path: Path, root: str | Path | None) -> ImageFiles:
    return ImageFiles(path.parent if root is None else root, [row.path for row in rows]).check(path)


def _clean_part(path: Path, label_of: dict[str, int], root: str | Path | None) -> Part:
    rows = _rows(path)
    names = [row.clean or row.label for row in rows]
    unknown = next((row for row, name in zip(rows, names, strict=True) if name not in label_of), None)
    if unknown is not None:
        raise DataFileError(
            f"{path}, line {unknown.number}, has the label {unknown.clean or unknown.label!r}, which the training file "
            "does not have; mend it, or leave the row out."
        )
    return Part(_images(rows, path, root), torch.tensor([label_of[name] for name in names]))
