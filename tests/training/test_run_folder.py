"""What a run leaves in its folder, for a Trainer and a module of one's own."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.utils.data import TensorDataset
from two_ranks import run_two

from alignprune_pl import AlignPrune, BatchLossScore, LossScore, NoPruning, Random, RunFolder
from alignprune_pl.cli import alignprune_audit
from alignprune_pl.core.epoch_metrics import noise_auroc, noise_average_precision
from alignprune_pl.report import read_run, run_files, write_report
from alignprune_pl.report.page import plots_of
from helpers import CLASSES, IndexLoss, N, Plain, make_data, make_loader, make_trainer

TRAIN, REFERENCE, MASK = make_data()
CLEAN = torch.where(MASK, (TRAIN.tensors[1] - 1) % CLASSES, TRAIN.tensors[1])
# The run that goes on writes no checkpoints itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You.re resuming from a checkpoint that ended before the epoch ended"),
]


class Named(Plain):
    """Logs under names of its own."""

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, batch_idx):
        self.log("test/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())


def followed(folder, module=None, *, policy=None, score=None, epochs=2, ckpt=None, callbacks=(), prune=(), **kwargs):
    """A run that a folder was given to: its module, callback and folder."""
    given = {"window": 2, "seed": 1, "noise_mask": MASK, **dict(prune)}
    callback = AlignPrune(REFERENCE, policy or NoPruning(), score or LossScore(), **given)
    files = RunFolder(folder, **{"seed": 3, **kwargs})
    torch.manual_seed(4)
    trainer = make_trainer(callback, files, *callbacks, max_epochs=epochs, enable_checkpointing=bool(callbacks))
    module = module or Plain()
    trainer.fit(module, make_loader(TRAIN), ckpt_path=ckpt)
    return module, callback, files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of Random(0.5) with a module that knows nothing of ours, validated in every other epoch and tested."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    prune = AlignPrune(REFERENCE, Random(0.5), LossScore(), window=2, seed=1, noise_mask=MASK)
    about = {"dataset": "a line", "options": {"policy": "random"}}
    config = {"lr": 0.1, "layers": [4, 16]}
    files = RunFolder(folder, class_names=["a", "b", "c"], clean_labels=CLEAN, config=config, about=about)
    torch.manual_seed(4)
    trainer = make_trainer(prune, files, max_epochs=5, check_val_every_n_epoch=2)
    module, loader = Named(), make_loader(REFERENCE, shuffle=False)
    trainer.fit(module, make_loader(TRAIN), loader)
    untested = json.loads((folder / "summary.json").read_text())
    trainer.test(module, loader, verbose=False)
    return read_run(folder), module, prune, files, untested


def test_the_folder_has_the_files_that_report_and_audit_read(run):
    files, _, _, callback, _ = run
    assert {path.name for path in files.folder.iterdir()} == {
        *("config.yaml", "labels.npz", "epochs.csv", "record.npz", "summary.json")
    }
    assert files.config == {"lr": 0.1, "layers": [4, 16]}
    assert files.classes == ["a", "b", "c"]
    assert callback.summary == files.summary


def test_labels_that_are_not_given_are_learnt_from_the_loss(run):
    files = run[0]
    assert files.labels["label"].tolist() == TRAIN.tensors[1].tolist()
    assert files.labels["train_index"].tolist() == list(range(N))
    assert files.mask.tolist() == MASK.tolist()
    assert files.labels["clean_label"].tolist() == CLEAN.tolist()


def test_predictions_are_those_of_the_finished_network(run):
    files, module, *_ = run
    module.eval()
    with torch.no_grad():
        probabilities = module(TRAIN.tensors[0]).softmax(dim=1)
    record = files.record
    assert record["predicted"].tolist() == probabilities.argmax(dim=1).tolist()
    assert np.allclose(record["p_predicted"], probabilities.amax(dim=1))
    assert np.allclose(record["p_label"], probabilities[torch.arange(N), TRAIN.tensors[1]])
    assert np.allclose(record["probabilities"], probabilities, atol=1e-3)
    assert record["probabilities"].dtype == np.float16


def test_trajectories_reach_over_all_epochs_though_the_store_remembers_two(run):
    files, _, prune, _, _ = run
    record = files.record
    assert record["shown"].tolist() == list(range(N))
    assert np.isfinite(record["trajectories"]).sum(axis=0).tolist() == [row["kept"] for row in prune.history]
    kept = prune.store.losses(2).numpy()
    assert np.allclose(record["trajectories"][:, -2:], kept, rtol=0.01, equal_nan=True)
    assert record["reference_trajectory"].tolist() == pytest.approx([row["reference_loss"] for row in prune.history])
    assert np.array_equal(files.suspicion, prune.suspicion().numpy(), equal_nan=True)


def test_the_figures_of_validation_stand_in_the_epochs_that_were_validated(run):
    files, module, prune, _, _ = run
    assert np.isfinite(files.epochs["val_acc"]).tolist() == [False, True, False, True, False]
    assert module.validated == [1, 3]
    assert files.epochs["pruning/saved"].tolist() == pytest.approx([row["saved"] for row in prune.history])


def test_the_summary_has_what_the_run_was_made_of_and_the_metrics_of_a_test(run):
    files, _, prune, _, untested = run
    summary = files.summary
    assert {name: summary[name] for name in untested} == untested
    assert set(summary) - set(untested) == {"test_acc"}
    assert summary["best_acc"] == np.nanmax(files.epochs["val_acc"])
    expected = {"dataset": "a line", "noise": "", "options": {"policy": "random"}, "seed": 1, "train_samples": N}
    expected |= {"policy": "Random(ratio=0.5, delta=1.0)", "score": "LossScore()", "observes": "loss"}
    expected |= {"reference_samples": 20, "noise_known": True, "epochs": 5.0}
    assert {name: summary[name] for name in expected} == {**expected, "policy": repr(prune.policy)}
    assert summary["pruning_time"] > 0
    assert {name: summary[name] for name in prune.summary()} == {
        **prune.summary(),
        "pruning_time": summary["pruning_time"],
    }


def test_the_report_of_any_run_is_drawn_with_its_accuracy_and_without_pictures(run):
    page, *plots = write_report(run[0].folder)
    names = {path.stem for path in plots}
    assert {"accuracy", "roc", "noise-matrix", "noise-matrix-estimated", "trajectories"} <= names
    assert "suspects" not in names
    text = page.read_text()
    assert "a line" in text
    assert "a line, <" not in text
    assert "Most suspect images" not in text


def test_of_samples_without_a_score_report_and_log_say_the_same(run, tmp_path):
    files = replace(run[0], record={**run[0].record, "suspicion": run[0].suspicion.copy()})
    files.suspicion[::3] = np.nan
    mask, suspicion = files.ranked
    logged = torch.from_numpy(files.suspicion)
    assert len(mask) == N - files.unscored <= N - 68
    assert roc_auc_score(mask, suspicion) == pytest.approx(noise_auroc(logged, MASK), abs=1e-6)
    assert average_precision_score(mask, suspicion) == pytest.approx(noise_average_precision(logged, MASK), abs=1e-6)
    words = {plot.name: plot.words for plot in plots_of(files)}
    assert f"Samples without a score are left out, {files.unscored} of them." in words["roc"]
    files.suspicion[MASK.numpy()] = np.nan
    assert files.ranked is None
    assert "roc" not in {plot.name for plot in plots_of(files)}


def test_of_many_samples_the_trajectories_of_the_same_few_are_kept(tmp_path):
    first, second = (
        followed(tmp_path / name, shown=20, epochs=1) and read_run(tmp_path / name).record for name in "ab"
    )
    assert len(set(first["shown"].tolist())) == 20
    assert first["shown"].tolist() == sorted(second["shown"].tolist()) != list(range(20))
    assert first["trajectories"].shape == (20, 1)
    assert len(first["suspicion"]) == N


def test_a_resumed_runs_files_are_whole(tmp_path):
    save = ModelCheckpoint(
        tmp_path / "saved", filename="{step}", auto_insert_metric_name=False, save_top_k=-1, every_n_train_steps=13
    )
    middle = ModelCheckpoint(tmp_path / "saved", filename="middle", every_n_train_steps=30, save_top_k=-1)
    followed(tmp_path / "whole", epochs=4, callbacks=[save, middle])
    whole = read_run(tmp_path / "whole")
    # 13 batches an epoch: at the second epoch's last batch, within the third, and at the run's end.
    for name in ("26", "middle", "52"):
        followed(tmp_path / name, epochs=4, ckpt=str(tmp_path / "saved" / f"{name}.ckpt"))
        again = read_run(tmp_path / name)
        assert np.allclose(again.record["trajectories"], whole.record["trajectories"], rtol=0.005), name
        assert np.allclose(again.record["reference_trajectory"], whole.record["reference_trajectory"]), name
        assert np.array_equal(again.record["predicted"], whole.record["predicted"]), name
        assert again.labels["label"].tolist() == whole.labels["label"].tolist(), name
        assert again.epochs["pruning/auroc"].tolist() == pytest.approx(whole.epochs["pruning/auroc"].tolist()), name


def test_epochs_that_ended_without_it_are_not_known_of(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="end", save_on_train_epoch_end=True)
    prune = AlignPrune(REFERENCE, NoPruning(), LossScore(), window=2, seed=1)
    make_trainer(prune, save, max_epochs=2, enable_checkpointing=True).fit(Plain(), make_loader(TRAIN))
    followed(tmp_path / "run", epochs=4, ckpt=str(tmp_path / "end.ckpt"))
    trajectories = read_run(tmp_path / "run").record["trajectories"]
    assert np.isnan(trajectories).sum(axis=0).tolist() == [N, 0, 0, 0]  # the store remembers one of them


def test_a_second_fit_starts_a_folder_of_its_own(tmp_path):
    _, prune, files = followed(tmp_path / "run")
    make_trainer(prune, files, max_epochs=1).fit(Plain(), make_loader(TRAIN))
    run = read_run(tmp_path / "run")
    assert run.record["trajectories"].shape == (N, 1)
    assert len(run.epochs["epoch"]) == 1


def test_a_run_that_is_interrupted_keeps_what_its_epochs_left(tmp_path):
    class Stops(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.current_epoch == 2:
                raise RuntimeError("the power is off")

    followed(tmp_path, epochs=1)
    with pytest.raises(RuntimeError, match="the power is off"):
        followed(tmp_path, epochs=4, callbacks=[Stops()], labels=TRAIN.tensors[1], record=False)
    left = {path.name for path in tmp_path.iterdir()} - {"checkpoints"}
    assert left == {"config.yaml", "labels.npz", "epochs.csv"}  # no summary and no record of the run before
    assert (tmp_path / "epochs.csv").read_text().count("\n") == 3


# ---- losses of other kinds --------------------------------------------------------------------------------


class LogsLate(Plain):
    """Logs at an epoch's end, which Lightning asks of a module after the callbacks; fails in an epoch, if it is to."""

    fails_in = -1

    def on_train_epoch_start(self):
        if self.current_epoch == self.fails_in:
            raise RuntimeError("the step fails")

    def on_train_epoch_end(self):
        self.log("at_end", float(self.current_epoch))

    def test_step(self, batch, batch_idx):
        self.log("test/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())


def test_what_a_module_logs_at_an_epochs_end_stands_in_that_epochs_row(tmp_path):
    followed(tmp_path, LogsLate(), epochs=3)
    assert read_run(tmp_path).epochs["at_end"].tolist() == [0, 1, 2]


def test_a_folder_that_is_used_again_keeps_nothing_of_the_run_before(tmp_path):
    followed(tmp_path, epochs=3)
    followed(tmp_path, epochs=2, record=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.yaml",
        "epochs.csv",
        "labels.npz",
        "summary.json",
    ]
    followed(tmp_path, epochs=2)
    followed(tmp_path, epochs=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "labels.npz", "summary.json"]


def test_a_second_fit_that_fails_leaves_no_summary_of_the_first(tmp_path):
    prune = AlignPrune(REFERENCE, NoPruning(), LossScore(), window=2)
    module, trainer = LogsLate(), make_trainer(prune, RunFolder(tmp_path), max_epochs=2)
    trainer.fit(module, make_loader(TRAIN))
    trainer.fit_loop.max_epochs, module.fails_in = 4, 3
    with pytest.raises(RuntimeError, match="the step fails"):
        trainer.fit(module, make_loader(TRAIN))
    trainer.test(module, make_loader(REFERENCE, shuffle=False), verbose=False)
    assert not (tmp_path / "summary.json").exists()


def test_a_finished_run_that_is_resumed_at_its_end_on_a_full_disk_keeps_its_summary(tmp_path, monkeypatch):
    save = ModelCheckpoint(tmp_path / "saved", filename="end", save_on_train_epoch_end=True)
    followed(tmp_path / "run", callbacks=[save])
    before = (tmp_path / "run/summary.json").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_files, "write_record", full)
    with pytest.raises(OSError, match="No space left on device"):
        followed(tmp_path / "run", ckpt=str(tmp_path / "saved/end.ckpt"))
    assert (tmp_path / "run/summary.json").read_bytes() == before


def test_an_image_that_cannot_be_shown_costs_the_pictures_and_not_the_record(tmp_path):
    images = [np.zeros((8, 8, 3 if at == 0 else 4), np.uint8) for at in range(N)]
    with pytest.warns(UserWarning, match="leaves out the pictures"):
        followed(tmp_path, images=images)
    run = read_run(tmp_path)
    assert "predicted" in run.record
    assert "thumbnails" not in run.record


def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MisconfigurationException, match=r"which cannot be made .*; give one that can be written"):
        followed(tmp_path / "file" / "run")


class Regression(Plain):
    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0])[:, 0], batch[1].float())


class TwoLosses(Plain):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return F.cross_entropy(logits, batch[1]) + 0.1 * F.cross_entropy(2 * logits, batch[1])


class WithMetric(Plain):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        with torch.no_grad():
            F.cross_entropy(logits, (batch[1] + 1) % CLASSES)
        return F.nll_loss(logits.log_softmax(1), batch[1])


class Unlabelled(Plain):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), torch.where(batch[0][:, 0] == 7, -100, batch[1]))


class OfPixels(Plain):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0])[..., None].expand(-1, -1, 2), batch[1][:, None].expand(-1, 2))


class NeedsGradient(Plain):
    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        torch.autograd.grad(loss, self.net[0].weight, retain_graph=True)
        return loss


def without_reference(folder, module, **kwargs):
    """A run that nothing is evaluated in but what its folder asks for."""
    prune = AlignPrune(None, NoPruning(), **{"score": LossScore(), **kwargs.pop("prune", {})})
    trainer = make_trainer(prune, RunFolder(folder, **kwargs), max_epochs=1)
    trainer.fit(module, make_loader(TRAIN))
    return read_run(folder)


@pytest.mark.parametrize("module", [TwoLosses, Unlabelled, OfPixels, IndexLoss], ids=lambda c: c.__name__)
def test_a_loss_without_one_class_a_sample_leaves_neither_predictions_nor_labels(tmp_path, module):
    run = without_reference(tmp_path, module())
    assert not run.has_predictions
    assert set(run.labels) == {"train_index"}


def test_of_a_regression_the_report_has_what_needs_no_labels_and_the_audit_is_refused(tmp_path, monkeypatch):
    run = without_reference(tmp_path, Regression())
    assert set(run.labels) == {"train_index"}
    assert run.classes == []
    plots = {path.stem for path in write_report(tmp_path)[1:]}
    assert plots == {"trajectories", "scores", "accuracy"}
    monkeypatch.setattr(sys, "argv", ["alignprune-audit", str(tmp_path)])
    with pytest.raises(
        SystemExit, match=r"error: .* has no predictions for its training samples.*; train with one loss of"
    ):
        alignprune_audit()


@pytest.mark.parametrize(
    ("module", "prune"), [(WithMetric, {}), (Plain, {"score": BatchLossScore()})], ids=["a metric", "the batch's loss"]
)
def test_the_loss_is_found_beside_a_metric_and_where_no_call_is_captured(tmp_path, module, prune):
    run = without_reference(tmp_path, module(), prune=prune)
    assert run.labels["label"].tolist() == TRAIN.tensors[1].tolist()
    assert run.has_predictions


def test_given_labels_are_drawn_where_the_step_gives_its_losses_itself(tmp_path):
    class Explicit(Plain):
        def training_step(self, batch, batch_idx):
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            return {"loss": losses.mean(), "per_sample_loss": losses}

    run = without_reference(tmp_path, Explicit(), labels=TRAIN.tensors[1].tolist(), clean_labels=CLEAN.numpy())
    assert not run.has_predictions
    assert run.mask.tolist() == MASK.tolist()
    assert run.summary["noise_rate"] == pytest.approx(float(MASK.float().mean()))
    assert run.classes == ["0", "1", "2"]
    assert "roc" in {plot.name for plot in plots_of(run)}


def test_a_step_that_fails_without_a_gradient_costs_the_predictions_and_not_the_run(tmp_path):
    with pytest.warns(
        UserWarning, match="no predictions for the training samples, as training_step fails in eval mode"
    ):
        run = without_reference(tmp_path, NeedsGradient())
    assert not run.has_predictions
    assert run.summary["epochs"] == 1


def test_nothing_of_the_run_is_disturbed_by_looking_at_its_samples(tmp_path):
    states = []
    for name, record in (("with", True), ("without", False)):
        torch.manual_seed(0)
        module, _, _ = followed(tmp_path / name, epochs=2, record=record)
        states.append((module.state_dict(), torch.get_rng_state()))
        assert (tmp_path / name / "record.npz").exists() == record
    (first, one), (second, other) = states
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(one, other)


def test_predictions_look_at_the_data_that_is_given_for_probes(tmp_path):
    other = TensorDataset(torch.zeros_like(TRAIN.tensors[0]), TRAIN.tensors[1])
    run = without_reference(tmp_path, Plain(), prune={"probe_data": other})
    assert len(set(run.record["predicted"].tolist())) == 1
    assert run.labels["label"].tolist() == TRAIN.tensors[1].tolist()


def test_labels_that_the_loss_does_not_have_are_told(tmp_path):
    wrong = TRAIN.tensors[1].clone()
    wrong[:3] = (wrong[:3] + 1) % CLASSES
    with pytest.warns(UserWarning, match="labels of which 3 are not those that the loss has"):
        run = without_reference(tmp_path, Plain(), labels=wrong)
    assert run.labels["label"].tolist() == wrong.tolist()


def test_two_processes_leave_what_one_does(tmp_path):
    ranks = run_two("follow", tmp_path)
    run = read_run(tmp_path / "run")
    # With the batch norm statistics of the first, which a checkpoint has too.
    assert run.record["predicted"].tolist() == ranks[0]["by hand"]
    for rank in ranks:
        assert np.isfinite(run.record["trajectories"]).sum(axis=0).tolist() == rank["kept"]
        assert rank["summary"] == {**run.summary, "pruning_time": 0}
    assert run.labels["label"].tolist() == TRAIN.tensors[1].tolist()
    assert len(run.record["probabilities"]) == N


# ---- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shown": 0}, "shown=0 is given, but a number of trajectories of at least 1 is expected"),
        ({"trained_before": -1}, "trained_before=-1 is given"),
        ({"labels": [0.5, 1.0]}, r"labels=torch.float32\[2\] is given, but whole numbers, one for each sample"),
        ({"clean_labels": [[0], [1]]}, r"clean_labels=torch.int64\[2, 1\] is given"),
        ({"labels": [0, 3], "class_names": "ab"}, "labels from 0 to 3 are given, but 0 to 1 are expected"),
        ({"labels": [-1, 0]}, "labels from -1 to 0 are given, but 0 to 0 are expected; number the classes from 0"),
        (
            {"reference_labels": [0], "reference_index": [1, 2]},
            "reference_labels of 1 .* each of the 2 of reference",
        ),
        ({"reference_labels": [0]}, "reference_labels of 1 samples are given, but one for each of the 0"),
        (
            {"reference_labels": [2], "reference_index": [0], "class_names": "ab"},
            "reference_labels from 2 to 2 are given, but 0 to 1 are expected",
        ),
        ({"config": {"a": object()}}, "config is given, but numbers, words, lists and mappings of them"),
        ({"about": {"a": torch.zeros(1)}}, "about is given, but numbers, words, lists"),
    ],
)
def test_a_wrong_argument_is_told(given, message):
    with pytest.raises(ValueError, match=message):
        RunFolder("run", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": [0, 1]}, f"labels of 2 samples, but the training set has {N}; give one for each"),
        ({"clean_labels": [0, 1]}, "clean_labels of 2 samples"),
        ({"paths": ["a.png"]}, "paths of 1 samples"),
        ({"images": np.zeros((3, 8, 8), dtype=np.uint8)}, "images of 3 samples"),
        ({"train_index": [5]}, "train_index of 1 samples"),
        ({"images": TRAIN}, r"images\[0\] is torch.float32\[5\], but a PIL image or uint8\[C, H, W\]"),
    ],
)
def test_what_does_not_fit_the_training_set_is_refused_before_training(tmp_path, given, message):
    module = Plain()
    with pytest.raises((MisconfigurationException, ValueError), match=message):
        followed(tmp_path, module, **given)
    assert module.batches == []
    assert list(tmp_path.iterdir()) == []


def test_a_trainer_without_the_callback_before_it_is_refused(tmp_path):
    files, prune = RunFolder(tmp_path), AlignPrune(score=LossScore())
    for callbacks, message in (([files], "but there is none"), ([files, prune], "but it stands before it")):
        with pytest.raises(
            MisconfigurationException, match=f"RunFolder follows an AlignPrune .*, {message}; pass Trainer"
        ):
            make_trainer(*callbacks, max_epochs=1).fit(Plain(), make_loader(TRAIN))
