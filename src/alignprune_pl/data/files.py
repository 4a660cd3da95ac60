"""Images on disk, decoded when they are needed, each error naming its file."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from alignprune_pl.core.pictures import PictureError, in_colour
from alignprune_pl.data.array_rows import ArrayRows


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
        """The image in colour, as a person sees it (:func:`in_colour`), uint8[3, H, W].

        Raises:
            DataFileError: If the file is missing, no whole image, one that nobody can say how to show, or of another size
                than all are to have.
        """
        path = self.path(index)
        decoded = _decoded(path)
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

    def resolved(self) -> Iterator[bytes]:
        """Where each file is, with links followed: what an image is known by."""

        @cache
        def known(folder: bytes) -> tuple[bytes, dict[bytes, bool]]:
            return os.path.realpath(folder), _files_in(folder)

        root = os.fsencode(self.root)
        for path in self._paths.tolist():
            folder, name = os.path.split(os.path.join(root, path))
            real, is_link = known(folder)
            found = os.path.join(real, name)
            yield os.path.realpath(found) if is_link.get(name, True) else found

    def check(self, listed_in: Path) -> ImageFiles:
        """Itself, if every file is there. Lists folders instead of asking for each file: a million takes seconds.

        A path that is not there as it is written is looked for with its backslashes as slashes, and with its accents
        composed as they are on disk.

        Args:
            listed_in: Where the paths were read, for the sentence.

        Raises:
            DataFileError: Naming the first file that is missing, and how many are.
        """
        files = cache(lambda folder: _files_in(os.fsencode(self.root / os.fsdecode(folder))))
        names = cache(_names_by_form)
        missing, found = [], {}
        for index, path in enumerate(self._paths.tolist()):
            folder, name = os.path.split(path)
            if name not in files(folder):
                other = _spelled(self.root, os.fsdecode(path), names)
                if other is None:
                    missing.append(path)
                else:
                    found[index] = other
        if missing:
            first = self.root / os.fsdecode(missing[0])
            state = "a folder" if os.path.isdir(first) else "missing"
            raise DataFileError(
                f"{first} is {state}, with {len(missing) - 1} more of the {len(self)} files that {listed_in} lists; unpack "
                f"the data set's images under {self.root}."
            )
        return self._respelled(found, listed_in) if found else self

    def _respelled(self, found: dict[int, str], listed_in: Path) -> ImageFiles:
        paths = self.paths()
        first = next(iter(found))
        rank_zero_info(
            f"{listed_in}: {len(found):,} of {len(self):,} paths are spelled otherwise on disk (slashes or accents), such "
            f"as {paths[first]!r} as {found[first]!r}; those files are read."
        )
        return ImageFiles(self.root, [found.get(index, path) for index, path in enumerate(paths)], self.size)


def _decoded(path: Path) -> Tensor:
    try:
        # Not opened by name: Pillow then maps a TIFF into memory, and mixes up the rows of one that EXIF turns.
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataFileError(f"{path} is missing; restore it from the data set's archive.") from error
    except OSError as error:
        raise DataFileError(f"{path} cannot be read ({error.strerror}); mend that or leave it out.") from error
    try:
        with file, Image.open(file) as image:
            decoded: Tensor = pil_to_tensor(in_colour(image))
    except PictureError as error:
        raise DataFileError(f"{path} {error}; save it with 8 or 16 bits a channel, or leave it out.") from error
    except Image.DecompressionBombError as error:
        raise DataFileError(
            f"{path} has more pixels than Pillow opens ({error}); make it smaller or leave it out."
        ) from error
    except Exception as error:  # a damaged image can raise nearly anything
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no format that Pillow knows" if is_unknown else str(error) or type(error).__name__
        raise DataFileError(f"{path} is not a whole image ({reason}); restore it or leave it out.") from error
    return decoded


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


Inputs = Tensor | ArrayRows | ImageFiles
"""Images uint8[n, C, H, W] or other numbers [n, ...], in memory or in an array; or files of images."""


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


def _files_in(folder: bytes) -> dict[bytes, bool]:
    """The names of the files in a folder, and whether each is a link; links that lead nowhere are left out."""
    try:
        with os.scandir(folder) as entries:
            # The kind of a link's target is asked by path, which says no where an entry would raise.
            return {
                entry.name: entry.is_symlink()
                for entry in entries
                if (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file())
            }
    except PermissionError as error:
        raise DataFileError(f"{os.fsdecode(folder)} cannot be listed ({error.strerror}); let it be read.") from error
    except OSError:
        return {}


def _names_by_form(folder: Path) -> dict[str, str]:
    """The names in a folder by their composed form."""
    try:
        return {unicodedata.normalize("NFC", name): name for name in sorted(os.listdir(folder))}
    except OSError:
        return {}


def _spelled(root: Path, path: str, names: Callable[[Path], dict[str, str]]) -> str | None:
    """How a file's path is spelled on disk, if it is there; ``names`` are those of a folder by their composed form."""
    found = Path()
    for part in PurePosixPath(path.replace("\\", "/")).parts:
        if os.path.exists(root / found / part):
            found /= part
        else:
            name = names(root / found).get(unicodedata.normalize("NFC", part))
            if name is None:
                return None
            found /= name
    return str(found) if os.path.isfile(root / found) else None
