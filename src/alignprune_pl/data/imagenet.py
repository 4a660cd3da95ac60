"""ImageNet and Tiny-ImageNet, from their folders."""

from __future__ import annotations

from pathlib import Path

import torch

from alignprune_pl.data.files import DataFileError, ImageFiles, check_classes
from alignprune_pl.data.folders import class_order, folder_per_class
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.text import lines
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
    classes = class_order(line.strip() for _, line in lines(root / "wnids.txt"))
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
                f"{annotations}, line {number}, is {line[:80]!r}, but an image and one of the {num_classes} classes of "
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
