"""CIFAR-10 and CIFAR-100 from the Python version of the original files, and their human labels."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100

from alignprune_pl.data.files import DataFileError, check_classes, found_or_downloaded
from alignprune_pl.data.human import human_labels
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.views import CropFlip, Views

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


def cifar10(root: str | Path, download: bool = True) -> Benchmark:
    """60,000 colour images of 10 classes, 32 x 32; trained on with reflect-padded crops and flips.

    Args:
        root: The folder that holds ``cifar-10-batches-py``.
        download: Download into ``root`` what is not there.

    Raises:
        FileNotFoundError: If the folder is not there and cannot be downloaded.
        DataFileError: If a file is missing or damaged.
    """
    folder = _folder(Path(root), "cifar-10-batches-py", CIFAR10, download)
    names = _names(folder / "batches.meta", "label_names", 10)
    train = [_part(folder / f"data_batch_{i}", "labels", 10) for i in range(1, 6)]
    labels = torch.cat([part.labels for part in train])
    return Benchmark(
        name="cifar10",
        classes=names,
        views=_views((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        train=Part(torch.cat([part.inputs for part in train if isinstance(part.inputs, Tensor)]), labels),
        evaluated={"test": _part(folder / "test_batch", "labels", 10)},
        clean_labels=labels,
        class_map=dict(_CIFAR10_MAP),
    )


def cifar100(root: str | Path, download: bool = True) -> Benchmark:
    """60,000 colour images of 100 classes in 20 superclasses, 32 x 32.

    Asymmetric noise takes a class for the next one of its superclass, cyclically.

    Args:
        root: The folder that holds ``cifar-100-python``.
        download: Download into ``root`` what is not there.

    Raises:
        FileNotFoundError: If the folder is not there and cannot be downloaded.
        DataFileError: If a file is missing or damaged.
    """
    folder = _folder(Path(root), "cifar-100-python", CIFAR100, download)
    names = _names(folder / "meta", "fine_label_names", 100)
    train = _part(folder / "train", "fine_labels", 100)
    coarse = _part(folder / "train", "coarse_labels", 20).labels
    return Benchmark(
        name="cifar100",
        classes=names,
        views=_views((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        train=train,
        evaluated={"test": _part(folder / "test", "fine_labels", 100)},
        clean_labels=train.labels,
        class_map=superclass_map(train.labels, coarse),
    )


def cifar10n(root: str | Path, human: str | Path, download: bool = True) -> Benchmark:
    """CIFAR-10 with the labels of three people for each training image (Wei et al., ICLR 2022).

    Its annotations: ``aggregate`` (their majority, 9 % wrong), ``worst`` (a wrong one if any is, 40 %), ``random1``,
    ``random2``, ``random3`` (each person's, 17 to 18 %).

    Args:
        root: The folder that holds ``cifar-10-batches-py``.
        human: The file ``CIFAR-10_human.pt``.
        download: Download the images into ``root`` if they are not there.

    Raises:
        FileNotFoundError: If the images are not there and cannot be downloaded.
        DataFileError: If a file is missing or damaged, or the human labels belong to other images.
    """
    names = {
        "aggregate": "aggre_label",
        "worst": "worse_label",
        **{f"random{i}": f"random_label{i}" for i in (1, 2, 3)},
    }
    return human_labels(cifar10(root, download), "cifar10n", Path(human), names)


def cifar100n(root: str | Path, human: str | Path, download: bool = True) -> Benchmark:
    """CIFAR-100 with one person's label for each training image (Wei et al., ICLR 2022).

    Its annotation: ``noisy_fine``, 40 % wrong.

    Args:
        root: The folder that holds ``cifar-100-python``.
        human: The file ``CIFAR-100_human.pt``.
        download: Download the images into ``root`` if they are not there.

    Raises:
        FileNotFoundError: If the images are not there and cannot be downloaded.
        DataFileError: If a file is missing or damaged, or the human labels belong to other images.
    """
    return human_labels(cifar100(root, download), "cifar100n", Path(human), {"noisy_fine": "noisy_label"})


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


def _views(mean: tuple[float, ...], std: tuple[float, ...]) -> Views:
    return Views(mean, std, train=CropFlip(size=32, padding=4))


def _folder(root: Path, name: str, download_with: Any, download: bool) -> Path:
    return found_or_downloaded(
        lambda: root / name if (root / name).is_dir() else None,
        partial(download_with, str(root), download=True) if download else None,
        f"dataset.root={root} has no folder {name}",
        "point dataset.root at a folder that has it, unpacked from the archive of the Python version.",
    )


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a CIFAR file")
        return super().find_class(module, name)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataFileError(f"{path} is missing from the CIFAR folder; unpack the archive again.")
    try:
        with path.open("rb") as file:
            loaded = _DataUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataFileError(f"{path} is not a whole CIFAR file ({error}); unpack the archive again.") from error
    if not isinstance(loaded, dict):
        raise DataFileError(f"{path} holds a {type(loaded).__name__}, but a CIFAR file is a dictionary.")
    return loaded


def _part(path: Path, key: str, num_classes: int) -> Part:
    loaded = _load(path)
    try:
        images = torch.as_tensor(loaded["data"], dtype=torch.uint8).reshape(-1, 3, 32, 32)
        labels = torch.as_tensor(loaded[key], dtype=torch.int64)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataFileError(
            f"{path} has no whole 32 x 32 images or no {key} ({error}); unpack the archive again."
        ) from error
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataFileError(f"{path} has {len(images)} images, but {labels.numel()} {key}; unpack the archive again.")
    return Part(images, check_classes(labels, num_classes, path))


def _names(path: Path, key: str, count: int) -> tuple[str, ...]:
    names = _load(path).get(key)
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise DataFileError(f"{path} has no list of {count} {key}; unpack the archive again.")
    return tuple(names)
