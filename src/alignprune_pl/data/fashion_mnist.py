"""Fashion-MNIST, from torchvision's folder or from four idx files laid flat."""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from alignprune_pl.data.files import DataFileError, check_classes, found_or_downloaded
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.views import Views

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def fashion_mnist(root: str | Path, download: bool = True) -> Benchmark:
    """70,000 grey images of clothes, 28 x 28.

    Args:
        root: A folder with the four idx files, gzipped or not, or one with ``FashionMNIST/raw`` as torchvision
            lays it out. Debian's package puts them into ``/usr/share/datasets/fashion-mnist``.
        download: Download into ``root`` what is not there.

    Raises:
        FileNotFoundError: If the files are not there and cannot be downloaded.
        DataFileError: If a file is damaged.
    """
    folder = _folder(Path(root), download)
    train, test = (_part(*(_path(folder, name) for name in names)) for names in (_FILES[:2], _FILES[2:]))
    return Benchmark(
        name="fashion_mnist",
        classes=tuple(FashionMNIST.classes),
        views=Views((0.2860,), (0.3530,)),
        train=train,
        evaluated={"test": test},
        clean_labels=train.labels,
    )


def _folder(root: Path, download: bool) -> Path:
    def find() -> Path | None:
        folders = (root, root / "FashionMNIST" / "raw")
        return next((f for f in folders if all(_path(f, name).exists() for name in _FILES)), None)

    return found_or_downloaded(
        find,
        partial(FashionMNIST, str(root), download=True) if download else None,
        f"dataset.root={root} has no Fashion-MNIST ({', '.join(_FILES)}, with or without .gz)",
        "point dataset.root at a folder that has the files, such as /usr/share/datasets/fashion-mnist of Debian's package "
        "dataset-fashion-mnist.",
    )


def _path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _part(images_path: Path, labels_path: Path) -> Part:
    images, labels = _read(images_path).unsqueeze(1), _read(labels_path)
    if len(labels) != len(images):
        raise DataFileError(
            f"{labels_path} has {len(labels)} labels, but {images_path} {len(images)} images; replace both."
        )
    return Part(images, check_classes(labels, len(FashionMNIST.classes), labels_path))


def _read(path: Path) -> Tensor:
    """One idx file; torchvision's reader wants it unpacked."""
    read = read_image_file if "images" in path.name else read_label_file
    try:
        if path.suffix != ".gz":
            return torch.as_tensor(read(str(path)))
        with TemporaryDirectory() as scratch:
            unpacked = Path(scratch) / path.stem
            unpacked.write_bytes(gzip.decompress(path.read_bytes()))
            return torch.as_tensor(read(str(unpacked)))
    except Exception as error:  # a damaged file can raise nearly anything
        raise DataFileError(
            f"{path} is not a whole idx file of Fashion-MNIST; replace it with a fresh copy."
        ) from error
