"""What a user sees of a run while it trains, and in the loggers."""

from __future__ import annotations

import csv
import io
import re

import lightning.pytorch as pl
import pytest
import rich
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from omegaconf import OmegaConf
from rich.console import Console

from alignprune_pl import AlignPrune, LossScore
from alignprune_pl.cli.terminal import command, in_words, reference_note, show
from alignprune_pl.cli.train import logger_of
from alignprune_pl.fit import progress
from helpers import ROOT, Fixed, N, Plain, make_data, make_loader, make_trainer, run_code

TRAIN, REFERENCE, _ = make_data()
SHARE = "reference.share=0.1"


def evaluated(bar):
    """A run with a reference of five batches, and this bar."""
    prune = AlignPrune(
        make_loader(REFERENCE, batch_size=4),
        Fixed([60]),
        LossScore(),
        loss_fn=lambda _, batch: torch.ones(len(batch[0])),
    )
    trainer = make_trainer(prune, bar, max_epochs=1, enable_progress_bar=True)
    trainer.fit(Plain(), make_loader(TRAIN))


def test_the_progress_bar_shows_the_running_epochs_kept_share():
    seen = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(trainer.progress_bar_callback.get_metrics(trainer, pl_module)["pruning/kept_share"])

    prune = AlignPrune(policy=Fixed([N, 64, 32]), score=LossScore())
    make_trainer(prune, TQDMProgressBar(), Look(), max_epochs=3, enable_progress_bar=True).fit(
        Plain(), make_loader(TRAIN)
    )
    assert seen == pytest.approx([1.0] * 13 + [64 / N] * 4 + [32 / N] * 2)


def test_a_long_evaluation_has_a_bar_in_tqdm(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LONG", 0.0)
    evaluated(TQDMProgressBar())
    assert re.search(r"reference: .*0/5", capsys.readouterr().err)


def test_a_long_evaluation_has_a_bar_in_rich(monkeypatch):
    monkeypatch.setattr(progress, "_LONG", -1.0)
    monkeypatch.setattr(rich, "_console", Console())  # which Lightning's bar makes its own, for all tests that follow
    screen = io.StringIO()
    evaluated(RichProgressBar(console_kwargs={"file": screen, "force_terminal": True, "width": 120}))
    lines = [line for line in screen.getvalue().splitlines() if line.lstrip().startswith("reference")]
    assert any("5/5" in line for line in lines)


def test_a_short_evaluation_has_none(capsys):
    evaluated(TQDMProgressBar())
    assert "reference:" not in capsys.readouterr().err


def test_without_a_bar_of_the_trainer_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LONG", 0.0)
    prune = AlignPrune(REFERENCE, Fixed([60]), LossScore())
    make_trainer(prune, max_epochs=1).fit(Plain(), make_loader(TRAIN))
    assert "reference:" not in capsys.readouterr().err


SMALL = ("trainer.accelerator=cpu", "trainer.max_epochs=2", "model.hidden=[8]")


def test_of_two_processes_one_prints(tmp_path):
    # The first draws no report, which takes long, but says so. The second one is started as the command says.
    code = (
        f"import sys; sys.argv[0] = {str(ROOT / 'scripts/train.py')!r}\n"
        "from alignprune_pl.cli import train as script\n"
        "script.write_report = lambda folder: [folder / 'report.html', folder / 'report/roc.png']\n"
        "script.main()"
    )
    settings = ("trainer.devices=2", "+trainer.strategy=ddp", "hydra.run.dir=run")
    done = run_code(code, *SMALL, *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    for words in (
        "digits, Symmetric(ratio=0.4",
        "Epoch 0: trained on",
        "samples saved",
        "report.html, and ",
    ):
        assert said.count(words) == 1, words
    for noise in ("GPU available", "Tip: ", "deprecated", "was configured so", "Loading `train", "many workers"):
        assert noise not in said, noise
    assert all(len(line) < 100 for line in said.splitlines() if line.startswith("Epoch "))
    assert (tmp_path / "run/summary.json").exists()
    assert not (tmp_path / "run/report.html").exists()
    assert not (tmp_path / "outputs").exists()


def test_names_are_printed_as_they_are_and_not_taken_for_markup(tmp_path, capsys):
    show({"dataset": "[bold]own", "noise": "as given", "policy": "P", "saved": 0.2, "test_acc": 0.5}, tmp_path, "")
    said = capsys.readouterr().out
    assert "[bold]own" in said
    assert "Training cost 80%" in said


@pytest.mark.parametrize(
    ("pruning", "figures", "meaning", "following"),
    [
        ("infobatch", {"noise_kept": 0.45, "noise_rate": 0.4}, "wrong labels were kept", "pruning=calibrated"),
        ("random", {"noise_kept": 0.4, "noise_rate": 0.4}, "trained alike", "pruning=calibrated"),
        ("infobatch", {"noise_known": False}, "", "pruning=calibrated"),
        ("none", {"noise_kept": 0.0, "noise_rate": 0.0}, "", "pruning=infobatch"),
        (
            "calibrated",
            {"noise_kept": 0.05, "noise_rate": 0.4, "reference_samples": 200},
            "left out more",
            "audit runs/a",
        ),
    ],
)
def test_the_last_lines_say_what_the_figures_mean_and_what_to_try_next(pruning, figures, meaning, following):
    first, *others = in_words({"saved": 0.3, "options": {"pruning": pruning}, **figures}, "runs/a", True, SHARE)
    assert first.startswith("Training cost 70% of what training on all samples costs")
    assert (meaning in others[0]) if meaning else ("Of the samples" not in " ".join(others))
    assert following in others[-2]
    assert "runs/a" in others[-1]


def test_an_audit_is_not_proposed_where_there_is_no_record_to_read():
    summary = {"saved": 0.3, "options": {"pruning": "calibrated"}, "noise_known": False}
    said = [" ".join(in_words(summary, "runs/a", has_record, SHARE)) for has_record in (True, False)]
    assert ["audit" in words for words in said] == [True, False]


def test_the_next_command_is_given_as_this_one_was(monkeypatch, tmp_path):
    (tmp_path / "audit.py").touch()
    said = {}
    for given in (tmp_path / "train.py", tmp_path / "bin" / "alignprune-train"):
        monkeypatch.setattr("sys.argv", [str(given)])
        said[given.name] = command("audit")
    assert said == {"train.py": f"python {tmp_path / 'audit.py'}", "alignprune-train": "alignprune-audit"}


@pytest.mark.parametrize("name", ["TensorBoardLogger", "WandbLogger"])
def test_a_logger_whose_package_is_not_installed_says_how_to_get_it(monkeypatch, tmp_path, name):
    for place in (
        "pytorch.loggers.wandb._WANDB",
        "fabric.loggers.tensorboard._TENSORBOARD",
        "fabric.loggers.tensorboard._TENSORBOARDX",
    ):
        monkeypatch.setattr(f"lightning.{place}_AVAILABLE", False)
    cfg = OmegaConf.create({"logger": {"_target_": f"lightning.pytorch.loggers.{name}", "save_dir": str(tmp_path)}})
    with pytest.raises(ValueError, match=rf"^{name} needs a package that is not installed; .* '\.\[loggers\]'"):
        logger_of(cfg)


def test_too_few_reference_samples_are_told_before_training():
    assert "With 14 samples chance decides much; reference.share=0.1" in reference_note("calibrated", 14, True, SHARE)
    assert reference_note("calibrated", 14, True, "").endswith("chance decides much.")
    assert reference_note("calibrated", 100, True, SHARE) == reference_note("infobatch", 14, False, SHARE) == ""


def test_a_reference_that_nobody_has_checked_is_told_before_training():
    note = reference_note("calibrated", 500, False, "reference=pseudo_clean")
    assert note.endswith("next to no wrong ones; give clean samples, or reference=pseudo_clean.")
    summary = {"saved": 0.3, "options": {"pruning": "infobatch"}, "noise_known": False}
    said = in_words(summary, "runs/a", False, "reference=pseudo_clean")
    assert "Next: pruning=calibrated reference=pseudo_clean leaves out the labels that are probably wrong." in said


@pytest.fixture(scope="module")
def pictures(run_dir):
    """Those of a report, by their names."""
    names = {path.stem for path in (run_dir / "report").glob("*.png")}
    assert len(names) == 9
    return names


@pytest.fixture(scope="module")
def logged(tmp_path_factory, run_dir):
    """A run with each of the loggers, its folder by the logger's name."""
    folder = tmp_path_factory.mktemp("logged")
    names = ("tensorboard", "wandb", "csv")
    # They log the report of another run, as to draw one takes longer than they all.
    code = (
        "from pathlib import Path\n"
        "from alignprune_pl.cli import train as script\n"
        f"pictures = sorted(Path({str(run_dir / 'report')!r}).glob('*.png'))\n"
        "script.write_report = lambda folder: [folder / 'report.html', *pictures]\n"
        "script.main()"
    )
    done = run_code(code, *SMALL, f"logger={','.join(names)}", "hydra.sweep.dir=sweep", "-m", cwd=folder)
    assert done.returncode == 0, done.stderr
    return {name: folder / "sweep" / str(number) for number, name in enumerate(names)}


def test_tensorboard_gets_figures_by_epoch_and_those_of_the_report(logged, pictures):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(logged["tensorboard"] / "tensorboard/version_0"), {"images": 0, "scalars": 0}).Reload()
    assert log.Scalars("pruning/kept")[0].value > 1000
    assert {"pruning/saved", "pruning/noise_kept", "val/acc", "train/loss"} <= set(log.Tags()["scalars"])
    assert set(log.Tags()["images"]) == {f"report/{name}" for name in pictures}


def test_wandb_gets_them_offline(logged, pictures):
    (run,) = (logged["wandb"] / "wandb").glob("offline-run-*")
    images = {path.name.rsplit("_", 2)[0] for path in (run / "files/media/images/report").iterdir()}
    assert images == pictures
    assert b"pruning/saved" in next(run.glob("*.wandb")).read_bytes()


def test_the_csv_logger_gets_figures_by_epoch(logged):
    with (logged["csv"] / "csv/version_0/metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["pruning/saved"]]
    assert [row["epoch"] for row in rows] == ["0", "1"]
