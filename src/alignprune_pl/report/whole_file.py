"""A file is replaced as a whole, or stays as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replaced(path: str | Path) -> Iterator[BinaryIO]:
    """What is written in the block becomes the file ``path`` at the block's end, in one step; its folder is made.

    Whoever reads, and whoever comes after a kill or on a full disk, finds the old file or the new one, never half of it.
    The bytes are written beside their place, and are on the disk before they are put there.

    Raises:
        OSError: If they cannot be written. As after any other exception in the block, the old file is still there, and
            nothing else is.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "run" / "summary.json"
        >>> with replaced(place) as file:
        ...     _ = file.write(b"{}")
        >>> place.read_text()
        '{}'
    """
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = place.with_name(f".{place.name}.part")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, place)
    except BaseException as error:
        with suppress(OSError):  # nothing is left, or nothing can be removed there
            scratch.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(scratch)):
            raise OSError(error.errno, error.strerror, str(place)) from error  # which file it was
        raise
