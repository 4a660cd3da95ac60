"""A file that cannot be read or written, a damaged one and a poor console: a sentence each, and nothing finished is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alignprune_pl.cli import command_line
from alignprune_pl.cli.sentences import sentence
from alignprune_pl.report import read_table
from helpers import ROOT, run_code, run_script

SMALL = ("trainer.accelerator=cpu", "trainer.max_epochs=3", "model.hidden=[8]", "data.train_size=200", "report=true")
SMALL += ("hydra.run.dir=run",)

# Of ten classes, some hard to print.
NAMES = ["日本", "日本 NA", "日本,a", "NA", "01", "日本[b]", '"日本"', "日本\x85.", "日本e", "日本n"]


def command(script, *arguments, cwd, **environment):
    """A command in an interpreter of its own, as what it prints in is chosen when that starts."""
    code = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(code, cwd=cwd, capture_output=True, env={**os.environ, **environment})


@pytest.fixture
def run(run_dir, tmp_path):
    """A copy of a run, whose classes have names that are hard to print."""
    shutil.copytree(run_dir, tmp_path / "run")
    with np.load(tmp_path / "run/record.npz") as record:
        known = {**record, "classes": np.array(NAMES)}
    np.savez(tmp_path / "run/record.npz", **known)
    return tmp_path / "run"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_are_printed_on_any_console(run, tmp_path, encoding):
    done = command("audit.py", "run", cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    said, table = done.stdout.decode(encoding), read_table(run / "label_issues.csv")
    assert ("日本" in said, "\\u65e5\\u672c" in said) == (encoding == "utf-8", encoding != "utf-8")
    assert table["given_name"].tolist() == [NAMES[label] for label in table["given_label"]]


def test_what_is_printed_on_a_full_disk_or_to_nobody_ends_in_a_sentence_or_silently(run, tmp_path):
    script = [sys.executable, str(ROOT / "scripts/audit.py"), "run"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(script, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    said = "error: what is printed, or a file, cannot be read or written (No space left on device); make room on its disk.\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert len(read_table(run / "label_issues.csv")["index"]) > 100
    left, right = os.pipe()
    os.close(left)
    with os.fdopen(right, "w") as nobody:
        done = subprocess.run(script, cwd=tmp_path, stdout=nobody, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("script", ["train.py", "report.py"])
def test_a_notebooks_own_backend_is_not_the_commands(tmp_path, script):
    done = command(script, "--help", cwd=tmp_path, MPLBACKEND="module://no_such_module.backend_inline")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("script", ["audit.py", "report.py", "compare.py"])
@pytest.mark.parametrize(
    ("given", "why"),
    [("nowhere", "nowhere is given, but "), ("run/summary.json", "run/summary.json is given, but ")],
)
def test_a_folder_that_is_none_is_told(run, tmp_path, script, given, why):
    done = run_script(script, given, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {why}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "epochs.csv", "labels.npz", "record.npz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other", "absent", "folder"])
def test_a_file_of_a_run_that_is_missing_or_damaged_is_told_by_its_name(run, tmp_path, monkeypatch, name, damage):
    from alignprune_pl.cli import alignprune_audit, alignprune_report

    place = run / name
    whole = place.read_bytes()
    place.unlink()
    if damage == "folder":
        place.mkdir()
    elif damage != "absent":
        place.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "other": b"- 1\n- [2"}[damage])
    for main in (alignprune_audit, alignprune_report):
        monkeypatch.setattr(sys, "argv", ["command", "run"])
        if name == "config.yaml" and damage == "cut":
            continue  # half of it is whole YAML
        with pytest.raises(SystemExit, match=rf"^error: .*{name}.*(; run it again|; train with report=true)"):
            main()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("folder.csv", "folder.csv cannot be read or written (Is a directory); give the name of a file."),
        (
            "run/summary.json/a.csv",
            "run/summary.json cannot be read or written (File exists); give the name of a folder.",
        ),
        ("/proc/a.csv", "/proc/a.csv cannot be read or written (No such file or directory); give one that exists"),
    ],
)
def test_a_table_that_cannot_be_written_is_told(run, tmp_path, output, message):
    (tmp_path / "folder.csv").mkdir()
    done = run_script("audit.py", "run", "--output", output, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert list((tmp_path / "folder.csv").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EROFS, "run/a cannot be read or written (Read-only file system); give a place that may be written."),
        (errno.EACCES, "run/a cannot be read or written (Permission denied); give a place that may be written."),
        (errno.EIO, "run/a cannot be read or written (Input/output error); try again, or give another place."),
    ],
)
def test_each_error_of_a_file_says_which_why_and_what_to_do(number, message):
    assert sentence(OSError(number, os.strerror(number), "run/a")) == message


# From its FROM-th file on, nothing more fits on the disk.
FULL = """
import errno, os, sys
from alignprune_pl.cli import train as script
from alignprune_pl.report import whole_file
left, fsync = [int(sys.argv.pop(1))], os.fsync
def full(descriptor):
    left[0] -= 1
    if left[0] < 0:
        raise OSError(errno.ENOSPC, "No space left on device")
    fsync(descriptor)
whole_file.os = type("os", (), {**vars(os), "fsync": staticmethod(full)})
sys.argv[0] = "train.py"
script.main()
"""


@pytest.mark.parametrize(
    ("files", "at", "then"),
    [
        (0, "config.yaml", ""),
        (3, "checkpoints/last.ckpt", ""),
        (4, "epochs.csv", " The run goes on by hydra.run.dir=run ckpt_path=run/checkpoints/last.ckpt."),
        (12, "summary.json", " The run goes on by hydra.run.dir=run ckpt_path=run/checkpoints/last.ckpt."),
        (13, "summary.json", " The run goes on by hydra.run.dir=run ckpt_path=run/checkpoints/last.ckpt."),
        (15, "report/scores.png", " The run itself is finished; alignprune-report run draws its report."),
    ],
)
def test_a_disk_that_is_full_costs_nothing_that_is_finished(tmp_path, files, at, then):
    done = run_code(FULL, str(files), *SMALL, cwd=tmp_path)
    assert done.returncode == 1
    place = tmp_path / "run" / at
    assert done.stderr.splitlines()[-1] == (
        f"error: {place} cannot be read or written (No space left on device); make room on its disk.{then}"
    )
    assert list((tmp_path / "run").rglob("*.part")) == []
    if "goes on by" in then:
        again = run_script("train.py", *SMALL, "report=false", "ckpt_path=run/checkpoints/last.ckpt", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        whole = run_script("train.py", *SMALL, "report=false", "hydra.run.dir=whole", cwd=tmp_path)
        assert whole.returncode == 0, whole.stderr
        one, other = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "whole"))
        assert {**one, "pruning_time": 0, "given": []} == {**other, "pruning_time": 0, "given": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it is damaged or no checkpoint (OSError: [Errno 22] Invalid argument)"),
        ({"weights": 1}, "the checkpoint of a run is expected, and state_dict is missing"),
    ],
    ids=["cut", "other"],
)
def test_a_checkpoint_that_is_cut_or_none_is_told_with_its_path_and_stays(tmp_path, content, message):
    place = tmp_path / "last.ckpt"
    torch.save({"big": torch.zeros(5000)} if content is None else content, place)
    if content is None:
        place.write_bytes(place.read_bytes()[:5000])
    before = place.read_bytes()
    done = run_script("train.py", *SMALL, "ckpt_path=last.ckpt", cwd=tmp_path)
    assert done.returncode == 1
    said = f"error: last.ckpt is given, but {message}; give another, or start anew without it."
    assert done.stderr.splitlines()[-1] == said
    assert place.read_bytes() == before


def test_a_configuration_that_is_no_yaml_is_told_with_its_line(tmp_path, monkeypatch):
    shutil.copytree(command_line.CONFIGS, tmp_path / "configs")
    Path(tmp_path / "configs/noise/sym.yaml").write_text("ratio: [1\nb: 2\n")
    monkeypatch.setattr(command_line, "CONFIGS", tmp_path / "configs")
    with pytest.raises(
        SystemExit, match=r"error: a configuration is no YAML: .*configs/noise/sym\.yaml.* line 2.*; mend"
    ):
        command_line.check_arguments(["seed=1"])
