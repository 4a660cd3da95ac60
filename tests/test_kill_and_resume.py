"""The script that kills a run and resumes it, on fewer kills than it does by itself."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

from helpers import ROOT


@pytest.fixture
def script(monkeypatch):
    """By its own name, under which the processes that it starts find it."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("kill_and_resume")


def test_a_killed_run_loses_nothing(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kill_and_resume.py", "--kills", "4", "--seed", "3", "--seconds", "120"])
    script.main()
    printed = capsys.readouterr().out
    assert "4 kills over" in printed
    assert "every batch, plan, figure and parameter equals the uninterrupted run's" in printed


def test_the_comparison_above_can_fail(script, tmp_path):
    end = {"parameters": "p", "history": [[0, 1]]}

    def run(name, batches, **other):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "batches.txt").write_text("".join(f"{line}\n" for line in batches))
        (folder / "end.json").write_text(json.dumps({**end, **other}))
        return folder

    whole = run("whole", ["0 0 a", "0 1 b"])
    assert script.differences(run("same", ["0 0 a", "0 1 b", "0 1 b"]), whole) == []
    assert "1 batches held other samples" in script.differences(run("other", ["0 0 a", "0 1 b", "0 1 c"]), whole)[0]
    assert "in one of the runs alone" in script.differences(run("fewer", ["0 0 a"]), whole)[0]
    assert script.differences(run("end", ["0 0 a", "0 1 b"], parameters="q"), whole) == ["the parameters differ"]
