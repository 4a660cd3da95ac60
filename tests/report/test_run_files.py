"""The files of a run: each is replaced as a whole, and read as it was written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from alignprune_pl.report import run_files
from alignprune_pl.report.audit import write_table
from alignprune_pl.report.whole_file import replaced

CONFIG = {"lr": 5e-4, "seed": 0, "paths": ["ä", "1e-3"], "noise": {"ratio": None, "on": True}}
ROWS = [{"epoch": 0, "train/loss": 0.5}, {"epoch": 1, "train/loss": 0.25, "val/acc": 0.1}]
WRITERS = {
    "config.yaml": lambda folder: run_files.write_config(folder, CONFIG),
    "labels.npz": lambda folder: run_files.write_labels(folder, {"label": np.arange(3)}),
    "epochs.csv": lambda folder: run_files.write_epochs(folder, ROWS),
    "record.npz": lambda folder: run_files.write_record(folder, {"suspicion": np.zeros(3)}),
    "summary.json": lambda folder: run_files.write_summary(folder, {"test_acc": 0.5}),
    "issues.csv": lambda folder: write_table(folder / "issues.csv", {"index": np.arange(3)}),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_what_cannot_be_written_whole_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name, error):
    def full(_):
        raise error

    (tmp_path / name).write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(type(error)):
            WRITERS[name](tmp_path)
    assert (tmp_path / name).read_text() == "old"
    WRITERS[name](tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() != b"old"


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path):
    def write(place):
        with replaced(place) as file:
            file.write(b"half")
            raise ZeroDivisionError

    place = tmp_path / "file"
    place.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write(place)
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_what_is_read_is_what_was_written(tmp_path):
    for write in WRITERS.values():
        write(tmp_path)
    assert run_files.read_config(tmp_path) == CONFIG
    assert run_files.read_summary(tmp_path) == {"test_acc": 0.5}
    epochs = run_files.read_epochs(tmp_path)
    assert epochs["train/loss"].tolist() == [0.5, 0.25]
    assert np.array_equal(epochs["val/acc"], [np.nan, 0.1], equal_nan=True)
    assert run_files.read_labels(tmp_path)["label"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["epoch", "val_acc", "val/acc"], "val/acc"),
        (["train_acc", "validation_accuracy", "val_acc"], "validation_accuracy"),
        (["train/acc", "val/loss"], None),
    ],
)
def test_the_accuracy_is_found_under_the_name_that_the_module_gave_it(names, expected):
    assert run_files.accuracy_among(names) == expected


def test_figures_of_validation_are_known_by_their_names():
    names = ["val/loss", "val_acc", "validation_loss", "valid/acc", "Val/F1", "val"]
    assert all(map(run_files.is_of_validation, names))
    assert not any(map(run_files.is_of_validation, ["train/loss", "value_loss", "values", "pruning/saved", "interval"]))


def test_the_commands_that_read_a_run_load_no_torch(run_dir, tmp_path):
    code = f"""
import sys
from alignprune_pl.cli import alignprune_audit, alignprune_report
sys.argv = ["alignprune-audit", {str(run_dir)!r}, "--output", "issues.csv"]
alignprune_audit()
sys.argv = ["alignprune-report", {str(run_dir)!r}, {str(run_dir)!r}]
try:
    alignprune_report()
except SystemExit as error:
    assert "1 run is given" in str(error), error
assert not {{"torch", "lightning", "hydra", "torchmetrics"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "issues.csv").exists()


@pytest.mark.parametrize("name", ["val/loss", "val_acc", "valAcc", "validation_acc", "valid", "Val/acc"])
def test_a_figure_of_validation_is_known_by_its_name(name):
    assert run_files.is_of_validation(name)


@pytest.mark.parametrize("name", ["value", "train/val", "validity", "pruning/kept"])
def test_other_figures_are_not_taken_for_validations(name):
    assert not run_files.is_of_validation(name)


@pytest.mark.parametrize("lacking", ["probability", "trajectories", "classes", "label", "sample"])
def test_a_folder_whose_files_lack_something_or_are_of_two_runs_is_refused_by_name(run_dir, tmp_path, lacking):
    run = run_files.read_run(run_dir)
    labels, record = dict(run.labels), dict(run.record)
    if lacking == "sample":
        record["suspicion"] = record["suspicion"][1:]
    else:
        (labels if lacking == "label" else record).pop(lacking)
    run_files.write_config(tmp_path, run.config)
    run_files.write_summary(tmp_path, run.summary)
    run_files.write_epochs(tmp_path, [{"epoch": 0}])
    run_files.write_labels(tmp_path, labels)
    run_files.write_record(tmp_path, record)
    with pytest.raises(ValueError, match=rf"{tmp_path} has a file that cannot be read \(.*{lacking}"):
        run_files.read_run(tmp_path)
