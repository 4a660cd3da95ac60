"""The paper's score by epoch: of made-up runs in which it is right, or knows nothing, and of the figures in the docs."""

from __future__ import annotations

import importlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from alignprune_pl.core.trajectory import TrajectoryStore
from helpers import ROOT

DOCS = ROOT / "docs" / "images" / "das-by-epoch.csv"
FALLING = tuple(2.0 - 0.1 * epoch for epoch in range(12))
CONSTANT = (1.0,) * 12
WANDERING = (1.0, 1.01, 1.0, 1.02, 0.99, 1.01) * 2


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("das_by_epoch")


@pytest.fixture
def command(script, monkeypatch, capsys):
    """The script with these arguments; the tables that it prints, cell by cell."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["das_by_epoch.py", *map(str, arguments)])
        script.main()
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]

    return run


def write_run(folder, reference, seed=0, lr=0.1, observes="loss"):
    """A run of 300 samples: the right ones are hard and fall with a falling reference, the wrong ones are easy and rise."""
    generator = torch.Generator().manual_seed(seed)
    noise_mask = torch.arange(300) % 3 == 0
    store = TrajectoryStore(300, len(reference))
    for epoch, loss in enumerate(reference):
        moved = 0.1 * epoch * torch.where(noise_mask, 1.0, -1.0) if reference[:5] == FALLING[:5] else torch.zeros(300)
        losses = torch.where(noise_mask, 1.0, 5.0) + moved + 0.02 * torch.rand(300, generator=generator)
        store.record(torch.arange(300), losses)
        store.close_epoch(loss)
    run_dir = folder / str(seed)
    (run_dir / "checkpoints").mkdir(parents=True)
    torch.save({"callbacks": {"AlignPrune": {"store": store.state_dict()}}}, run_dir / "checkpoints" / "last.ckpt")
    np.savez(run_dir / "labels.npz", noise_mask=noise_mask.numpy(), label=np.zeros(300, dtype=np.int64))
    (run_dir / "config.yaml").write_text(f"lr: {lr}\nseed: {seed}\n")
    (run_dir / "epochs.csv").write_text("epoch,pruning/auroc,pruning/average_precision\n0,0.5,0.5\n")
    summary = {"options": {"pruning": "none"}, "noise": "sym", "seed": seed, "observes": observes}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    return run_dir


def moments(cell):
    return [None if part == "-" else float(part) for part in cell.split(" / ")]


def test_it_is_right_where_right_labels_go_the_way_of_the_reference_and_the_loss_is_wrong(command, tmp_path):
    folder = tmp_path / "mlp" / "full" / "sym"
    head, _, line = command(tmp_path / "das.csv", *(write_run(folder, FALLING, seed) for seed in (0, 1)))
    assert head[:4] == ["model", "labels", "seeds", "falls until"]
    assert line[:4] == ["mlp", "sym", "2", "12"]
    by_score = dict(zip(head[4:], map(moments, line[4:]), strict=True))
    assert {"loss", "mean_loss", "das", "das_spearman", "das_cosine", "das, all epochs"} < set(by_score)
    for name, values in by_score.items():
        assert values == [100 if name.startswith("das") else 0] * 4, name


def test_it_knows_nothing_where_the_reference_wanders_about_one_value(command, tmp_path):
    *_, line = command(tmp_path / "das.csv", write_run(tmp_path / "mlp" / "full" / "sym", WANDERING))
    assert line[2:4] == ["1", "1"]
    for cell in line[6:8]:
        while_falling, no_longer, *later = moments(cell)
        assert (while_falling, no_longer) == (None, None)  # of one epoch there is no correlation
        assert all(40 < value < 60 for value in later)


def test_a_constant_reference_leaves_it_undefined(command, tmp_path):
    *_, line = command(tmp_path / "das.csv", write_run(tmp_path / "mlp" / "full" / "sym", CONSTANT))
    assert [moments(cell) for cell in line[6:8]] == [[None] * 4] * 2
    assert None not in moments(line[4])[1:]


def test_of_a_run_that_ends_before_das_would_be_used_that_moment_is_not_known(command, tmp_path):
    *_, line = command(tmp_path / "das.csv", write_run(tmp_path / "mlp" / "full" / "sym", FALLING[:5]))
    assert moments(line[6]) == [100, 100, None, 100]


def test_the_figure_and_the_table_are_made_of_the_file_alone(command, tmp_path):
    runs = [
        write_run(tmp_path / model / row / column, FALLING)
        for model in ("mlp", "cnn")
        for row in ("full", "infobatch")
        for column in ("sym", "people")
    ]
    written = command(tmp_path / "das.csv", *runs)
    assert len(written) == 2 * (2 + 4)
    picture = (tmp_path / "das.png").read_bytes()
    assert picture[:4] == b"\x89PNG"
    for run_dir in runs:
        shutil.rmtree(run_dir)
    (tmp_path / "das.png").unlink()
    assert command(tmp_path / "das.csv") == written
    assert (tmp_path / "das.png").read_bytes() == picture


def test_runs_that_differ_in_more_than_their_seed_are_refused(command, tmp_path):
    folder = tmp_path / "mlp" / "full" / "sym"
    with pytest.raises(SystemExit, match=r"is not of a kind with another run of mlp/full/sym: lr differ"):
        command(tmp_path / "das.csv", write_run(folder, FALLING), write_run(folder, FALLING, seed=1, lr=0.2))
    assert not (tmp_path / "das.csv").exists()


@pytest.mark.parametrize("change", [{"reference": (float("nan"),) * 12}, {"reference": FALLING, "observes": "margin"}])
def test_a_run_without_losses_or_a_reference_is_refused(command, tmp_path, change):
    run_dir = write_run(tmp_path / "mlp" / "full" / "sym", **change)
    with pytest.raises(SystemExit, match="a run that records losses and has a reference is expected"):
        command(tmp_path / "das.csv", run_dir)


def test_a_row_that_is_none_is_refused_by_those_that_there_are(command, tmp_path):
    file = shutil.copyfile(DOCS, tmp_path / DOCS.name)
    with pytest.raises(
        SystemExit,
        match=r"^error: --row nope is given, but .*das-by-epoch\.csv has no such row; valid are: full, infobatch_das",
    ):
        command(file, "--row", "nope")
    assert not file.with_suffix(".png").exists()


def test_the_table_of_the_page_is_that_of_the_file_beside_its_figure(command, tmp_path):
    shutil.copyfile(DOCS, tmp_path / DOCS.name)
    page = (ROOT / "docs" / "das-on-real-labels.md").read_text()
    for line in command(tmp_path / DOCS.name):
        assert f"| {' | '.join(line)} |" in page
