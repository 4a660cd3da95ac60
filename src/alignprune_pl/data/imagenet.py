"""ImageNet and Tiny-ImageNet, from their folders."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from alignprune_pl.data.files import DataFileError, ImageFiles, check_classes, lines
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.views import IMAGENET_MEAN, IMAGENET_STD, CropFlip, Views, random_resized_crops


def imagenet(root: str | Path, num_classes: int = 1000, image_size: int = 224) -> Benchmark:
    """ImageNet-1K: a folder for each class under ``train`` and under ``val``.

    A class is the place of its WordNet id in sorted order, as everywhere in the field.

    Args:
        root: The folder with ``train/WNID/*.JPEG`` and ``val/WNID/*.JPEG``.
        num_classes: How many there must be; 1000 but for a subset of your own.
        image_size: The side of a crop, in pixels.

    Raises:
        DataFileError: If a folder is missing, has no images, or the classes are not as many or not the same.
    """
    root = Path(root)
    views = random_resized_crops(image_size)
    classes, train = folder_per_class(root / "train")
    if len(classes) != num_classes:
        raise DataFileError(
            f"{root / 'train'} has {len(classes)} class folders, but {num_classes} are expected; unpack the rest of the "
            f"archive, or set dataset.num_classes={len(classes)} for a subset."
        )
    _, val = folder_per_class(root / "val", classes)
    return Benchmark("imagenet", classes, views, train, {"test": val}, clean_labels=train.labels)


def tiny_imagenet(root: str | Path, num_classes: int = 200) -> Benchmark:
    """Tiny-ImageNet: 100,000 training and 10,000 validation images of 200 classes, 64 x 64.

    A class is the place of its WordNet id in sorted order, whatever the order of ``wnids.txt``. Trained on with
    reflect-padded crops (8 pixels, as 4 are to CIFAR's 32) and flips.

    Args:
        root: The folder with ``wnids.txt``, ``train/WNID/images`` and ``val/val_annotations.txt``.
        num_classes: How many there must be; 200 but for a subset of your own.

    Raises:
        DataFileError: If a file or folder is missing or a line of the lists is wrong.
    """
    root = Path(root)
    classes = tuple(sorted(line.strip() for _, line in lines(root / "wnids.txt")))
    if len(classes) != num_classes:
        raise DataFileError(
            f"{root / 'wnids.txt'} lists {len(classes)} classes, but {num_classes} are expected; unpack the archive "
            f"again, or set dataset.num_classes={len(classes)} for a subset."
        )
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    _, train = folder_per_class(root / "train", classes, size=(64, 64))
    annotations = root / "val" / "val_annotations.txt"
    paths, labels = [], []
    for number, line in lines(annotations):
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in label_of:
            raise DataFileError(
                f"{annotations}, line {number}, is {line!r}, but an image and one of the {num_classes} classes of "
                "wnids.txt, separated by tabs, are expected; unpack the archive again."
            )
        paths.append(f"images/{name}")
        labels.append(label_of[wnid])
    val = ImageFiles(root / "val", paths, size=(64, 64)).check(annotations)
    return Benchmark(
        name="tiny_imagenet",
        classes=classes,
        views=Views(IMAGENET_MEAN, IMAGENET_STD, train=CropFlip(size=64, padding=8)),
        train=train,
        evaluated={"test": Part(val, check_classes(torch.tensor(labels), num_classes, annotations))},
        clean_labels=train.labels,
    )


def folder_per_class(
    folder: Path, classes: tuple[str, ...] | None = None, size: tuple[int, int] | None = None
) -> tuple[tuple[str, ...], Part]:
    """Images in a folder for each class, or in folders below it.

    Args:
        folder: Its folders are the classes.
        classes: The names that they must have, in the order of the labels; by default those found, sorted.
        size: (H, W) that every image must have; None where they differ.

    Returns:
        The names of the classes, and the images with their labels.

    Raises:
        DataFileError: If the folder is missing, or its classes are others or have no image.
    """
    try:
        found, _ = find_classes(str(folder))
    except OSError as error:
        raise DataFileError(
            f"{folder} is missing or has no folders, but one for each class is expected; unpack or move the images there."
        ) from error
    wanted = tuple(found) if classes is None else classes
    differ = sorted(set(found) ^ set(wanted))
    if differ:
        state = "is missing" if differ[0] in wanted else "is not a class of the training data"
        raise DataFileError(
            f"{folder / differ[0]} {state}, with {len(differ) - 1} more, but a folder for each of the {len(wanted)} "
            "classes is expected; sort the images into them."
        )
    try:
        samples = make_dataset(str(folder), {name: label for label, name in enumerate(wanted)}, IMG_EXTENSIONS)
    except FileNotFoundError as error:  # its sentence names the classes without images
        raise DataFileError(f"{folder}: {error}; unpack the images again.") from error
    below = len(str(folder)) + 1  # not by pathlib, which takes seconds for a million
    files = ImageFiles(folder, [path[below:] for path, _ in samples], size)
    return wanted, Part(files, torch.tensor([label for _, label in samples]))
