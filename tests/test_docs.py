"""The pages under docs/ name tests that exist, and say of each setting what is done about it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (ROOT / "docs" / "trainer-settings.md").read_text()


def test_every_test_that_the_docs_name_exists():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^def (test_\w+)", tests, flags=re.MULTILINE))
    named = {name for page in (ROOT / "docs").rglob("*.md") for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named) > 50
    assert named - there == set()


def test_every_row_of_the_settings_has_a_test_or_says_that_it_has_none():
    rows = [line for line in SETTINGS.splitlines() if line.startswith("| ") and not line.startswith("| setting")]
    assert len(rows) > 60
    for row in rows:
        _, _, done, test, _ = (cell.strip() for cell in row.split("|"))
        assert done
        assert test.startswith("`test_") or done.startswith("untested"), row
