"""A user's own images: a folder for each class, or CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alignprune_pl.data.files import DataFileError, ImageFiles
from alignprune_pl.data.imagenet import folder_per_class
from alignprune_pl.data.sets import Benchmark, Part
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

    Labels may be any words; they are numbered in sorted order (numbers as numbers). With ``clean_label`` in the
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
    rows = _read(Path(train))
    names = {row.label for row in rows} | {row.clean for row in rows if row.clean is not None}
    classes = tuple(sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))
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


@dataclass(frozen=True)
class _Row:
    number: int
    path: str
    label: str
    clean: str | None


def _read(path: Path) -> list[_Row]:
    if not path.is_file():
        raise DataFileError(f"{path} is missing; a CSV file with the columns path and label is expected.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_rows(csv.DictReader(file), path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataFileError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one.") from error
    if not rows:
        raise DataFileError(f"{path} has no rows, but one for each image is expected.")
    return rows


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[_Row]:
    columns = reader.fieldnames or []
    if not {"path", "label"} <= set(columns):
        raise DataFileError(
            f"{path} has the columns {', '.join(columns) or '(none)'}, but path and label are expected; name them so."
        )
    for row in reader:
        values = {name: (row.get(name) or "").strip() for name in ("path", "label", "clean_label")}
        needed = [name for name in ("path", "label", "clean_label") if name in columns and not values[name]]
        if needed:
            raise DataFileError(
                f"{path}, line {reader.line_num}, has no {needed[0]}; give it, or leave the column out of the whole file."
            )
        yield _Row(reader.line_num, values["path"], values["label"], values["clean_label"] or None)


def _images(rows: list[_Row], path: Path, root: str | Path | None) -> ImageFiles:
    return ImageFiles(path.parent if root is None else root, [row.path for row in rows]).check(path)


def _clean_part(path: Path, label_of: dict[str, int], root: str | Path | None) -> Part:
    rows = _read(path)
    names = [row.clean or row.label for row in rows]
    unknown = next((row for row, name in zip(rows, names, strict=True) if name not in label_of), None)
    if unknown is not None:
        raise DataFileError(
            f"{path}, line {unknown.number}, has the label {unknown.clean or unknown.label!r}, which the training file "
            "does not have; mend it, or leave the row out."
        )
    return Part(_images(rows, path, root), torch.tensor([label_of[name] for name in names]))
