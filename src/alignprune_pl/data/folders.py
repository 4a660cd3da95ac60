"""A folder for each class: which folders and files count, and the order of the classes."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from PIL import Image

from alignprune_pl.data.files import DataFileError, ImageFiles
from alignprune_pl.data.sets import Part

# What systems and tools put beside images, in lower case; names that begin with a dot are theirs too.
_SYSTEM = {
    ".appledouble",
    ".git",
    ".ipynb_checkpoints",
    ".spotlight-v100",
    ".thumbnails",
    ".trashes",
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "__pycache__",
    "desktop.ini",
    "ehthumbs.db",
    "icon\r",
    "lost+found",
    "system volume information",
    "thumbs.db",
}

# Formats that Pillow knows by name alone, or reads with another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in the order of their labels: whole numbers by number, any other names as words.

    Names stay what they are: ``1`` and ``01`` are two classes, side by side.

    Example:
        >>> class_order(["10", "2", "01", "1"]), class_order(["10", "2", "b"])
        (('01', '1', '2', '10'), ('10', '2', 'b'))
    """
    distinct = sorted(set(names))
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in distinct):
        distinct.sort(key=int)
    return tuple(distinct)


def is_left_out(path: str) -> bool:
    """Whether a path that a table lists is a hidden file, or a system's, or in a system's folder.

    Example:
        >>> is_left_out("__MACOSX/cat/a.png"), is_left_out("cat/._a.png"), is_left_out("/home/me/.cache/cat/a.png")
        (True, True, False)
    """
    *folders, name = path.replace("\\", "/").split("/")
    return _is_hidden(name) or any(folder.lower() in _SYSTEM for folder in folders)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def image_extensions() -> frozenset[str]:
    """Those of all formats that the installed Pillow decodes, plugins that were registered among them."""
    extensions = Image.registered_extensions()
    return frozenset(end for end, form in extensions.items() if form in Image.OPEN and form not in _NOT_DECODED)


def folder_per_class(
    folder: Path, classes: tuple[str, ...] | None = None, size: tuple[int, int] | None = None
) -> tuple[tuple[str, ...], Part]:
    """Images in a folder for each class, or in folders below it.

    Hidden files and folders never count, and neither do those of systems and files that are no images by their
    extension; one line tells how many there are. A folder is read once for each class, by whatever link.

    Args:
        folder: Its folders are the classes.
        classes: The names that they must have, in the order of the labels; by default those found, in :func:`class_order`.
        size: (H, W) that every image must have; None where they differ.

    Returns:
        The names of the classes, and the images with their labels.

    Raises:
        DataFileError: If the folder is missing or cannot be listed, or its classes are others or have no image.
    """
    left = _LeftOut()
    found = _class_folders(folder, left)
    wanted = class_order(found) if classes is None else classes
    differ = sorted(set(found) ^ set(wanted))
    if differ:
        state = "is missing" if differ[0] in wanted else "is not a class of the training data"
        raise DataFileError(
            f"{folder / differ[0]} {state}, with {len(differ) - 1} more, but a folder for each of the {len(wanted)} "
            "classes is expected; sort the images into them."
        )
    extensions = image_extensions()
    images = [sorted(path for top in found[name] for path in _images(top, extensions, left)) for name in wanted]
    empty = [name for name, paths in zip(wanted, images, strict=True) if not paths]
    if empty:
        told = f" ({left})" if left else ""
        raise DataFileError(
            f"{folder / empty[0]} has no image, with {len(empty) - 1} more of the class folders{told}; put the images there "
            "again, or remove the folder."
        )
    if left:
        rank_zero_info(f"{folder}: {left}.")
    below = len(os.path.join(str(folder), ""))  # not by pathlib, which takes seconds for a million
    files = ImageFiles(folder, [os.path.join(*path)[below:] for paths in images for path in paths], size)
    labels = torch.arange(len(wanted)).repeat_interleave(torch.tensor([len(paths) for paths in images]))
    return wanted, Part(files, labels)


class _LeftOut:
    """How much was left out, by the reason, with an example of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, reason: str, path: str) -> None:
        self._counts[reason] += 1
        self._examples.setdefault(reason, os.path.basename(path))

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        reasons = (f"{n:,} {reason} (such as {self._examples[reason]})" for reason, n in self._counts.items())
        return f"{self._counts.total():,} files or folders are left out: {', '.join(reasons)}"


_HIDDEN = "hidden or of a system"
_BESIDE = "beside the class folders"
_NO_IMAGE = "without an image's extension"
_NOWHERE = "linked to nothing"
_AGAIN = "linked to a folder that is read already"


def _class_folders(folder: Path, left: _LeftOut) -> dict[str, list[str]]:
    """The paths of the classes' folders by name; accents are composed in a name, and two that differ in no more are one."""
    found: dict[str, list[str]] = {}
    around = _with_parents(str(folder))
    for entry in _entries(str(folder), "is missing or has no folders, but one for each class is expected"):
        if _is_hidden(entry.name):
            left.add(_HIDDEN, entry.name)
        elif not os.path.isdir(entry.path):
            left.add(_BESIDE, entry.name)
        elif entry.is_symlink() and os.path.realpath(entry.path) in around:
            left.add(_AGAIN, entry.name)
        else:
            if any(unicodedata.category(character) in ("Cc", "Cs") for character in entry.name):
                raise DataFileError(f"{folder} has a folder {entry.name!r}, which is no name of a class; rename it.")
            found.setdefault(unicodedata.normalize("NFC", entry.name), []).append(entry.path)
    if not found:
        raise DataFileError(
            f"{folder} is missing or has no folders, but one for each class is expected; unpack or move the images there."
        )
    return found


def _images(top: str, extensions: frozenset[str], left: _LeftOut) -> Iterator[tuple[str, str]]:
    """Folder and name of each image below a folder; links to folders are followed last, and never to where one has been."""
    seen = _with_parents(os.path.dirname(top)) | _with_parents(os.path.dirname(os.path.realpath(top)))
    folders, links = [top], list[str]()
    while folders or links:
        at = folders.pop() if folders else links.pop()
        where = os.path.realpath(at)
        if where in seen:
            left.add(_AGAIN, at)
            continue
        seen.add(where)
        for entry in _entries(at, "cannot be listed"):
            if _is_hidden(entry.name):
                left.add(_HIDDEN, entry.name)
            elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() not in extensions:
                left.add(_NO_IMAGE, entry.name)
            elif not (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()):
                left.add(_NOWHERE, entry.name)
            else:
                yield at, entry.name
        links.sort(reverse=True)


def _with_parents(folder: str) -> set[str]:
    """Where a folder is and all that it is in."""
    real = Path(os.path.realpath(folder))
    return {str(real), *map(str, real.parents)}


def _entries(folder: str, state: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataFileError(f"{folder} {state} ({error.strerror}); unpack or move the images there.") from error
