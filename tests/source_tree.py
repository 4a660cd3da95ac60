"""The package's source as a tree of text, for tests of what it may and may not contain."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "alignprune_pl"

Tree = dict[str, str]
"""Of each file its text, by its path below the package, such as ``core/plan.py``."""


def package_tree() -> Tree:
    return {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
