"""What a Trainer, a module or a loader can be set to, and that pruning is exact under it."""

from __future__ import annotations

import math
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, StochasticWeightAveraging
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from alignprune_pl import (
    AlignmentScore,
    AlignPrune,
    Calibrated,
    EpochPlan,
    InfoBatch,
    LossScore,
    NoPruning,
    Random,
    SeTa,
)
from helpers import CLASSES, Fixed, IndexLoss, N, Plain, make_data, make_loader, make_trainer

SIZES = [203, 52, 120]


def fit(module, callback=None, *others, loader=None, val=False, **trainer):
    """A run over epochs of SIZES samples, unless told otherwise."""
    if callback is None:
        callback = AlignPrune(policy=Fixed(SIZES), score=LossScore(), storage_dtype=torch.float32)
    run = make_trainer(callback, *others, **{"max_epochs": 4, **trainer})
    loaders = [make_loader(make_data()[0]) if loader is None else loader]
    run.fit(module, *loaders, *([DataLoader(make_data()[1], 20)] if val else []))
    return callback, run


def check_exact(module, callback, sizes=SIZES, epochs=4, rtol=1e-5):
    """Each epoch trained on its plan's samples, each once, and their losses stand under their own indices."""
    for epoch in range(epochs):
        assert len(set(module.trained(epoch))) == len(module.trained(epoch)) == sizes[epoch % len(sizes)]
    assert [row["kept"] for row in callback.history] == [sizes[epoch % len(sizes)] for epoch in range(epochs)]
    last = callback.store.last_loss()
    seen = torch.tensor(sorted({i for _, batch in module.batches for i in batch}))
    torch.testing.assert_close(last[seen], seen.float(), rtol=rtol, atol=1e-5)
    assert int(last.isfinite().sum()) == len(seen)


# ---- precision and optimisation -----------------------------------------------------------------------------


def test_bf16_mixed_records_losses_in_full_precision():
    module = IndexLoss()
    callback, _ = fit(module, precision="bf16-mixed")
    check_exact(module, callback, rtol=0.01)
    plain = Plain()
    callback, _ = fit(plain, AlignPrune(make_data()[1], window=3), precision="bf16-mixed")
    assert callback.store.last_loss().isfinite().all()


def test_bf16_true_and_double_train_and_record():
    for precision in ("bf16-true", "64-true"):
        callback, _ = fit(Plain(), AlignPrune(policy=Fixed(SIZES, 2.0), score=LossScore()), precision=precision)
        assert callback.store.last_loss().dtype == torch.float32
        assert callback.store.last_loss().isfinite().all()


class Linear(pl.LightningModule):
    """No batch norm: a batch's gradient is the mean of its samples'."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, CLASSES)
        nn.init.constant_(self.net.weight, 0.1)
        nn.init.zeros_(self.net.bias)
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return F.cross_entropy(self.net(batch[0][:, 1:]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def gradient(module, batch, weight):
    losses = F.cross_entropy(module.net(batch[0][:, 1:]), batch[1], reduction="none")
    return torch.autograd.grad((losses * weight).mean(), list(module.parameters()))


def test_gradient_accumulation_changes_neither_weights_nor_recorded_losses():
    module, fresh = Linear(), Linear()
    callback = AlignPrune(policy=Fixed([48], 2.0), score=LossScore())
    fit(module, callback, accumulate_grad_batches=3, max_epochs=1)
    gradients = [gradient(fresh, batch, 2.0) for batch in module.batches]
    assert len(gradients) == 3
    for now, then, *parts in zip(module.parameters(), fresh.parameters(), *gradients, strict=True):
        torch.testing.assert_close(now, then - 0.1 * torch.stack(parts).mean(dim=0))
    for x, y in module.batches:
        losses = F.cross_entropy(fresh.net(x[:, 1:]), y, reduction="none")
        torch.testing.assert_close(callback.store.last_loss()[x[:, 0].long()], losses)


def test_gradient_clipping_sees_the_weighted_gradient():
    for weight in (1.0, 100.0):
        module, fresh = Linear(), Linear()
        callback = AlignPrune(policy=Fixed([16], weight), score=LossScore())
        fit(module, callback, gradient_clip_val=1.0, max_epochs=1)
        (batch,) = module.batches
        grads = gradient(fresh, batch, weight)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        assert (norm > 1) == (weight > 1)
        for now, then, grad in zip(module.parameters(), fresh.parameters(), grads, strict=True):
            torch.testing.assert_close(now, then - 0.1 * grad / norm.clamp(min=1), rtol=1e-4, atol=1e-6)


class Manual(Linear):
    """Two optimisers, stepped by hand on weighted losses."""

    def __init__(self, prune=None):
        super().__init__()
        self.prune, self.automatic_optimization = [prune], False

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        losses = F.cross_entropy(self.net(batch[0][:, 1:]), batch[1], reduction="none")
        losses = losses if self.prune[0] is None else self.prune[0].weight(losses)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(losses.mean())
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD([p], lr=0.1) for p in self.parameters()]


@pytest.mark.parametrize("capture_mode", ["auto", "explicit"])
def test_several_optimizers_train_by_hand_on_weighted_losses(capture_mode):
    prune = AlignPrune(policy=Fixed([16], 3.0), score=LossScore(), capture_mode=capture_mode)
    module, fresh = Manual(prune if capture_mode == "explicit" else None), Linear()
    fit(module, prune, max_epochs=1)
    (batch,) = module.batches
    for now, then, grad in zip(module.parameters(), fresh.parameters(), gradient(fresh, batch, 3.0), strict=True):
        torch.testing.assert_close(now, then - 0.1 * grad)
    losses = F.cross_entropy(fresh.net(batch[0][:, 1:]), batch[1], reduction="none")
    torch.testing.assert_close(prune.store.last_loss()[batch[0][:, 0].long()], losses)
    assert "manual_backward" not in vars(module)


def test_what_is_optimized_by_hand_without_a_loss_that_can_be_seen_is_refused_before_the_first_update():
    class Unseen(Manual):
        def manual_backward(self, loss):
            loss.backward()

    class Direct(Manual):
        def training_step(self, batch, batch_idx):
            F.cross_entropy(self.net(batch[0][:, 1:]), batch[1]).backward()
            for optimizer in self.optimizers():
                optimizer.step()

    module = Direct()
    with pytest.raises(MisconfigurationException, match=r"call self.manual_backward\(loss\) and not loss.backward\(\)"):
        fit(module, AlignPrune(policy=Fixed([16]), score=LossScore()))
    for now, then in zip(module.parameters(), Linear().parameters(), strict=True):
        assert torch.equal(now, then)
    callback, _ = fit(Unseen(), AlignPrune(policy=Fixed([16]), score=LossScore()), max_epochs=1)
    assert int(callback.store.last_loss().isfinite().sum()) == 16


def test_manual_optimization_is_refused_by_name_where_the_reference_would_be_optimised_on():
    with pytest.raises(
        MisconfigurationException, match=r"would optimise on the reference too; pass AlignPrune\(loss_fn"
    ):
        fit(Manual(), AlignPrune(make_data()[1], capture_mode="explicit"))
    with pytest.raises(MisconfigurationException, match=r"got no losses from training_step"):
        fit(Manual(), AlignPrune(policy=Fixed([16]), score=LossScore(), capture_mode="explicit"))


class Explicit(Plain):
    """Two losses, of which one alone counts and is weighted."""

    def __init__(self, prune):
        super().__init__()
        self.prune = [prune]

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        index, x = batch[0][:, 0], self(batch[0])
        losses = self.prune[0].weight(0.0 * x.sum(dim=1) + index)
        return losses.mean() + F.cross_entropy(x, batch[1]) + F.mse_loss(x[:3], torch.zeros_like(x[:3]))


def test_an_explicit_capture_chooses_among_losses_and_intercepts_none():
    prune = AlignPrune(make_data()[1], Fixed(SIZES, 2.0), LossScore(), capture_mode="explicit", window=3)
    module = Explicit(prune)
    fit(module, prune)
    check_exact(module, prune)
    assert prune.history[0]["reference_loss"] == pytest.approx(N + 9.5)  # the reference's first features
    assert torch.equal(prune.weight(torch.ones(3)), torch.ones(3))  # outside of training
    auto = AlignPrune(policy=Fixed(SIZES), score=LossScore())
    with pytest.raises(MisconfigurationException, match="captured already, and would be weighted twice"):
        fit(Explicit(auto), auto)


class Quiet(Plain):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])


class QuietExplicit(Plain):
    def training_step(self, batch, batch_idx):
        return self.prune[0].weight(F.cross_entropy(self(batch[0]), batch[1], reduction="none")).mean()


# What "eager" does, tracing a graph, "aot_eager" does first.
@pytest.mark.parametrize(
    ("kind", "compiles", "backend"),
    [
        (Quiet, "all", "aot_eager"),
        (Quiet, "network", "aot_eager"),
        (Quiet, "network", "eager"),
        (QuietExplicit, "all", "aot_eager"),
    ],
    ids=["the whole step", "the network", "the network traced alone", "the whole step with explicit losses"],
)
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's, where a graph breaks
def test_a_compiled_module_selects_and_learns_as_a_plain_one(kind, compiles, backend):
    torch._dynamo.reset()
    runs = []
    for is_compiled in (False, True, True):  # the last one finds what the one before has compiled
        torch.manual_seed(3)
        module = kind()
        capture = "explicit" if kind is QuietExplicit else "auto"
        callback = AlignPrune(
            make_data()[1], InfoBatch(0.5), AlignmentScore(warm_up=2), window=3, seed=1, capture_mode=capture
        )
        module.prune = [callback]
        if is_compiled and compiles == "network":
            module.net = torch.compile(module.net, backend=backend)
        whole = is_compiled and compiles == "all"
        fit(torch.compile(module, backend=backend) if whole else module, callback, max_epochs=4)
        runs.append(callback)
    for compiled in runs[1:]:
        assert [row["kept"] for row in compiled.history] == [row["kept"] for row in runs[0].history]
        torch.testing.assert_close(compiled.store.last_loss(), runs[0].store.last_loss(), rtol=1e-3, atol=1e-4)
        assert compiled._run.capture.kind == runs[0]._run.capture.kind


def test_a_compiled_step_whose_loss_has_another_name_is_refused_by_name():
    class Imported(Plain):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self(batch[0]), batch[1])

    with pytest.raises(
        MisconfigurationException, match=r"is compiled with its loss.*torch.nn.functional.cross_entropy"
    ):
        fit(torch.compile(Imported(), backend="aot_eager"), AlignPrune(policy=Fixed(SIZES), score=LossScore()))


@pytest.mark.parametrize("loss", ["smoothed", "class weights", "soft targets", "bce", "mse", "tokens"])
def test_losses_of_every_kind_are_trained_and_recorded(loss):
    def of(logits, y):
        one_hot = F.one_hot(y, CLASSES).float()
        return {
            "smoothed": lambda: F.cross_entropy(logits, y, label_smoothing=0.1),
            "class weights": lambda: F.cross_entropy(logits, y, weight=torch.tensor([1.0, 2.0, 3.0])),
            "soft targets": lambda: F.cross_entropy(logits, 0.9 * one_hot + 0.1 / CLASSES),
            "bce": lambda: F.binary_cross_entropy_with_logits(logits, one_hot),
            "mse": lambda: F.mse_loss(logits[:, 0], y.float()),
            "tokens": lambda: F.cross_entropy(
                torch.stack([logits] * 4, dim=2), torch.stack([y, y, y, torch.full_like(y, -100)], dim=1)
            ),
        }[loss]()

    module = Plain(loss=of)
    callback, _ = fit(module, AlignPrune(make_data()[1], InfoBatch(0.5), AlignmentScore(warm_up=2), window=3))
    assert callback.store.last_loss().isfinite().all()
    assert len(module.trained(1)) < N
    assert callback.history[-1]["reference_loss"] < callback.history[0]["reference_loss"]


def test_a_loss_that_joins_later_is_weighted_and_recorded_too():
    class Joins(Plain):
        def training_step(self, batch, batch_idx):
            x = self(batch[0])
            first = F.cross_entropy(x, batch[1])
            one_hot = F.one_hot(batch[1], CLASSES).float()
            return first + (F.mse_loss(x, one_hot) if self.trainer.current_epoch else 0)

    module = Joins()
    before = [p.detach().clone() for p in module.parameters()]
    tiny = AlignPrune(policy=Fixed([203], 1e-12), score=LossScore())
    fit(module, tiny, max_epochs=2)
    assert tiny._run.capture.kind == "terms"
    for now, then in zip(module.parameters(), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=1e-6)
    assert tiny.history[1]["kept"] == N


def test_a_metric_in_the_step_counts_neither_for_training_nor_for_the_reference():
    class WithMetric(Plain):
        def training_step(self, batch, batch_idx):
            x = self(batch[0])
            metric = F.cross_entropy(1000 * x.detach(), batch[1])  # the very function that is captured
            return F.cross_entropy(x, batch[1]) + 0 * metric

    callback, _ = fit(WithMetric(), AlignPrune(make_data()[1]), max_epochs=1)
    assert 0 < callback.history[0]["reference_loss"] < 10


# ---- schedules ----------------------------------------------------------------------------------------------


class Scheduled(IndexLoss):
    """A schedule made from the estimated number of steps; notes where it stands after each epoch."""

    def __init__(self, steps=None, frequency=1):
        super().__init__()
        self.steps, self.frequency, self.rates = steps, frequency, []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        self.estimated = self.trainer.estimated_stepping_batches
        total = self.estimated // self.frequency if self.steps is None else self.steps
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=int(total))
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": self.frequency}]

    def on_train_epoch_end(self):
        self.rates.append(self.lr_schedulers().get_last_lr()[0])


@pytest.mark.parametrize(
    ("trainer", "frequency"),
    [
        ({}, 1),
        ({"accumulate_grad_batches": 2}, 1),
        ({"accumulate_grad_batches": 5}, 1),
        ({"limit_train_batches": 6}, 1),
        ({"limit_train_batches": 0.5}, 1),
        ({}, 4),
    ],
    ids=str,
)
def test_a_schedule_by_steps_ends_at_its_end_and_follows_full_epochs(trainer, frequency):
    pruned, full = Scheduled(frequency=frequency), Scheduled(frequency=frequency)
    # The first epoch is a short one: the estimate must not be made from it.
    _, run = fit(pruned, AlignPrune(policy=Fixed([52, 203, 120]), score=LossScore()), max_epochs=6, **trainer)
    fit(full, AlignPrune(policy=NoPruning(), score=LossScore()), max_epochs=6, **trainer)
    assert pruned.estimated == full.estimated
    assert run.global_step < full.trainer.global_step == full.estimated
    assert pruned.rates == pytest.approx(full.rates)
    ends = [m.lr_schedulers().last_epoch for m in (pruned, full)]
    assert ends[0] == ends[1]
    assert frequency > 1 or ends[0] == pruned.estimated


@pytest.mark.parametrize("max_steps", [20, 33, 1000])
@pytest.mark.parametrize("max_epochs", [-1, 6])
def test_a_schedule_by_steps_ends_with_max_steps_or_the_epochs_whichever_is_first(max_steps, max_epochs):
    if max_epochs == -1 and max_steps == 1000:
        max_steps = 60
    module = Scheduled()
    _, run = fit(module, max_epochs=max_epochs, max_steps=max_steps)
    assert module.estimated == (max_steps if max_epochs == -1 else min(max_steps, 6 * 13))
    assert run.global_step == min(max_steps, 2 * (13 + 4 + 8) if max_epochs == 6 else max_steps)
    assert module.lr_schedulers().last_epoch == module.estimated


@pytest.mark.parametrize(
    ("trainer", "frequency"),
    [({}, 1), ({"accumulate_grad_batches": 5}, 1), ({"max_steps": 30}, 1), ({"limit_train_batches": 0.3}, 1), ({}, 3)],
    ids=str,
)
def test_without_pruning_a_schedule_goes_as_without_the_callback(trainer, frequency):
    rates = []
    for callbacks in ([AlignPrune(policy=NoPruning(), score=LossScore())], []):
        module, rate = Scheduled(frequency=frequency), LearningRates()
        make_trainer(*callbacks, rate, max_epochs=4, **trainer).fit(module, make_loader(make_data()[0]))
        rates.append(rate.seen)
    assert rates[0] == pytest.approx(rates[1])


class LearningRates(pl.Callback):
    """Notes the rate at the start of each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_schedules_are_left_alone_where_the_accumulation_factor_changes(caplog):
    steps = []
    for callbacks in ([AlignPrune(policy=NoPruning(), score=LossScore())], []):
        module = Warming()
        with caplog.at_level("INFO"):
            accumulation = GradientAccumulationScheduler({0: 1, 2: 4})
            make_trainer(*callbacks, accumulation, max_epochs=4).fit(module, make_loader(make_data()[0]))
        steps.append(module.lr_schedulers().last_epoch)
    assert steps[0] == steps[1] == 34
    assert "leaves LambdaLR alone" in caplog.text


class Warming(Plain):
    """A schedule that does not say where it ends."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 30))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=16),
        lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=16),
    ],
    ids=["cosine", "warm-up"],
)
def test_a_schedule_that_ends_within_the_run_is_left_alone(make):
    class Short(Plain):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [{"scheduler": make(optimizer), "interval": "step"}]

    module = Short()
    _, run = fit(module)
    assert module.lr_schedulers().last_epoch == run.global_step == 38


def test_schedules_are_left_alone_where_asked_for_and_where_made_for_other_epochs(caplog):
    module = Scheduled()
    with caplog.at_level("INFO"):
        fit(module, AlignPrune(policy=Fixed(SIZES), score=LossScore()))
    assert (
        "stretches OneCycleLR over the run: pruned epochs have fewer steps, and it still ends at its end (52 steps"
        in caplog.text
    )
    caplog.clear()
    left = Scheduled()
    with caplog.at_level("INFO"):
        _, run = fit(left, AlignPrune(policy=Fixed(SIZES), score=LossScore(), rescale_schedules=False))
    assert left.lr_schedulers().last_epoch == run.global_step == 13 + 4 + 8 + 13
    assert "leaves OneCycleLR alone" in caplog.text
    caplog.clear()
    short = Scheduled(steps=40)  # as a user has it who has counted the pruned epochs
    with caplog.at_level("INFO"):
        fit(short)
    assert short.lr_schedulers().last_epoch == 38
    assert "leaves OneCycleLR alone" in caplog.text


def test_a_schedule_by_epochs_is_stepped_once_an_epoch():
    module = IndexLoss()
    _, run = fit(module)
    assert run.lr_scheduler_configs[0].scheduler.last_epoch == 4


# ---- lengths ------------------------------------------------------------------------------------------------


def test_max_steps_ends_within_a_short_epoch():
    module = IndexLoss()
    callback, run = fit(module, max_epochs=-1, max_steps=20)
    assert run.global_step == 20
    assert [row["kept"] for row in callback.history] == [203, 52, 3 * 16]
    assert [len(module.trained(epoch)) for epoch in range(3)] == [203, 52, 48]


def test_the_trainer_knows_the_last_batch_of_every_epoch():
    class Last(pl.Callback):
        seen: ClassVar[list] = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.seen.append((trainer.current_epoch, batch_idx, trainer.is_last_batch))

    fit(IndexLoss(), AlignPrune(policy=Fixed([52, 203, 120]), score=LossScore()), Last(), max_epochs=3)
    assert [(epoch, number) for epoch, number, is_last in Last.seen if is_last] == [(0, 3), (1, 12), (2, 7)]


@pytest.mark.parametrize(
    ("trainer", "validated"),
    [
        ({"val_check_interval": 1.0}, [0, 1, 2, 3]),
        ({"val_check_interval": 0.5}, [0, 0, 1, 1, 2, 2, 3, 3]),
        ({"val_check_interval": 4}, [0, 0, 0, 1, 2, 2, 3, 3, 3]),  # 13, 4, 8 and 13 batches
        ({"val_check_interval": 6}, [0, 0, 1, 2, 3, 3]),  # 4 batches are validated at their end
        ({"val_check_interval": 5, "check_val_every_n_epoch": None}, [0, 0, 1, 2, 2, 3, 3]),  # by batches in all: 38
        ({"check_val_every_n_epoch": 2}, [1, 3]),
        ({"limit_val_batches": 0}, []),
    ],
    ids=str,
)
def test_validation_runs_when_it_should(trainer, validated):
    module = IndexLoss()
    callback, _ = fit(module, val=True, **trainer)
    assert module.validated == validated
    check_exact(module, callback)


@pytest.mark.parametrize(("limit", "sizes"), [(6, [96, 52, 96]), (0.5, [96, 32, 64]), (0.1, [16, 16, 16])])
def test_limit_train_batches_cuts_each_epochs_own_length(limit, sizes):
    module = IndexLoss()
    callback, _ = fit(module, limit_train_batches=limit)
    check_exact(module, callback, sizes)


def test_overfit_batches_is_refused():
    with pytest.raises(MisconfigurationException, match=r"overfit_batches=2.*use limit_train_batches"):
        fit(IndexLoss(), overfit_batches=2)


def test_fast_dev_run_trains_one_batch():
    module = IndexLoss()
    callback, run = fit(module, AlignPrune(make_data()[1]), val=True, fast_dev_run=True)
    assert run.global_step == 1
    assert callback.history[0]["kept"] == 16
    assert module.validated == [0]


def test_sanity_validation_records_nothing():
    module = IndexLoss()
    callback, _ = fit(module, val=True, num_sanity_val_steps=2)
    assert module.validated == [0, 0, 1, 2, 3]
    check_exact(module, callback)


def test_early_stopping_ends_a_pruned_run():
    class Worse(IndexLoss):
        def validation_step(self, batch, batch_idx):
            self.log("val/loss", float(self.trainer.current_epoch))

    module = Worse()
    callback, run = fit(module, None, EarlyStopping("val/loss", patience=2), val=True, max_epochs=9)
    assert run.current_epoch == 3
    check_exact(module, callback, epochs=3)


@pytest.mark.parametrize("stands", [0, 1])
@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_stochastic_weight_averaging_updates_batch_norm_over_the_plan(stands):
    module = IndexLoss()
    callback = AlignPrune(policy=Fixed(SIZES), score=LossScore(), storage_dtype=torch.float32)
    callbacks = [callback, StochasticWeightAveraging(0.05, swa_epoch_start=2)]
    run = make_trainer(*(callbacks if stands == 0 else reversed(callbacks)), max_epochs=4)
    run.fit(module, make_loader(make_data()[0]))
    check_exact(module, callback, epochs=5)  # the fifth is the one that updates batch norm
    assert int(module.net[1].num_batches_tracked) == 4  # of 52 samples


# ---- loaders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_keep_the_plans_order(persistent):
    module = IndexLoss()
    loader = make_loader(make_data()[0], num_workers=2, persistent_workers=persistent)
    callback, _ = fit(module, loader=loader)
    check_exact(module, callback)


class Doubling(DataLoader):
    """A loader of the user's own, with an argument of its own."""

    def __init__(self, dataset, *args, factor, **kwargs):
        super().__init__(dataset, *args, **kwargs)
        self.factor = factor

    def __iter__(self):
        for x, y in super().__iter__():
            yield torch.cat([x[:, :1], x[:, 1:] * self.factor], dim=1), y


def test_a_custom_loader_class_keeps_its_arguments():
    class Doubled(IndexLoss):
        def training_step(self, batch, batch_idx):
            torch.testing.assert_close(batch[0][:, 1:], 2 * make_data()[0].tensors[0][batch[0][:, 0].long(), 1:])
            return super().training_step(batch, batch_idx)

    module = Doubled()
    callback, _ = fit(module, loader=Doubling(make_data()[0], batch_size=16, shuffle=True, factor=2))
    check_exact(module, callback)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_loader_class_does_with_a_batch_is_done_with_the_references_and_the_probes_too(workers):
    seen = []  # not the module's, whose own are put back

    class Sees(Plain):
        def forward(self, x):
            seen.append((self.training, len(x), float(x[:, 1:].abs().max())))
            return super().forward(x)

    callback = AlignPrune(make_data()[1], Calibrated("ucb", calibration=0.2, line=0.5), "trajectory", seed=0)
    train = Doubling(make_data()[0], batch_size=16, shuffle=True, factor=0.001, num_workers=workers)
    fit(Sees(), callback, loader=train, max_epochs=3)
    assert callback.history[1]["probed"] > 20
    passed = sum(size for training, size, _ in seen if not training)
    assert passed >= sum(row["probed"] for row in callback.history) + 3 * len(make_data()[1])
    assert max(largest for *_, largest in seen) < 0.02


def test_so_it_is_where_only_the_hook_that_makes_the_loader_knows_its_arguments():
    class Made(Doubling):
        def __init__(self, dataset, by, **kwargs):
            super().__init__(dataset, factor=by, **kwargs)

    class Both(pl.LightningDataModule):
        def train_dataloader(self):
            return Made(make_data()[0], by=0.001, batch_size=16, shuffle=True)

    seen = []

    class Sees(Plain):
        def forward(self, x):
            seen.append((self.training, x[:, 0].long().tolist(), float(x[:, 1:].abs().max())))
            return super().forward(x)

    reference = make_data()[1]
    make_trainer(AlignPrune(reference, NoPruning(), "loss"), max_epochs=1).fit(Sees(), datamodule=Both())
    passed = {index for is_training, batch, _ in seen if not is_training for index in batch}
    assert passed == set(reference.tensors[0][:, 0].long().tolist())
    assert max(largest for *_, largest in seen) < 0.02


def test_a_users_collate_fn_makes_the_batches():
    class Named(IndexLoss):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["x"], batch["y"]), batch_idx)

    def collate(samples):
        x, y = default_collate(samples)
        return {"x": x, "y": y}

    module = Named()
    callback = AlignPrune(make_data()[1], Fixed(SIZES), LossScore(), storage_dtype=torch.float32)
    fit(module, callback, loader=make_loader(make_data()[0], collate_fn=collate))
    check_exact(module, callback)
    assert callback.history[0]["reference_loss"] == pytest.approx(N + 9.5)  # a data set is collated likewise


class Data(pl.LightningDataModule):
    def __init__(self, sizes=(N,)):
        super().__init__()
        self.sizes, self.asked = list(sizes), 0

    def train_dataloader(self):
        x, y = make_data()[0].tensors
        n = self.sizes[min(self.asked, len(self.sizes) - 1)]
        self.asked += 1
        return make_loader(TensorDataset(x[:n], y[:n]))


@pytest.mark.parametrize(("every", "asked"), [(0, 1), (1, 4), (2, 2)])
def test_a_datamodule_is_asked_as_often_as_reload_dataloaders_says(every, asked):
    module, data = IndexLoss(), Data()
    callback = AlignPrune(policy=Fixed(SIZES), score=LossScore(), storage_dtype=torch.float32)
    run = make_trainer(callback, max_epochs=4, reload_dataloaders_every_n_epochs=every)
    run.fit(module, datamodule=data)
    assert data.asked == asked
    check_exact(module, callback)


def test_drop_last_drops_from_each_epochs_plan():
    module = IndexLoss()
    callback, _ = fit(module, loader=make_loader(make_data()[0], drop_last=True))
    check_exact(module, callback, [192, 48, 112])


def test_an_epoch_of_which_drop_last_would_leave_nothing_is_refused_by_name():
    module = IndexLoss()
    callback = AlignPrune(policy=Fixed([203, 10]), score=LossScore())
    with pytest.raises(
        MisconfigurationException, match=r"plan gives each process 10 samples, but drop_last=True drops all"
    ):
        fit(module, callback, loader=make_loader(make_data()[0], drop_last=True))
    assert len(callback.history) == 1


@pytest.mark.parametrize("kind", ["keywords", "keyword alone", "batch alone"])
def test_a_step_may_take_its_arguments_as_lightning_lets_it(kind):
    class Takes(Plain):
        if kind == "keywords":

            def training_step(self, batch, **kwargs):
                return F.cross_entropy(self(batch[0]), batch[1])

        elif kind == "keyword alone":

            def training_step(self, batch, *, scale=1.0):
                return scale * F.cross_entropy(self(batch[0]), batch[1])

        else:

            def training_step(self, batch):
                return F.cross_entropy(self(batch[0]), batch[1])

    callback, _ = fit(Takes(), AlignPrune(make_data()[1]), max_epochs=1)
    assert callback.history[0]["reference_loss"] > 0


def test_a_loader_that_does_not_shuffle_keeps_the_data_sets_order():
    module = IndexLoss()
    fit(module, AlignPrune(policy=Random(0.5), score=LossScore()), loader=make_loader(make_data()[0], shuffle=False))
    assert all(module.trained(epoch) == sorted(module.trained(epoch)) for epoch in range(4))


def test_without_shuffling_the_end_of_the_data_set_is_trained_too():
    class Last(NoPruning):
        def plan(self, scores, ask):
            return EpochPlan.of(torch.arange(N - 129, N))  # four batches, and one sample

    module = IndexLoss()
    fit(
        module,
        AlignPrune(policy=Last(), score="loss"),
        loader=make_loader(make_data()[0], shuffle=False, batch_size=32),
    )
    assert all(module.trained(epoch) == sorted(module.trained(epoch)) for epoch in range(4))
    assert all(len(set(module.trained(epoch))) == 128 for epoch in range(4))
    assert [N - 1 in module.trained(epoch) for epoch in range(4)] == [False, True, True, True]


def test_a_users_distributed_sampler_is_taken_over():
    train = make_data()[0]
    module = IndexLoss()
    sampler = DistributedSampler(train, num_replicas=1, rank=0)
    callback, _ = fit(module, loader=DataLoader(train, batch_size=16, sampler=sampler))
    check_exact(module, callback)
    other = DistributedSampler(train, num_replicas=3, rank=0)
    with pytest.raises(MisconfigurationException, match=r"for 3 processes, but the Trainer runs 1"):
        fit(IndexLoss(), loader=DataLoader(train, batch_size=16, sampler=other))


# ---- refused before training starts -------------------------------------------------------------------------


class Sized(IterableDataset):
    def __iter__(self):
        yield from zip(*make_data()[0].tensors, strict=True)

    def __len__(self):
        return N


class OwnBatches(DataLoader):
    def __init__(self, dataset):
        super().__init__(dataset, batch_sampler=BatchSampler(RandomSampler(dataset), 16, False))


class InHook(IndexLoss):
    """Makes its loader in its own hook, where Lightning knows the arguments as they are given."""

    def __init__(self, *arguments, **named):
        super().__init__()
        self.given = arguments, named

    def train_dataloader(self):
        """The training data."""
        arguments, named = self.given
        return DataLoader(make_data()[0], *arguments, **named)


@pytest.mark.parametrize("arguments", [(16, True), (16,), ()])
def test_a_loader_of_a_hook_may_have_its_arguments_by_position(arguments):
    module = InHook(*arguments, **({} if arguments else {"batch_size": 16}))
    prune = AlignPrune(policy=Fixed(SIZES), score=LossScore(), storage_dtype=torch.float32)
    make_trainer(prune, max_epochs=3).fit(module)
    assert [len(module.trained(epoch)) for epoch in range(3)] == SIZES
    torch.testing.assert_close(prune.store.losses()[module.trained(2), -1], torch.tensor(module.trained(2)).float())


class Resumable(DataLoader):
    def load_state_dict(self, state):
        """Go on from a state."""


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: Resumable(make_data()[0]), "stateful loader Resumable.*use DataLoader"),
        (lambda: {"a": make_loader(make_data()[0])}, "dict as training loader.*pass a single one"),
        (
            lambda: DataLoader(make_data()[0], batch_size=None),
            r"DataLoader\(batch_size=None\).*let the data set give single",
        ),
        (lambda: make_loader(make_data()[0], num_workers=2, in_order=False), "in_order=False.*leave in_order=True"),
        (lambda: DataLoader(make_data()[0], 16, sampler=SequentialSampler(range(100))), "sampler SequentialSampler"),
        (lambda: DataLoader(make_data()[0], 16, sampler=RandomSampler(range(100))), "sampler RandomSampler"),
        (
            lambda: DataLoader(make_data()[0], batch_sampler=BatchSampler(SequentialSampler(range(100)), 16, False)),
            "sampler SequentialSampler",
        ),
        (lambda: OwnBatches(make_data()[0]), "could not make the loader OwnBatches again.*pass its arguments by name"),
    ],
)
def test_a_loader_that_cannot_be_pruned_is_refused_before_training(loader, message):
    module = IndexLoss()
    with pytest.raises(MisconfigurationException, match=message):
        fit(module, loader=loader())
    assert module.batches == []


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_plain_batch_sampler_is_the_same_as_a_batch_size(drop_last, shuffle):
    train, reference, _ = make_data()
    runs = []
    for is_batched in (False, True):
        sampler = RandomSampler(train) if shuffle else SequentialSampler(train)
        how = {"batch_size": 16, "shuffle": shuffle, "drop_last": drop_last}
        how = {"batch_sampler": BatchSampler(sampler, 16, drop_last)} if is_batched else how
        loader = Doubling(train, factor=2, **how)
        clean = DataLoader(reference, batch_sampler=BatchSampler(SequentialSampler(reference), 7, False))
        prune = AlignPrune(
            clean if is_batched else DataLoader(reference, 7), score=AlignmentScore(warm_up=2), seed=3, window=4
        )
        torch.manual_seed(0)
        module = Plain()
        make_trainer(prune).fit(module, loader)
        runs.append((module.batches, prune.store.losses(), [row["kept"] for row in prune.history]))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1].nan_to_num(-1), runs[1][1].nan_to_num(-1))
    assert len(set(runs[1][2])) > 1


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
def test_a_step_that_draws_its_own_batches_is_refused():
    class Draws(IndexLoss):
        def training_step(self, dataloader_iter):
            """Draw batches."""

    with pytest.raises(MisconfigurationException, match=r"training_step\(dataloader_iter\).*take a batch"):
        fit(Draws())


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            TensorDataset(torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)),
            "failed in training_step with RuntimeError",
        ),
        (TensorDataset(torch.zeros(5, 5)), "failed in training_step with ValueError"),
        (TensorDataset(torch.zeros(5, 5), torch.full((5,), 7)), "failed in training_step with IndexError"),
    ],
)
def test_a_reference_of_another_form_is_refused_before_training(reference, message):
    module = Plain()
    with pytest.raises(MisconfigurationException, match=f"{message}.*must have the training set's form"):
        fit(module, AlignPrune(reference))
    assert module.batches == []


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_start"])
def test_a_reference_is_tried_when_the_module_has_begun(hook):
    class Begun(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * self.factor

    setattr(Begun, hook, lambda self: setattr(self, "factor", 2.0))
    prune, _ = fit(Begun(), AlignPrune(make_data()[1], score="loss"))
    assert len(prune.history) == 4


def test_what_fails_in_a_loss_fn_or_in_the_references_own_data_is_told_as_that():
    class Damaged(TensorDataset):
        def __getitem__(self, index):
            raise ValueError("5.png is not a whole image")

    with pytest.raises(MisconfigurationException, match=r"failed in loss_fn with KeyError \('no'\).*, or mend loss_fn"):
        fit(Plain(), AlignPrune(make_data()[1], loss_fn=lambda module, batch: {}["no"]))
    with pytest.raises(ValueError, match=r"^5\.png is not a whole image$"):
        fit(Plain(), AlignPrune(Damaged(*make_data()[1].tensors)))


def test_a_loss_fn_that_does_not_give_one_loss_a_sample_is_refused_before_training():
    module = Plain()
    with pytest.raises(
        MisconfigurationException, match=r"loss_fn gave losses \(\) for a reference batch of 16 samples"
    ):
        fit(module, AlignPrune(make_data()[1], loss_fn=lambda module, batch: batch[0].mean()))
    with pytest.raises(MisconfigurationException, match=r"loss_fn gave losses \(3,\) for a reference batch of 16"):
        fit(module, AlignPrune(make_data()[1], loss_fn=lambda module, batch: batch[0][:3, 0]))
    assert module.batches == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (DataLoader(Sized()), "reference=Sized is given"),
        (DataLoader(make_data()[1], drop_last=True), "drop_last=True"),
        (DataLoader(make_data()[1], batch_size=None), "batch sampler of its own"),
        (DataLoader(make_data()[1], sampler=SequentialSampler(range(10))), "sampler SequentialSampler"),
        (DataLoader(TensorDataset(torch.empty(0, 5))), "reference is empty"),
        (DataLoader(make_data()[0], sampler=SubsetRandomSampler([1, 2])), "sampler SubsetRandomSampler.*pass .*Subset"),
    ],
)
def test_a_reference_that_would_not_be_evaluated_whole_is_refused_at_once(reference, message):
    with pytest.raises(ValueError, match=message):
        AlignPrune(reference)


@pytest.mark.parametrize("reference", [False, True])
def test_a_step_whose_gradient_passes_no_tensor_of_samples_is_refused_before_any_update(reference):
    class Turned(Plain):
        def forward(self, x):  # samples in columns
            return self.net[0].weight[:3] @ x[:, 1:].T

    module = Turned(loss=lambda logits, labels: logits.square().mean())
    before = [parameter.detach().clone() for parameter in module.parameters()]
    prune = AlignPrune(make_data()[1] if reference else None, score="loss")
    with pytest.raises(MisconfigurationException, match=r"no tensor of the batch's 16 samples .* \(3, 16\)"):
        fit(module, prune)
    assert all(map(torch.equal, module.parameters(), before))


def test_a_data_set_that_changes_its_length_is_refused():
    data = Data([N, N - 3])
    run = make_trainer(AlignPrune(policy=Fixed([52]), score=LossScore()), reload_dataloaders_every_n_epochs=1)
    with pytest.raises(MisconfigurationException, match=f"had {N} samples and now has {N - 3}"):
        run.fit(IndexLoss(), datamodule=data)

    class Growing(Dataset):
        def __init__(self):
            self.samples = list(make_data()[0])

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, index):
            return self.samples[index]

    growing = Growing()

    class Grows(IndexLoss):
        def on_train_epoch_end(self):
            growing.samples.append(growing.samples[0])

    module = Grows()
    with pytest.raises(MisconfigurationException, match=f"had {N} samples and now has {N + 1}"):
        fit(module, loader=make_loader(growing))
    assert {epoch for epoch, _ in module.batches} == {0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoBatch(1.0), r"ratio=1.0 is given, but a pruning ratio in \[0, 1\)"),
        (lambda: Random(-0.1), r"ratio=-0.1 is given"),
        (lambda: SeTa(1.5), r"ratio=1.5 is given"),
        (lambda: AlignPrune(score=LossScore(), window=1), "window=1 is given"),
        (lambda: AlignPrune(score=LossScore(), capture_mode="magic"), "capture_mode='magic' is given"),
    ],
)
def test_impossible_arguments_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- never poisoned by a loss that is not finite ---------------------------------------------------------------


class Poisoned(IndexLoss):
    """The losses of ``bad(epoch, batch, index)`` samples are not finite; parameters are left alone."""

    def __init__(self, bad, value=math.nan):
        super().__init__()
        self.bad, self.value = bad, value

    def training_step(self, batch, batch_idx):
        index = batch[0][:, 0]
        if self.training:
            self.batches.append((self.trainer.current_epoch, index.long().tolist()))
        bad = self.bad(self.trainer.current_epoch, batch_idx, index) if self.training else index < 0
        losses = torch.where(bad, self.value, 10 + index / (2 + self.trainer.current_epoch))
        nothing = 0.0 * self(batch[0]).sum()
        return {"loss": nothing, "per_sample_loss": losses + nothing}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


BAD = {
    "one sample": lambda epoch, batch, index: index == 7,
    "one batch": lambda epoch, batch, index: torch.full_like(index, batch == 1, dtype=torch.bool),
    "one epoch": lambda epoch, batch, index: torch.full_like(index, epoch == 3, dtype=torch.bool),
    "always": lambda epoch, batch, index: torch.ones_like(index, dtype=torch.bool),
}


# What a store, a score and a policy make of such a loss, their own tests say of every one of them.
@pytest.mark.parametrize(
    ("bad", "value", "policy", "score"),
    [
        ("one sample", math.nan, InfoBatch(0.5), LossScore()),
        ("one batch", math.inf, SeTa(0.1), AlignmentScore(warm_up=2)),
        ("one epoch", -math.inf, InfoBatch(0.5), AlignmentScore(warm_up=2)),
        ("always", math.nan, SeTa(0.1), LossScore()),
    ],
    ids=list(BAD),
)
def test_losses_that_are_not_finite_are_counted_and_spoil_no_other_sample(bad, value, policy, score):
    module = Poisoned(BAD[bad], value)
    callback = AlignPrune(make_data()[1], policy, score, window=4, storage_dtype=torch.float32)
    _, run = fit(module, callback, max_epochs=6)
    counted = sum(int(BAD[bad](e, b, torch.tensor(i)).sum()) for e, b, i in numbered(module.batches))
    assert callback.history[-1]["nonfinite"] == counted > 0
    assert run.callback_metrics["pruning/nonfinite"] == counted
    assert all(0 < len(module.trained(epoch)) <= N for epoch in range(6))
    losses = callback.store.losses()
    assert not losses.isinf().any()
    # What was recorded is what the sample's own loss was.
    index = torch.arange(N)[:, None] / (2 + torch.arange(2, 6))
    seen = losses.isfinite()
    torch.testing.assert_close(losses[seen], (10 + index)[seen])


def numbered(batches):
    position = dict.fromkeys(range(100), 0)
    for epoch, indices in batches:
        yield epoch, position[epoch], indices
        position[epoch] += 1


def test_reference_losses_that_are_not_finite_are_left_out_and_counted():
    def loss_fn(module, batch):
        return torch.where(batch[0][:, 0] < N + 5, math.nan, 2.0)

    callback, run = fit(IndexLoss(), AlignPrune(make_data()[1], loss_fn=loss_fn), max_epochs=1)
    assert callback.history[0]["reference_loss"] == 2
    assert run.callback_metrics["pruning/reference_nonfinite"] == 5
    module, score = Plain(), AlignmentScore(warm_up=2)
    fit(module, AlignPrune(make_data()[1], score=score, window=3, loss_fn=lambda m, b: b[1] * math.nan), max_epochs=6)
    assert all(len(module.trained(epoch)) == N for epoch in range(3, 6))  # no score: nothing is pruned


# ---- more than one fit ----------------------------------------------------------------------------------------


def test_a_trainer_that_fits_on_goes_on_with_the_trajectories():
    module = IndexLoss()
    callback, run = fit(module, max_epochs=2)
    run.fit_loop.max_epochs = 4
    run.fit(module, make_loader(make_data()[0]))
    check_exact(module, callback)


def test_a_trainer_that_fits_again_after_an_interruption_starts_the_epoch_anew():
    class Breaks(IndexLoss):
        broken = False

        def training_step(self, batch, batch_idx):
            if self.broken or self.trainer.current_epoch != 1:
                return super().training_step(batch, batch_idx)
            if batch_idx == 2:
                self.broken = True
                raise RuntimeError("broken")
            index = batch[0][:, :1]  # squared by the loss: nothing to remember
            return F.mse_loss(0.0 * self(batch[0])[:, :1] + index, torch.zeros_like(index))

    module = Breaks()
    callback = AlignPrune(policy=Fixed(SIZES), score=LossScore(), storage_dtype=torch.float32)
    run = make_trainer(callback, max_epochs=2)  # epoch 1 is the last, so that no later loss hides its own
    with pytest.raises(RuntimeError, match="broken"):
        run.fit(module, make_loader(make_data()[0]))
    run.fit(module, make_loader(make_data()[0]))
    check_exact(module, callback, epochs=2)


def test_a_trainer_that_has_run_without_the_callback_can_go_on_with_it():
    module = IndexLoss()
    run = make_trainer(max_epochs=1)
    run.fit(module, make_loader(make_data()[0]))
    callback = AlignPrune(policy=Fixed(SIZES), score=LossScore(), storage_dtype=torch.float32)
    run.callbacks.append(callback)
    run.fit_loop.max_epochs = 3
    run.fit(module, make_loader(make_data()[0]))
    assert [row["kept"] for row in callback.history] == SIZES[1:] == [len(module.trained(epoch)) for epoch in (1, 2)]


@pytest.mark.parametrize("capture_mode", ["auto", "explicit"])
def test_returned_losses_are_weighted_once(capture_mode):
    class Returns(Linear):
        def training_step(self, batch, batch_idx):
            self.batches.append(batch)
            losses = F.cross_entropy(self.net(batch[0][:, 1:]), batch[1], reduction="none")
            return {"loss": losses.mean(), "per_sample_loss": losses}

    module, fresh = Returns(), Linear()
    callback = AlignPrune(policy=Fixed([16], 3.0), score=LossScore(), capture_mode=capture_mode)
    fit(module, callback, max_epochs=1)
    for now, then, grad in zip(
        module.parameters(), fresh.parameters(), gradient(fresh, module.batches[0], 3.0), strict=True
    ):
        torch.testing.assert_close(now, then - 0.1 * grad)
    assert callback._run.capture.kind == "given"
