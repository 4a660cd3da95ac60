"""The pages under docs/ name tests that exist, and say of each setting what is done about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from alignprune_pl.cli.command_line import add_ratios

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


def commands():
    """Every command line of the training script in the documentation and in the heads of the settings' files."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
    for page in sorted(pages):
        text = page.read_text().replace("\\\n", " ")
        for command in re.findall(r"python scripts/train\.py ([^`\n[]*=[^`\n]*)", text):
            yield pytest.param(command, id=f"{page.name}: {command}"[:80])


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_of_the_training_script_that_is_written_somewhere_can_be_composed(command):
    words = [word for word in command.split("#")[0].split() if word != "-m"]
    assert all("=" in word for word in words), words
    overrides = [word.split(",")[0] for word in words]  # of a sweep, the first run
    add_ratios(overrides)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose("train", overrides)


def test_many_commands_are_written():
    assert len(list(commands())) > 30
