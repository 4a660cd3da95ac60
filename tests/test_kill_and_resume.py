"""The script that kills a run and resumes it, on fewer kills than it does by itself."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "kill_and_resume.py"


def test_a_killed_run_loses_nothing(tmp_path):
    command = [sys.executable, str(SCRIPT), "--kills", "6", "--seed", "3", "--seconds", "120"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills over" in done.stdout
    assert "every batch, plan, figure and parameter equals the uninterrupted run's" in done.stdout


def test_the_comparison_above_can_fail(tmp_path):
    spec = importlib.util.spec_from_file_location("kill_and_resume", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
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
