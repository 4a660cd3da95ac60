"""A sweep goes on after a job that fails, and tells at its end which have."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest

from helpers import ROOT, run_script

SMALL = ("trainer.accelerator=cpu", "trainer.max_epochs=1", "model.hidden=[8]", "report=false", "hydra.sweep.dir=sweep")
sweep = partial(run_script, "train.py", "-m", *SMALL)
FAILS = """
from alignprune_pl.policies import NoPruning

class Fails(NoPruning):
    def plan(self, scores, ask):
        raise {error}
"""


def folders(tmp_path):
    """Of the jobs that have been started, and of these the ones that have ended."""
    started = sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    return started, [name for name in started if (tmp_path / "sweep" / name / "summary.json").exists()]


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_the_jobs_after_a_bad_one_run_and_the_sweep_fails_with_a_line_for_it(tmp_path, launcher):
    jobs = ("data.train_size=999999,100", "seed=0,1", f"hydra/launcher={launcher}")
    if launcher == "basic":
        done = sweep(*jobs, cwd=tmp_path)
    else:  # whose own processes start from this one's command
        command = [sys.executable, str(ROOT / "scripts/train.py"), "-m", *SMALL, *jobs]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert folders(tmp_path) == (list("0123"), list("23"))
    why = "train_size=999999 is given, but 1 to 1437 is expected, which digits has; None takes all."
    assert done.stderr.endswith(
        "error: 2 jobs of the sweep in sweep failed:\n"
        f"  0  data.train_size=999999 seed=0  {why}\n"
        f"  1  data.train_size=999999 seed=1  {why}\n"
    )
    assert "Traceback" not in done.stderr


def test_a_job_that_fails_by_an_error_of_its_own_code_is_one_that_fails(tmp_path):
    (tmp_path / "mine.py").write_text(FAILS.format(error='RuntimeError("boom\\nin detail")'))
    done = sweep("pruning=none", "pruning._target_=mine.Fails,alignprune_pl.NoPruning", cwd=tmp_path)
    assert done.returncode == 1
    assert folders(tmp_path) == (["0", "1"], ["1"])
    assert "Traceback" in done.stderr  # of the job, where it failed
    assert done.stderr.splitlines()[-1].endswith("RuntimeError: boom in detail")
    again = sweep("seed=1", "hydra.sweep.subdir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr  # the failure was of an earlier sweep


def test_ctrl_c_ends_the_sweep_at_once(tmp_path):
    (tmp_path / "mine.py").write_text(FAILS.format(error="KeyboardInterrupt"))
    done = sweep("pruning=none", "pruning._target_=mine.Fails", "seed=0,1", cwd=tmp_path)
    assert done.returncode != 0
    assert folders(tmp_path) == (["0"], [])


def test_a_job_whose_folder_is_somebodys_fails_and_leaves_it_as_it_is(tmp_path):
    assert sweep("seed=0", "data.train_size=200", cwd=tmp_path).returncode == 0
    before = (tmp_path / "sweep/0/summary.json").read_bytes(), (tmp_path / "sweep/0/config.yaml").read_bytes()
    done = sweep("seed=1,2", "data.train_size=200", cwd=tmp_path)
    assert done.returncode == 1
    assert "  0  seed=1  sweep/0 holds another run (seed is 0 there and 1 here); give another" in done.stderr
    assert folders(tmp_path) == (["0", "1"], ["0", "1"])
    assert before == ((tmp_path / "sweep/0/summary.json").read_bytes(), (tmp_path / "sweep/0/config.yaml").read_bytes())
