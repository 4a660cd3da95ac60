"""CIFAR-10 and CIFAR-100, from the Python version of the original files."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms import v2

from alignprune_pl.data.sets import ImageSets

# truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog: the field's asymmetric noise on CIFAR-10.
_CIFAR10_MAP = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

# What a pickled CIFAR batch is made of. Nothing else is ever called, so that a file can run no code.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def cifar10(root: str | Path, download: bool = True) -> ImageSets:
    """60,000 colour images of 10 classes, 32 x 32; trained on with reflect-padded crops and flips.

    Args:
        root: The folder that holds ``cifar-10-batches-py``.
        download: Download into ``root`` what is not there.

    Raises:
        FileNotFoundError: If the folder is not there and cannot be downloaded.
        ValueError: If a file is damaged.
    """
    folder = _folder(Path(root), "cifar-10-batches-py", CIFAR10, download)
    train = [_load(folder / f"data_batch_{i}") for i in range(1, 6)]
    test = _load(folder / "test_batch")
    return ImageSets(
        name="cifar10",
        train_images=torch.cat([_images(batch, folder) for batch in train]),
        train_labels=torch.cat([_labels(batch, "labels", folder) for batch in train]),
        test_images=_images(test, folder),
        test_labels=_labels(test, "labels", folder),
        classes=tuple(_load(folder / "batches.meta")["label_names"]),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        class_map=dict(_CIFAR10_MAP),
        augment=_augment(),
    )


def cifar100(root: str | Path, download: bool = True) -> ImageSets:
    """60,000 colour images of 100 classes in 20 superclasses, 32 x 32.

    Asymmetric noise takes a class for the next one of its superclass, cyclically.

    Args:
        root: The folder that holds ``cifar-100-python``.
        download: Download into ``root`` what is not there.

    Raises:
        FileNotFoundError: If the folder is not there and cannot be downloaded.
        ValueError: If a file is damaged.
    """
    folder = _folder(Path(root), "cifar-100-python", CIFAR100, download)
    train, test = _load(folder / "train"), _load(folder / "test")
    fine, coarse = (_labels(train, f"{kind}_labels", folder) for kind in ("fine", "coarse"))
    return ImageSets(
        name="cifar100",
        train_images=_images(train, folder),
        train_labels=fine,
        test_images=_images(test, folder),
        test_labels=_labels(test, "fine_labels", folder),
        classes=tuple(_load(folder / "meta")["fine_label_names"]),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        class_map=superclass_map(fine, coarse),
        augment=_augment(),
    )


def superclass_map(fine: Tensor, coarse: Tensor) -> dict[int, int]:
    """Each fine class to the next one of its superclass, cyclically by number.

    Args:
        fine: int64[n], the samples' classes.
        coarse: int64[n], their superclasses.

    Example:
        >>> superclass_map(torch.tensor([0, 1, 2, 3]), torch.tensor([7, 4, 7, 4]))
        {0: 2, 2: 0, 1: 3, 3: 1}
    """
    members: dict[int, set[int]] = {}
    for f, c in zip(fine.tolist(), coarse.tolist(), strict=True):
        members.setdefault(c, set()).add(f)
    ordered = [sorted(group) for group in members.values()]
    return {group[i]: group[(i + 1) % len(group)] for group in ordered for i in range(len(group))}


def _augment() -> Callable[[Tensor], Tensor]:
    augment: Callable[[Tensor], Tensor] = v2.Compose(
        [v2.RandomCrop(32, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip()]
    )
    return augment


def _folder(root: Path, name: str, download_with: Any, download: bool) -> Path:
    folder = root / name
    if folder.is_dir():
        return folder
    cause: Exception | None = None
    if download:
        try:
            download_with(str(root), download=True)
            return folder
        except Exception as error:  # torchvision raises whatever its downloader met
            cause = error
    raise FileNotFoundError(
        f"dataset.root={root} has no folder {name} and "
        f"{'downloading it failed' if download else 'dataset.download is false'}; point dataset.root at a folder that "
        "has it, unpacked from the archive of the Python version."
    ) from cause


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a CIFAR file")
        return super().find_class(module, name)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing from the CIFAR folder; unpack the archive again.")
    try:
        with path.open("rb") as file:
            loaded = _DataUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path} is not a whole CIFAR file ({error}); unpack the archive again.") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, but a CIFAR file is a dictionary.")
    return loaded


def _images(batch: dict[str, Any], folder: Path) -> Tensor:
    try:
        return torch.as_tensor(batch["data"], dtype=torch.uint8).reshape(-1, 3, 32, 32)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} has a file without whole 32 x 32 images; unpack the archive again.") from error


def _labels(batch: dict[str, Any], key: str, folder: Path) -> Tensor:
    try:
        return torch.as_tensor(batch[key], dtype=torch.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} has a file without {key}; unpack the archive again.") from error
