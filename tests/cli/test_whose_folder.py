"""A run's folder is its own: whoever else starts, in the same second or with the same name given, is kept out of it."""

from __future__ import annotations

import errno
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from alignprune_pl.cli.folders import check_folder, held, new_folder
from alignprune_pl.report import run_files
from helpers import ROOT, run_code, run_script

SMALL = ("trainer.accelerator=cpu", "trainer.max_epochs=1", "model.hidden=[8]", "data.train_size=200", "report=false")
SETTINGS = {"seed": 0, "data": {"batch_size": 64, "lr": 1e-5}, "ckpt_path": None}


train = partial(run_script, "train.py", *SMALL)


def test_of_many_that_want_a_folder_at_once_each_gets_its_own(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(new_folder, [str(tmp_path / "day" / "second")] * 32))
    expected = ["second", *(f"second-{number}" for number in range(2, 33))]
    assert sorted(Path(folder).name for folder in folders) == sorted(expected)
    assert all(Path(folder).is_dir() for folder in folders)


def test_a_folder_in_one_that_is_read_alone_is_refused_with_a_sentence(tmp_path, monkeypatch):
    def denied(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("os.mkdir", denied)
    with pytest.raises(
        SystemExit, match=r"second cannot be read or written \(Permission denied\); give a place that may be"
    ):
        new_folder(str(tmp_path / "second"))


def test_commands_of_the_same_second_have_a_folder_each(tmp_path):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        hydra = compose("train", return_hydra_config=True).hydra
    for node in (hydra.run, hydra.sweep):
        assert node._get_node("dir")._value().startswith("${new_folder:")
    same = "hydra.run.dir=${new_folder:second}"
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda seed: train(same, f"seed={seed}", cwd=tmp_path), (1, 2)))
    assert [done.returncode for done in both] == [0, 0]
    seeds = set()
    for name in ("second", "second-2"):
        seed = json.loads((tmp_path / name / "summary.json").read_text())["seed"]
        assert run_files.read_config(tmp_path / name)["seed"] == seed
        seeds.add(seed)
    assert seeds == {1, 2}


def test_while_a_command_is_in_a_folder_no_other_is(tmp_path):
    code = "import sys; from pathlib import Path; from alignprune_pl.cli.folders import held; "
    with held(tmp_path / "run"):
        done = run_code(code + "held(Path('run')).__enter__()", cwd=tmp_path)
        assert done.returncode == 1
        assert "ValueError: run is given, but another command is still running in it; wait for its end" in done.stderr
    code += f"h = held(Path('run')); h.__enter__(); import os; os.kill(os.getpid(), {signal.SIGKILL})"
    killed = run_code(code, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    with held(tmp_path / "run"):
        pass


@pytest.mark.parametrize("name", ["LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"])
def test_the_other_processes_of_a_run_are_in_its_folder_too(tmp_path, monkeypatch, name):
    run_files.write_config(tmp_path, {"seed": 1})
    with held(tmp_path):
        monkeypatch.setenv(name, "1")
        with held(tmp_path):
            check_folder(tmp_path, SETTINGS, "hydra.run.dir")


def test_a_disk_without_locks_is_used_without(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with held(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_folder_of_other_settings_is_refused_and_one_of_the_same_is_not(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    check_folder(folder, SETTINGS, "hydra.run.dir")
    run_files.write_config(folder, SETTINGS)
    check_folder(folder, {**SETTINGS, "ckpt_path": "elsewhere.ckpt"}, "hydra.run.dir")
    other = {**SETTINGS, "seed": 1, "callback": {"seed": 1}}
    with pytest.raises(
        ValueError,
        match=r"run holds another run \(seed is 0 there and 1 here\); give another folder by hydra\.run\.dir=\.\.\., or "
        r"go on with that run by ckpt_path=.*run/checkpoints/last\.ckpt\.",
    ):
        check_folder(folder, other, "hydra.run.dir")
    monkeypatch.chdir(tmp_path)
    for checkpoint in ("run/checkpoints/last.ckpt", str(folder / "a.ckpt"), "last"):
        check_folder(folder, {**other, "ckpt_path": checkpoint}, "hydra.run.dir")


@pytest.mark.parametrize("name", ["epochs.csv", "summary.json", "labels.npz", "record.npz"])
def test_a_folder_with_files_of_a_run_without_its_settings_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"holds another run \(with {name}\)"):
        check_folder(tmp_path, SETTINGS, "hydra.run.dir")


def test_a_finished_run_stays_as_it_is_where_another_is_given_its_folder_and_goes_on_where_it_is_resumed(tmp_path):
    def content():
        return {path.name: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    assert train("hydra.run.dir=run", cwd=tmp_path).returncode == 0
    before = content()
    done = train("hydra.run.dir=run", "seed=1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: run holds another run (seed is 0 there and 1 here); give another folder by hydra.run.dir=..., or go on with "
        "that run by ckpt_path=run/checkpoints/last.ckpt.\n"
    )
    assert content() == before
    resume = ("trainer.max_epochs=2", "hydra.run.dir=run", "ckpt_path=run/checkpoints/last.ckpt")
    done = train(*resume, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run_files.read_epochs(tmp_path / "run")["epoch"].tolist() == [0, 1]
