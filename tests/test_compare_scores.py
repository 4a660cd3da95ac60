"""Scores compared by the trajectories of a run, whose reference came from its own noisy labels."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from alignprune_pl.cli.train import train
from helpers import ROOT


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    settings = [
        *(
            "trainer.accelerator=cpu",
            "trainer.max_epochs=5",
            "callback.window=5",
            "model.hidden=[32]",
            "pruning=calibrated",
        ),
        "score=trajectory",
        "report=false",
        *("reference=pseudo_clean", "reference.share=0.05", "reference.epochs=2", "reference.among=0.2"),
    ]
    folder = tmp_path_factory.mktemp("run")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose("train", settings), folder, {"pruning": "calibrated"})
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """The script with these arguments; what it prints."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("compare_scores")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare_scores.py", *map(str, arguments)])
        script.main()
        return capsys.readouterr().out

    return run


def changed(run_dir, folder, name, text=None):
    """A copy of the run with another file in it, or without it."""
    copy = shutil.copytree(run_dir, folder / "copy")
    (copy / name).unlink()
    if text is not None:
        (copy / name).write_text(text)
    return copy


def test_a_reference_picked_from_noisy_labels_is_not_trained_on_and_what_picking_costs_counts(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["train_samples"], summary["reference_samples"]) == (1365, 72)
    assert "that a network fits in 2 epochs" in summary["reference_from"]
    with np.load(run_dir / "labels.npz") as labels:
        assert not set(labels["reference_index"]) & set(labels["train_index"])
        assert len(labels["reference_index"]) == 72
    epochs = list(csv.DictReader((run_dir / "epochs.csv").read_text().splitlines()))
    assert len(epochs) == 5
    assert summary["saved"] == pytest.approx(float(epochs[-1]["pruning/saved"]) - 2 / 5 * 1437 / 1365, abs=1e-6)
    assert float(epochs[-1]["pruning/reference_loss"]) > 0


def test_the_table_has_what_the_run_measured_of_its_own_score(run_dir, command):
    printed = command(run_dir, run_dir, "--epochs", "4,5,9", "--markdown")
    assert "calibrated, Symmetric(ratio=0.4, over='others'): AUROC of each score, in percent, 2 runs:" in printed
    assert "average precision of each score" in printed
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert lines[0] == ["score \\ after epoch", "4", "5"]  # the run ends before 9
    rows = {line[0]: line[1:] for line in lines[: len(lines) // 2]}
    names = {"loss", "mean_loss", "ema_loss", "trajectory", "das", "loss_difference", "trajectory, in its class"}
    assert names <= set(rows)
    logged = list(csv.DictReader((run_dir / "epochs.csv").read_text().splitlines()))
    for cell, epoch in zip(rows["trajectory"], (3, 4), strict=True):
        mean, spread = map(float, cell.split(" ± "))
        assert mean == pytest.approx(100 * float(logged[epoch]["pruning/auroc"]), abs=0.3)  # stored in bfloat16
        assert spread == 0.0  # the same run twice
    assert rows["das"] != rows["trajectory"]


def test_the_terminal_gets_the_same_table(run_dir, command):
    assert "│ trajectory, das 9 : 1" in command(run_dir, "--epochs", "5")


def test_ranks_are_equal_for_equal_values_and_the_middle_for_unknown_ones(command):
    ranks = sys.modules["compare_scores"].ranks
    nan = float("nan")
    assert ranks(torch.tensor([3.0, nan, 1.0, 2.0, 1.0, nan])).tolist() == [1.0, 0.5, 0.0, 0.5, 0.0, 0.5]
    assert ranks(torch.tensor([nan, nan])).tolist() == [0.5, 0.5]
    assert ranks(torch.tensor([7.0])).tolist() == [0.0]


def test_a_window_of_one_epoch_is_refused(run_dir, command):
    with pytest.raises(SystemExit, match="--window 1 is given, but at least 2 epochs are expected"):
        command(run_dir, "--window", "1")


@pytest.mark.parametrize("epochs", ["0", "ten", ""])
def test_epochs_that_are_none_are_refused(run_dir, command, epochs):
    with pytest.raises(SystemExit, match=f"--epochs {epochs} is given, but numbers from 1 are expected"):
        command(run_dir, "--epochs", epochs)


def test_epochs_after_the_runs_end_are_refused(run_dir, command):
    with pytest.raises(SystemExit, match="--epochs 10 is given, but the runs end at epoch 5"):
        command(run_dir, "--epochs", "10")


def test_what_is_no_finished_run_is_refused(run_dir, command, tmp_path):
    with pytest.raises(SystemExit, match=r"the folder of a finished run with its checkpoints/last.ckpt is expected"):
        command(changed(run_dir, tmp_path, "summary.json"))


def test_runs_that_differ_in_more_than_seed_and_score_are_refused_by_what_differs(run_dir, command, tmp_path):
    config = (run_dir / "config.yaml").read_text()
    assert "lr: 0.05" in config
    other = config.replace("lr: 0.05", "lr: 0.5").replace("seed: 0", "seed: 1")
    with pytest.raises(
        SystemExit, match=r"copy is given, .*: optimizer\.optimizer\.lr differ; give runs that differ in"
    ):
        command(run_dir, changed(run_dir, tmp_path, "config.yaml", other))


def test_a_run_of_which_nobody_knows_the_wrong_labels_is_refused(run_dir, command, tmp_path):
    copy = changed(run_dir, tmp_path, "labels.npz")
    np.savez(copy / "labels.npz", label=np.zeros(3))
    with pytest.raises(SystemExit, match="a run with labels that are known to be wrong is expected"):
        command(copy)


def test_a_run_that_recorded_something_else_than_losses_has_its_own_score_alone(run_dir, command, tmp_path):
    summary = json.loads((run_dir / "summary.json").read_text())
    summary["observes"] = "margin"
    printed = command(changed(run_dir, tmp_path, "summary.json", json.dumps(summary)), "--epochs", "2,5", "--markdown")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    logged = list(csv.DictReader((run_dir / "epochs.csv").read_text().splitlines()))
    for line, column in ((lines[2], "auroc"), (lines[5], "average_precision")):
        expected = [f"{100 * float(logged[epoch][f'pruning/{column}']):.1f}" for epoch in (1, 4)]
        assert line == ["margin", *expected]
    assert len(lines) == 6


def test_a_run_that_has_forgotten_epochs_is_refused(run_dir, command, tmp_path):
    copy = changed(run_dir, tmp_path, "checkpoints/last.ckpt")
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    next(s for s in state["callbacks"].values() if "store" in s)["store"]["epochs"] = 7
    torch.save(state, copy / "checkpoints" / "last.ckpt")
    with pytest.raises(SystemExit, match=r"remembers 5 of 7; train it with callback.window=7"):
        command(copy)
