"""What goes wrong in a command is told in one sentence, on any console."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_WRITABLE = "give a place that may be written"
_REMEDIES = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room on its disk",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EISDIR: "give the name of a file",
    errno.ENOTDIR: "give the name of a folder",
    errno.EEXIST: "give the name of a folder",
    errno.ENOENT: "give one that exists, or can be made",
}


@contextmanager
def sentences() -> Iterator[None]:
    """A mistake, or a file that cannot be read or written, ends the command with a sentence.

    Raises:
        SystemExit: Instead of the ValueError or OSError, or if the command is interrupted.
    """
    for_any_console()
    try:
        yield
        sys.stdout.flush()  # now, and not when the interpreter has no sentences any more
    except BrokenPipeError:
        _silence()  # who reads has seen enough
        raise SystemExit(1) from None
    except OSError as error:
        if error.filename is None:
            _silence()
        raise SystemExit(f"error: {sentence(error)}") from None
    except ValueError as error:
        raise SystemExit(f"error: {sentence(error)}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def for_any_console() -> None:
    r"""Print what a console's encoding lacks, such as the letters of a name, as ``\xfc``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has none, and no need
            stream.reconfigure(errors="backslashreplace")


def sentence(error: BaseException) -> str:
    """What an error says, and of a file which one, why, and what to do."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    where = "what is printed, or a file," if error.filename is None else os.fsdecode(error.filename)
    remedy = _REMEDIES.get(error.errno, "try again, or give another place")
    return f"{where} cannot be read or written ({error.strerror}); {remedy}."


def _silence() -> None:
    """Lose what is still to be printed, which the interpreter would try once more at its end."""
    with suppress(OSError):  # a notebook's has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
