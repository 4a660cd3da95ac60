"""Reading a data set's files: images one by one when they are needed, lists line by line, each error naming its file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor


class DataFileError(ValueError):
    """A file of a data set is missing, damaged or not what its name promises."""


class ImageFiles:
    """Images on disk, decoded when they are asked for.

    Args:
        root: The folder that ``paths`` start from.
        paths: One a sample. Kept as one array of bytes, which worker processes share without copying.
        size: (H, W) that every image must have; None where they differ.

    Example:
        >>> len(ImageFiles("photos", ["a.jpg", "b.jpg"]))
        2
    """

    def __init__(self, root: str | Path, paths: Sequence[str], size: tuple[int, int] | None = None) -> None:
        self.root = Path(root)
        self.size = size
        self._paths = np.array([os.fsencode(path) for path in paths], dtype=bytes)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> Path:
        """Of sample ``index``."""
        return self.root / os.fsdecode(bytes(self._paths[index]))

    def paths(self) -> list[str]:
        """Of all samples, from ``root``."""
        return [os.fsdecode(path) for path in self._paths.tolist()]

    def __getitem__(self, index: int) -> Tensor:
        """The image in colour, uint8[3, H, W].

        Raises:
            DataFileError: If the file is missing, no whole image, or of another size than all are to have.
        """
        path = self.path(index)
        try:
            with Image.open(path) as image:
                decoded: Tensor = pil_to_tensor(image.convert("RGB"))
        except FileNotFoundError as error:
            raise DataFileError(f"{path} is missing; restore it from the data set's archive.") from error
        except Exception as error:  # a damaged image can raise nearly anything
            raise DataFileError(f"{path} is not a whole image ({error}); restore it or leave it out.") from error
        if self.size is not None and decoded.shape[1:] != self.size:
            raise DataFileError(
                f"{path} is an image of {decoded.shape[1]} x {decoded.shape[2]} pixels, but {self.size[0]} x "
                f"{self.size[1]} is expected; restore it from the data set's archive."
            )
        return decoded

    def subset(self, indices: Tensor) -> ImageFiles:
        """The images ``indices`` (int64[k]), in their order."""
        chosen = ImageFiles(self.root, [], self.size)
        chosen._paths = self._paths[indices.numpy()]
        return chosen

    def stacked(self) -> Tensor:
        """All images, uint8[n, 3, H, W]; they must have one size."""
        return torch.stack([self[index] for index in range(len(self))])

    def shared_with(self, other: ImageFiles) -> Path | None:
        """The first file that ``other`` has too; None if there is none."""
        theirs = set(other._absolute())
        shared = next((path for path in self._absolute() if path in theirs), None)
        return None if shared is None else Path(os.fsdecode(shared))

    def _absolute(self) -> Iterator[bytes]:
        root = os.fsencode(os.path.abspath(self.root))
        return (os.path.normpath(os.path.join(root, path)) for path in self._paths.tolist())

    def check(self, listed_in: Path) -> ImageFiles:
        """Itself, if every file is there. Lists folders instead of asking for each file: a million takes seconds.

        Args:
            listed_in: Where the paths were read, for the sentence.

        Raises:
            DataFileError: Naming the first file that is missing, and how many are.
        """
        there: dict[bytes, set[bytes]] = {}
        missing = []
        for path in self._paths.tolist():
            folder, name = os.path.split(path)
            if folder not in there:
                there[folder] = _names(self.root / os.fsdecode(folder))
            if name not in there[folder]:
                missing.append(path)
        if missing:
            raise DataFileError(
                f"{self.root / os.fsdecode(missing[0])} is missing, with {len(missing) - 1} more of the {len(self)} files "
                f"that {listed_in} lists; unpack the data set's images under {self.root}."
            )
        return self


def found_or_downloaded(
    find: Callable[[], Path | None], download: Callable[[], object] | None, lacks: str, remedy: str
) -> Path:
    """A data set's folder, downloaded where it is not there.

    Args:
        find: The folder, if all that is needed is in it.
        download: Gets it; None if nothing is to be downloaded.
        lacks: What there is not, for the sentence.
        remedy: What to do.

    Raises:
        FileNotFoundError: If it is not there and was not downloaded.
    """
    folder = find()
    if folder is not None:
        return folder
    cause: Exception | None = None
    if download is not None:
        try:
            download()
            folder = find()
        except Exception as error:  # torchvision raises whatever its downloader met
            cause = error
    if folder is not None:
        return folder
    why = "dataset.download is false" if download is None else "downloading it failed"
    raise FileNotFoundError(f"{lacks} and {why}; {remedy}") from cause


Images = Tensor | ImageFiles
"""uint8[n, C, H, W] in memory, or files."""


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers from 1.

    Raises:
        DataFileError: If the file is missing or is not text.
    """
    if not path.is_file():
        raise DataFileError(f"{path} is missing; it is part of the data set.")
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path} is not a text file ({error}); replace it with a fresh copy.") from error


def paths_and_labels(path: Path, num_classes: int) -> tuple[list[str], list[int]]:
    """A file with an image's path and its label on each line.

    Args:
        path: The file.
        num_classes: C.

    Raises:
        DataFileError: If a line is anything else, a label is outside 0 to C-1, or there is no line.
    """
    paths, labels = [], []
    for number, line in lines(path):
        parts = line.rsplit(maxsplit=1)
        if len(parts) != 2 or not parts[1].isdecimal() or int(parts[1]) >= num_classes:
            raise DataFileError(
                f"{path}, line {number}, is {line!r}, but an image's path and a label from 0 to {num_classes - 1} are "
                "expected; mend the line or replace the file with a fresh copy."
            )
        paths.append(parts[0].strip())
        labels.append(int(parts[1]))
    if not paths:
        raise DataFileError(f"{path} is empty; replace it with a fresh copy.")
    return paths, labels


def check_classes(labels: Tensor, num_classes: int, path: Path) -> Tensor:
    """The labels (int64[n]) as read from a file, if there are any and each is a class.

    Raises:
        DataFileError: If they are not, naming the file.
    """
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        found = f"labels from {int(labels.min())} to {int(labels.max())}" if len(labels) else "no labels"
        raise DataFileError(
            f"{path} has {found}, but at least one, and each from 0 to {num_classes - 1}, is expected; replace it with a "
            "fresh copy."
        )
    return labels


def _names(folder: Path) -> set[bytes]:
    try:
        return set(os.listdir(os.fsencode(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return set()
