"""The blocks of a page that a script writes, each between two comments; used by the scripts that have a --page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignprune_pl.report.whole_file import replaced


def block_of(page: Path, *names: str) -> tuple[str, str, str]:
    """Which of these blocks a page has, and the page up to its first comment and from the second one on.

    Raises:
        SystemExit: If the page is not there, or has none of them; it names the first.
    """
    text = page.read_text() if page.exists() else ""
    for name in names:
        start, end = _comments(name)
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if found and closed:
            return name, before + start, end + after
    start, end = _comments(names[0])
    raise SystemExit(f"error: {page} is given, but a page with the lines {start} and {end} is expected; add them.")


def fill_block(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what a page has in a block.

    Raises:
        SystemExit: As :func:`block_of`.
    """
    _, before, after = block_of(page, name)
    with replaced(page) as file:
        file.write("\n".join([before, "", *lines, "", after]).encode())


def _comments(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- end of {name} -->"
