"""A run that was stopped and resumed goes on as the uninterrupted one: samples, weights, figures, parameters."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from alignprune_pl import UCB, AlignmentScore, AlignPrune, Calibrated, InfoBatch, LossScore, NoPruning, Random, SeTa
from helpers import Fixed, IndexLoss, N, Plain, make_data, make_loader, make_trainer

EPOCHS = 6
pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    # The resumed runs do not save, or elsewhere.
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]


class Momentum(Plain):
    """With state in the optimiser, and a schedule by steps that ends with the run."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        self.estimated = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=self.estimated)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Saver(pl.Callback):
    """Saves in a hook of its own, each time or at moments alone: after a batch of an epoch, from the end if below 0."""

    def __init__(self, hook: str, folder: Path, *moments: tuple[int, int]) -> None:
        self.folder, self.moments = folder, moments
        setattr(self, hook, self.save)

    def save(self, trainer: pl.Trainer, *arguments: object, **_: object) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        batch = progress.current.processed - 1
        here = {(trainer.current_epoch, number) for number in (batch, batch - int(trainer.num_training_batches))}
        if not self.moments or here & set(self.moments):
            trainer.save_checkpoint(self.folder / f"{progress.total.processed:03}.ckpt", weights_only=False)


def prune(**kwargs) -> AlignPrune:
    defaults = {"policy": InfoBatch(0.5), "score": AlignmentScore(warm_up=2), "window": 3, "seed": 1}
    return AlignPrune(make_data()[1], **{**defaults, **kwargs})


def run(callbacks, ckpt=None, val=False, loader=None, module=Momentum, **trainer):
    torch.manual_seed(5)
    model = module()
    run_of = make_trainer(*callbacks, **{"max_epochs": EPOCHS, "enable_checkpointing": True, **trainer})
    loaders = [make_loader(make_data()[0], **(loader or {}))]
    if val:
        loaders.append(DataLoader(make_data()[1], batch_size=20))
    run_of.fit(model, *loaders, ckpt_path=ckpt)
    return model


def every_steps(folder: Path, steps: int) -> ModelCheckpoint:
    """Keeps a checkpoint after each so many steps, named by the step."""
    name = {"filename": "{step}", "auto_insert_metric_name": False}
    return ModelCheckpoint(folder, **name, save_top_k=-1, every_n_train_steps=steps)


def check_goes_on(whole, first, resumed, second, done):
    """The resumed run's batches are the whole run's after the first ``done``, and all else is the same."""
    assert resumed.batches == whole.batches[done:]
    keys = ("epoch", "kept", "saved", "reference_loss", "nonfinite")
    assert [[r[k] for k in keys] for r in second.history] == [[r[k] for k in keys] for r in first.history]
    torch.testing.assert_close(second.store.losses(), first.store.losses(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(second.store.last_loss(), first.store.last_loss(), rtol=0, atol=0, equal_nan=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    one, other = (m.trainer.lr_scheduler_configs[0].scheduler.state_dict() for m in (whole, resumed))
    assert one["last_epoch"] == other["last_epoch"] == one["total_steps"] == resumed.estimated


@pytest.mark.parametrize(
    ("checkpoint", "val", "trainer"),
    [
        ({"save_on_train_epoch_end": True}, False, {}),
        ({"save_on_train_epoch_end": True}, True, {}),
        ({"monitor": "val/loss"}, True, {}),
        ({"monitor": "val/loss"}, True, {"val_check_interval": 0.5}),
        ({"every_n_train_steps": 1}, False, {}),
        ({"every_n_train_steps": 1}, True, {}),
        ({"save_on_train_epoch_end": True}, False, {"max_steps": 55}),
        ({"save_on_train_epoch_end": True}, True, {"max_steps": 55}),
        ({"every_n_train_steps": 1}, True, {"max_steps": 55}),
    ],
    ids=lambda value: "-".join(map(str, value.items())) if isinstance(value, dict) else f"val={value}",
)
def test_from_any_checkpoint_of_model_checkpoint(tmp_path, checkpoint, val, trainer):
    first = prune()
    save = ModelCheckpoint(tmp_path, filename="{step:03}", auto_insert_metric_name=False, save_top_k=-1, **checkpoint)
    whole = run([first, save], val=val, **trainer)
    kept = [len([e for e, _ in whole.batches if e == epoch]) for epoch in range(EPOCHS)]
    assert min(kept[:-1]) < kept[0]
    ends = [sum(kept[: epoch + 1]) for epoch in range(EPOCHS)]
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) >= EPOCHS - 1
    # Within the first epoch, at its last batch, after its end, within a pruned epoch and just before its last batch. Of
    # fewer, the first, one between and the last.
    steps = [step for step in map(int, (file.stem for file in files)) if step < len(whole.batches)]
    chosen = {4, ends[0], ends[0] + 1, ends[2] + 2, ends[3] - 1} & set(steps)
    for step in sorted(chosen) if len(steps) > 15 else [steps[0], steps[len(steps) // 2], steps[-1]]:
        second = prune()
        resumed = run([second], str(tmp_path / f"{step:03}.ckpt"), val=val, enable_checkpointing=False, **trainer)
        check_goes_on(whole, first, resumed, second, step)
        assert resumed.validated == whole.validated[len(whole.validated) - len(resumed.validated) :]


@pytest.mark.parametrize(
    "hook",
    [
        "on_train_epoch_start",
        "on_train_batch_start",
        "on_train_batch_end",
        "on_validation_end",
        "on_train_epoch_end",
    ],
)
@pytest.mark.parametrize("stands", ["before", "after"])
def test_from_a_checkpoint_that_another_callback_writes_at_any_moment(tmp_path, hook, stands):
    # Within the first epoch and at its last batch, within a pruned epoch, and in the last one.
    moments = [(0, 3), (0, -1), (2, 4), (5, 1)] if "batch" in hook else []
    first, saver = prune(), Saver(hook, tmp_path, *moments)
    order = [saver, first] if stands == "before" else [first, saver]
    whole = run(order, val=True, enable_checkpointing=False)
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) == (4 if "batch" in hook else EPOCHS)
    files = [file for file in files if int(file.stem) < len(whole.batches)]
    for file in files if "batch" in hook else [files[0], files[2], files[-1]]:
        second = prune()
        resumed = run([second], str(file), val=True, enable_checkpointing=False)
        check_goes_on(whole, first, resumed, second, int(file.stem))


@pytest.mark.parametrize("position", [0, 1])
def test_model_checkpoint_may_stand_before_or_after_the_callback(tmp_path, position):
    first = prune()
    whole = run([first])
    save = ModelCheckpoint(tmp_path, save_last=True, monitor="train/loss", save_top_k=-1, save_on_train_epoch_end=True)

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 3

    callbacks = [prune(), Stop()]
    callbacks.insert(position, save)
    half = run(callbacks)
    second = prune()
    resumed = run([second], str(tmp_path / "last.ckpt"))
    assert half.batches + resumed.batches == whole.batches
    check_goes_on(whole, first, resumed, second, len(half.batches))


@pytest.mark.parametrize(
    ("sizes", "loader", "trainer"),
    [
        ([203, 16, 10, 203], {}, {}),  # plans of one batch
        ([203, 203], {}, {"limit_train_batches": 1}),
        ([203, 100], {"batch_size": 203}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_batch_end"])
def test_from_epochs_of_one_batch(tmp_path, sizes, loader, trainer, hook):
    def make():
        return AlignPrune(policy=Fixed(sizes), score=LossScore(), storage_dtype=torch.float32, window=3)

    first = make()
    # Within an epoch of many batches, at its end, and after each epoch of one.
    moments = [(0, 3), (0, -1), (1, -1), (2, -1), (4, -1)] if "batch" in hook else []
    saver = Saver(hook, tmp_path, *moments)
    whole = run([first, saver], loader=loader, enable_checkpointing=False, module=IndexLoss, **trainer)
    files = [file for file in sorted(tmp_path.glob("*.ckpt")) if int(file.stem) < len(whole.batches)]
    assert len(files) > 3
    for file in files:
        second = make()
        resumed = run([second], str(file), loader=loader, enable_checkpointing=False, module=IndexLoss, **trainer)
        assert resumed.batches == whole.batches[int(file.stem) :]
        assert [row["kept"] for row in second.history] == [row["kept"] for row in first.history]
        torch.testing.assert_close(second.store.losses(), first.store.losses(), equal_nan=True)


def test_after_an_exception_that_another_callback_raises_at_a_batchs_end(tmp_path):
    class Breaks(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 20:
                raise RuntimeError("broken")

    first, second = prune(), prune()
    whole = run([first])
    save = ModelCheckpoint(tmp_path, filename="broken", save_on_exception=True, save_top_k=0)
    with pytest.raises(RuntimeError, match="broken"):
        run([Breaks(), prune(), save])
    (file,) = tmp_path.glob("*.ckpt")
    check_goes_on(whole, first, run([second], str(file)), second, 20)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(
    "policy", [InfoBatch(0.5), UCB(0.5), Calibrated("ucb", calibration=0.2, line=0.5)], ids=lambda p: type(p).__name__
)
def test_after_an_error_while_an_epoch_is_closed(tmp_path, monkeypatch, policy, error):
    make = partial(prune, policy=policy, score="trajectory")
    first, second = make(), make()
    whole = run([first])
    plan = type(policy).plan

    def breaks(self, scores, ask):
        planned = plan(self, scores, ask)
        if ask.epoch == 3:
            raise error("broken")
        return planned

    save = ModelCheckpoint(tmp_path, filename="broken", save_on_exception=True, save_top_k=0)
    with monkeypatch.context() as patched:
        patched.setattr(type(policy), "plan", breaks)
        with pytest.raises((error, SystemExit)):
            run([make(), save])
    (file,) = tmp_path.glob("*.ckpt")
    done = sum(epoch < 3 for epoch, _ in whole.batches)
    check_goes_on(whole, first, run([second], str(file)), second, done)
    assert [row["epoch"] for row in second.history] == list(range(EPOCHS))
    assert torch.equal(second.plan.keep, first.plan.keep)


# InfoBatch with the alignment score is in the tests above; those that remember are in test_hosts_in_a_run.py.
@pytest.mark.parametrize(
    ("policy", "score"),
    [(NoPruning(), AlignmentScore(warm_up=2)), (Random(0.3), LossScore()), (SeTa(0.1), AlignmentScore(warm_up=2))],
    ids=repr,
)
def test_with_every_host_framework_and_score(tmp_path, policy, score):
    make = partial(prune, policy=policy, score=score)
    first = make()
    save = every_steps(tmp_path, 19)
    whole = run([first, save])
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) > 1
    for file in files[:2]:
        second = make()
        check_goes_on(whole, first, run([second], str(file)), second, int(file.stem))


def test_with_probes_from_any_moment(tmp_path):
    make = partial(prune, policy=Calibrated("ucb", calibration=0.2, line=0.5), score="trajectory")
    first = make()
    # At the end of the warm-up, within an epoch that is pruned, at its end, and near the run's.
    whole = run([first, Saver("on_train_batch_end", tmp_path, (1, -1), (3, 2), (3, -1), (5, 1))])
    suspects = first.suspects()
    assert len(suspects.index) > 10
    assert max(row["probed"] for row in first.history) > 70  # 61 of them calibrate
    files = list(tmp_path.glob("*.ckpt"))
    assert len(files) == 4
    for file in files:
        second = make()
        check_goes_on(whole, first, run([second], str(file)), second, int(file.stem))
        assert torch.equal(second.suspects().index, suspects.index)
        assert second.suspects().noise_rate == suspects.noise_rate


def test_at_the_last_batch_of_an_epoch_that_was_short_when_the_loader_was_made(tmp_path):
    make = partial(prune, policy=Random(0.5), score=LossScore())

    def save(folder):
        return ModelCheckpoint(
            folder, filename="{step}", auto_insert_metric_name=False, save_top_k=-1, every_n_train_steps=1
        )

    first = make()
    whole = run([first, every_steps(tmp_path / "first", 1)])  # 7 batches an epoch, from the first one on
    second = make()
    resumed = run([second, every_steps(tmp_path / "second", 1)], str(tmp_path / "first" / "7.ckpt"))
    check_goes_on(whole, first, resumed, second, 7)
    third = make()
    check_goes_on(whole, first, run([third], str(tmp_path / "second" / "14.ckpt")), third, 14)


@pytest.mark.parametrize("loader", [{"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=str)
def test_with_workers_that_fetch_ahead(tmp_path, loader):
    first = prune()
    # Within an epoch, at its last batch, after its first.
    whole = run([first, Saver("on_train_batch_end", tmp_path, (0, 4), (0, -1), (1, 0))], loader=loader, max_epochs=4)
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) == 3
    for file in files:
        second = prune()
        resumed = run([second], str(file), loader=loader, max_epochs=4)
        check_goes_on(whole, first, resumed, second, int(file.stem))


def test_a_longer_run_anneals_in_its_own_last_epochs(tmp_path):
    make = partial(prune, policy=InfoBatch(0.5, delta=0.6), score=LossScore())
    run([make(), Saver("on_train_end", tmp_path)], module=Plain, max_epochs=3, enable_checkpointing=False)
    (short,) = tmp_path.glob("*.ckpt")
    whole, resumed = run([make()], module=Plain), run([make()], str(short), module=Plain)
    lengths = [len(whole.trained(epoch)) for epoch in range(EPOCHS)]
    assert lengths[3] < N == lengths[4]  # epoch 3 would be full in a run of 3 epochs
    # Epoch 2 of the short run was annealed, so that later losses differ; the kept shares do not.
    assert len(resumed.trained(3)) < N == len(resumed.trained(4)) == len(resumed.trained(5))


def test_a_checkpoint_written_without_the_callback_goes_on_under_the_right_indices(tmp_path):
    save = every_steps(tmp_path, 5)
    run([save], module=Plain)
    for step in (5, 15):  # within epochs 0 and 1
        callback = prune(policy=NoPruning(), score=LossScore(), storage_dtype=torch.float32)
        module = run([callback], str(tmp_path / f"{step}.ckpt"), module=IndexLoss, max_epochs=2)
        trained = torch.tensor(sorted(module.trained(1)))
        assert len(trained) == N - 16 * (step - 13 if step > 13 else 0)
        torch.testing.assert_close(callback.store.last_loss()[trained], trained.float(), rtol=1e-4, atol=1e-4)


def checkpoint_of(tmp_path, step="26", **kwargs):
    save = every_steps(tmp_path, 1)
    run([prune(**{"policy": NoPruning(), **kwargs}), save], module=Plain, max_epochs=3)
    return str(tmp_path / f"{step}.ckpt")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"policy": SeTa()},
            r"was written with NoPruning\(\) and .*, but this run has SeTa\(.*resume with the same policy",
        ),
        ({"score": LossScore()}, r"was written with .*, but this run has NoPruning\(\) and LossScore\(\)"),
        ({"window": 4}, r"\(203, 3, torch.bfloat16, False\), but this run has \(203, 4, torch.bfloat16, False\)"),
        ({"storage_dtype": torch.float32}, r"torch.bfloat16, False\), but this run has .*torch.float32"),
        ({"seed": 2}, "written with seed=1, but this run has seed=2"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, other, message):
    path = checkpoint_of(tmp_path)
    with pytest.raises((ValueError, MisconfigurationException), match=message):
        run([prune(**{"policy": NoPruning(), **other})], path, module=Plain)


def test_a_checkpoint_of_another_data_set_is_refused(tmp_path):
    path = checkpoint_of(tmp_path)
    other = TensorDataset(*(tensor[:-3] for tensor in make_data()[0].tensors))
    with pytest.raises(ValueError, match=r"\(203, 3, .*, but this run has \(200, 3, .*resume with the settings"):
        make_trainer(prune(policy=NoPruning())).fit(Plain(), make_loader(other), ckpt_path=path)


def test_a_half_epoch_is_not_continued_in_other_batches_but_a_whole_one_is(tmp_path):
    half = checkpoint_of(tmp_path, "30")
    run([prune(policy=NoPruning()), Saver("on_train_end", tmp_path)], module=Plain, max_epochs=2)
    whole = str(tmp_path / "026.ckpt")
    with pytest.raises(MisconfigurationException, match="16 samples a batch on 1 ranks, but this run has 32 on 1"):
        run([prune(policy=NoPruning())], half, module=Plain, loader={"batch_size": 32})
    assert len(run([prune(policy=NoPruning())], whole, module=Plain, loader={"batch_size": 32}).trained(2)) == N


def test_a_policy_that_does_not_show_its_settings_is_known_by_its_class(tmp_path):
    class Own(NoPruning):
        def __init__(self, share=0.5):
            self._own = object(), share

    path = checkpoint_of(tmp_path, policy=Own())
    assert len(run([prune(policy=Own())], path, module=Plain).trained(3)) == N


def test_the_seed_of_the_interrupted_run_goes_on_where_none_is_given(tmp_path):
    pl.seed_everything(4)
    save = every_steps(tmp_path, 9)
    whole = run([prune(seed=None, policy=Random(0.3)), save], module=Plain)
    pl.seed_everything(5)
    resumed = run([prune(seed=None, policy=Random(0.3))], str(tmp_path / "18.ckpt"), module=Plain)
    assert resumed.batches == whole.batches[18:]


def test_the_state_takes_two_bytes_a_loss_and_a_constant_a_sample():
    sizes = {}
    for n, window in ((1000, 10), (21_000, 10), (21_000, 20)):
        callback = AlignPrune(policy=NoPruning(), score=LossScore(), window=window)
        data = TensorDataset(torch.randn(n, 5), torch.zeros(n, dtype=torch.int64))
        make_trainer(callback, max_epochs=1).fit(Plain(), make_loader(data, batch_size=1000))
        buffer = io.BytesIO()
        torch.save(callback.state_dict(), buffer)
        sizes[n, window] = buffer.tell()
    assert sizes[21_000, 20] - sizes[21_000, 10] == pytest.approx(2 * 10 * 21_000, rel=0.01)
    assert sizes[21_000, 10] - sizes[1000, 10] == pytest.approx((2 * 10 + 28) * 20_000, rel=0.01)
