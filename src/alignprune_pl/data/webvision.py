"""WebVision 1.0: images that Google found for the names of ImageNet's classes, with whatever label that gave them."""

from __future__ import annotations

from pathlib import Path

import torch

from alignprune_pl.core.checking import check_count, check_number
from alignprune_pl.data.files import DataFileError, ImageFiles
from alignprune_pl.data.folders import folder_per_class
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.text import lines, paths_and_labels
from alignprune_pl.data.views import random_resized_crops

_ALL, _MINI = 1000, 50


def webvision(
    root: str | Path,
    num_classes: int = _ALL,
    imagenet_root: str | Path | None = None,
    reference_per_class: int = 10,
    image_size: int = 224,
) -> Benchmark:
    """The Google subset of WebVision 1.0, in the original or the resized release.

    Nobody knows which training labels are wrong (about 20 %). The validation images are clean: the first
    ``reference_per_class`` of each class, in the list's order, are the reference, and the rest is evaluated on.

    Args:
        root: The folder with ``info``, ``google`` and ``val_images_256`` (or ``val_images``).
        num_classes: The first classes to keep; 50 is mini-WebVision.
        imagenet_root: A folder of ImageNet; its validation images of the same classes, matched by WordNet id, are
            then evaluated on too.
        reference_per_class: Validation images of each class that become the reference.
        image_size: The side of a crop, in pixels.

    Raises:
        ValueError: If ``num_classes`` or ``reference_per_class`` is out of range.
        DataFileError: If a file or folder is missing or a line of the lists is wrong.
    """
    root = Path(root)
    check_number("num_classes", num_classes, f"[2, {_ALL}]", "a number of WebVision's classes")
    check_count("reference_per_class", reference_per_class, 1, "a number of images")
    synsets = root / "info" / "synsets.txt"
    named = [line.split(maxsplit=1) for _, line in lines(synsets)]
    if len(named) != _ALL:
        raise DataFileError(f"{synsets} has {len(named)} lines, but one for each of {_ALL} classes is expected.")
    train = _listed(root / "info" / "train_filelist_google.txt", root, num_classes)
    folder = next((root / name for name in ("val_images_256", "val_images") if (root / name).is_dir()), None)
    if folder is None:
        raise DataFileError(
            f"{root / 'val_images_256'} is missing, and so is val_images; unpack the validation images."
        )
    held_out, val = _split(_listed(root / "info" / "val_filelist.txt", folder, num_classes), reference_per_class)
    wnids = [name[0] for name in named[:num_classes]]
    evaluated = {"test": val}
    if imagenet_root is not None:
        evaluated["imagenet"] = _imagenet_val(Path(imagenet_root) / "val", wnids, synsets)
    return Benchmark(
        name={_ALL: "webvision", _MINI: "webvision_mini"}.get(num_classes, f"webvision ({num_classes} classes)"),
        classes=tuple(name[-1].split(",")[0] for name in named[:num_classes]),
        views=random_resized_crops(image_size),
        train=train,
        evaluated=evaluated,
        reference=held_out,
        reference_from=f"{reference_per_class} of each class's validation images, which are not evaluated on",
    )


def _listed(path: Path, folder: Path, num_classes: int) -> Part:
    """The images of a list, of the first classes."""
    paths, labels = paths_and_labels(path, _ALL)
    kept = [i for i, label in enumerate(labels) if label < num_classes]
    files = ImageFiles(folder, [paths[i] for i in kept]).check(path)
    return Part(files, torch.tensor([labels[i] for i in kept], dtype=torch.int64))


def _split(val: Part, per_class: int) -> tuple[Part, Part]:
    """The first images of each class, and the others."""
    seen = torch.zeros(_ALL, dtype=torch.int64)
    first = torch.zeros(len(val), dtype=torch.bool)
    for i, label in enumerate(val.labels.tolist()):
        first[i] = seen[label] < per_class
        seen[label] += 1
    if bool(first.all()):
        raise ValueError(
            f"reference_per_class={per_class} is given, but that takes all {len(val)} validation images; use a smaller one."
        )
    return val.subset(first.nonzero().squeeze(1)), val.subset((~first).nonzero().squeeze(1))


def _imagenet_val(folder: Path, wnids: list[str], synsets: Path) -> Part:
    missing = [wnid for wnid in wnids if not (folder / wnid).is_dir()]
    if missing:
        raise DataFileError(
            f"{folder / missing[0]} is missing, with {len(missing) - 1} more of the classes in {synsets}; point "
            "dataset.imagenet_root at a folder of ImageNet whose val has a folder for each class."
        )
    classes, part = folder_per_class(folder)
    ours = {wnid: label for label, wnid in enumerate(wnids)}
    label_of = torch.tensor([ours.get(wnid, -1) for wnid in classes])
    kept = (label_of[part.labels] >= 0).nonzero().squeeze(1)
    part = part.subset(kept)
    return Part(part.inputs, label_of[part.labels])
