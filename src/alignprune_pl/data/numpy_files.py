"""The arrays of an ``.npz`` file or of a folder of ``.npy`` files, mapped into memory where that can be."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

from alignprune_pl.data.array_rows import Array
from alignprune_pl.data.files import DataFileError

_EXPECTED = "an .npz file, as numpy.savez writes it, or a folder of .npy files"
# Version 3 is for the names of a structure's fields alone.
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip file: how long the name and the extra field behind it are


@dataclass(frozen=True)
class _Content:
    """An array in a file.

    Attributes:
        path: Of the file.
        start: Its first byte there.
        size: How many bytes it has.
        compressed: The member of the ``.npz`` that must be unpacked; None for one that can be mapped.
    """

    path: Path
    start: int
    size: int
    compressed: ZipInfo | None = None

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        if self.compressed is None:
            with self.path.open("rb") as file:
                file.seek(self.start)
                yield file
        else:
            with ZipFile(self.path) as archive, archive.open(self.compressed) as file:
                yield file


class NumpyFiles:
    """The arrays of an ``.npz`` file, or of a folder of ``.npy`` files.

    An array is mapped, so that only what is asked for is read, unless it is compressed or in Fortran's order. Nothing
    that could run code is read.

    Args:
        path: The file or the folder.

    Attributes:
        names: Of the arrays, in alphabetical order.

    Raises:
        DataFileError: If it is missing, cannot be read or has no arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._contents = _of_folder(path) if path.is_dir() else _of_archive(path)
        except FileNotFoundError as error:
            raise DataFileError(f"{path} is missing; give {_EXPECTED}, as dataset.path=...") from error
        except OSError as error:
            raise DataFileError(f"{path} cannot be read ({error.strerror}); give {_EXPECTED}, that can be.") from error
        except BadZipFile as error:
            raise DataFileError(f"{path} is not a whole .npz file ({error}); give {_EXPECTED}.") from error
        self.names = sorted(self._contents)
        if not self.names:
            raise DataFileError(f"{path} has no .npy files, but some are expected; give {_EXPECTED}.")

    def __contains__(self, name: str) -> bool:
        return name in self._contents

    def where(self, name: str) -> str:
        """An array, for sentences."""
        return f"{name} of {self.path}"

    def shape_and_kind(self, name: str) -> tuple[tuple[int, ...], str]:
        """Of an array that is not read: its shape and NumPy's letter for its kind of dtype."""
        content = self._content(name)
        with self._named(name), content.opened() as file:
            shape, _, dtype = _header(file)
        return shape, dtype.kind

    def is_compressed(self, name: str) -> bool:
        """Whether an array has to be unpacked as a whole."""
        return self._content(name).compressed is not None

    def read(self, name: str) -> Array:
        """An array, not to be written to.

        Raises:
            DataFileError: If there is none of that name, it is not whole, or has Python objects.
        """
        content = self._content(name)
        with self._named(name), content.opened() as file:
            shape, is_fortran, dtype = _header(file)
            if content.compressed is not None:
                file.seek(0)
                return npy.read_array(file, allow_pickle=False)
            start = file.tell()
            needed = start - content.start + prod(shape) * dtype.itemsize
            if content.size < needed:
                raise ValueError(f"it has {content.size:,} bytes of the {needed:,} of {described(shape, dtype)}")
            if 0 in shape:
                return np.empty(shape, dtype)
            mapped = np.memmap(content.path, dtype, "r", start, shape, "F" if is_fortran else "C")
            # A row of Fortran's order would be read from all over the file.
            return np.ascontiguousarray(mapped) if is_fortran and len(shape) > 1 else mapped

    def _content(self, name: str) -> _Content:
        if name not in self._contents:
            raise DataFileError(
                f"{self.path} has no array {name}, but it is expected; add it to {', '.join(self.names)}, which are there."
            )
        return self._contents[name]

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Say which array cannot be read."""
        try:
            yield
        except DataFileError as error:
            raise DataFileError(f"{self.where(name)} {error}") from error.__cause__
        except Exception as error:  # a damaged file can raise nearly anything
            reason = str(error).rstrip(".") or type(error).__name__
            raise DataFileError(f"{self.where(name)} is not a whole array ({reason}); save it again.") from error


def described(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """An array in a sentence: ``float32[100, 7]``."""
    return f"{dtype.name}{list(shape)}"


def _of_folder(path: Path) -> dict[str, _Content]:
    found = (file for file in path.iterdir() if file.suffix == ".npy" and not file.name.startswith("."))
    return {file.stem: _Content(file, 0, file.stat().st_size) for file in found}


def _of_archive(path: Path) -> dict[str, _Content]:
    with ZipFile(path) as archive, path.open("rb") as file:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        return {member.filename.removesuffix(".npy"): _member(path, file, member) for member in members}


def _member(path: Path, file: IO[bytes], member: ZipInfo) -> _Content:
    is_encrypted = member.flag_bits & 1
    if member.compress_type != ZIP_STORED or is_encrypted:
        return _Content(path, 0, member.file_size, member)
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise BadZipFile(f"{member.filename} is not where the archive says")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    return _Content(path, member.header_offset + _LOCAL_HEADER.size + name + extra, member.file_size)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and dtype, of an array that begins here."""
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format is not read")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise DataFileError(
            "has Python objects, which are not read as they could run code; save numbers, or text as str."
        )
    return shape, is_fortran, dtype
