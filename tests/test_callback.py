"""The callback in real runs of Lightning's Trainer."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from alignprune_pl import AlignmentScore, AlignPrune, InfoBatch, LossScore, NoPruning, Random, SeTa
from alignprune_pl.core.epoch_metrics import as_sentence, epoch_row, noise_auroc
from helpers import Fixed, IndexLoss, N, Plain, make_data, make_loader, make_trainer


class Losses(pl.Callback):
    """Notes what the store holds just before each epoch is closed."""

    def __init__(self, callback):
        self.callback, self.rows = callback, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.rows.append(self.callback.store.losses()[:, -1].clone())  # needs storage_dtype=torch.float32


def fit(callback, module=None, loader=None, val=True, trainer=None, **kwargs):
    train, reference, _ = make_data()
    module = Plain() if module is None else module
    trainer = make_trainer(callback, **kwargs) if trainer is None else trainer
    trainer.fit(module, make_loader(train) if loader is None else loader, DataLoader(reference, 20) if val else None)
    return module, trainer


@pytest.mark.parametrize(
    ("policy", "score"),
    [
        (NoPruning(), LossScore()),
        (Random(0.3), AlignmentScore(warm_up=2)),
        (InfoBatch(0.5), AlignmentScore(warm_up=2)),
        (SeTa(0.1), LossScore()),
    ],
    ids=lambda part: type(part).__name__,
)
def test_one_line_trains_an_ordinary_module_on_each_epochs_plan(policy, score):
    _, reference, mask = make_data()
    callback = AlignPrune(reference, policy, score, window=3, noise_mask=mask)
    module, trainer = fit(callback, max_epochs=6)
    assert [row["kept"] for row in callback.history] == [len(module.trained(e)) for e in range(6)]
    for epoch in range(6):
        assert len(set(module.trained(epoch))) == len(module.trained(epoch))
    assert module.validated == list(range(6))
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 6
    sizes = {row["kept"] for row in callback.history}
    assert sizes == {N} if isinstance(policy, NoPruning) else min(sizes) < N


def test_the_sampler_serves_exactly_the_policys_plan_in_order():
    seen = []

    class Watched(Fixed):
        def plan(self, *args, **kwargs):
            seen.append(super().plan(*args, **kwargs))
            return seen[-1]

    callback = AlignPrune(policy=Watched([100, 37, 160]), score=LossScore())
    module, _ = fit(callback, loader=make_loader(make_data()[0], shuffle=False))
    for epoch in range(5):
        assert module.trained(epoch) == seen[epoch].keep.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_every_loss_is_recorded_under_its_own_sample(workers):
    train, _, _ = make_data()

    callback = AlignPrune(policy=Fixed([203, 52, 120]), score=LossScore(), storage_dtype=torch.float32)
    losses = Losses(callback)
    loader = make_loader(train, num_workers=workers, persistent_workers=workers > 0)
    module = IndexLoss()
    fit(callback, module, loader, trainer=make_trainer(callback, losses, max_epochs=4))
    for epoch, row in enumerate(losses.rows):
        trained = torch.tensor(sorted(module.trained(epoch)))
        torch.testing.assert_close(row[trained], trained.float(), rtol=1e-5, atol=1e-5)
        assert int((~row.isnan()).sum()) == len(trained)


def test_recorded_losses_are_those_of_the_step_and_weights_scale_the_gradient():
    train, _, _ = make_data()
    for weight in (1.0, 2.0):
        module = Plain()
        module.net.load_state_dict({k: torch.full_like(v, 0.1) for k, v in module.net.state_dict().items()})
        x, y = train.tensors
        module.net.train()
        expected = F.cross_entropy(module(x), y, reduction="none")
        grad = torch.autograd.grad(expected.mean(), list(module.parameters()))
        before = [p.detach().clone() for p in module.parameters()]
        callback = AlignPrune(policy=Fixed([N], weight), score=LossScore(), storage_dtype=torch.float32)
        losses = Losses(callback)
        loader = make_loader(train, batch_size=N)
        module.net.load_state_dict({k: torch.full_like(v, 0.1) for k, v in module.net.state_dict().items()})
        fit(callback, module, loader, trainer=make_trainer(callback, losses, max_epochs=1), val=False)
        torch.testing.assert_close(losses.rows[0], expected.detach())
        for now, then, g in zip(module.parameters(), before, grad, strict=True):
            torch.testing.assert_close(now, then - 0.1 * weight * g)


def test_a_module_may_return_its_per_sample_losses_instead():
    class Returns(Plain):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            per_sample = (self(batch[0]).logsumexp(1) - self(batch[0]).gather(1, batch[1][:, None])[:, 0]).abs()
            return {"loss": per_sample.mean(), "per_sample_loss": per_sample}

    callback = AlignPrune(make_data()[1], window=3, score=AlignmentScore(warm_up=2))
    module, _ = fit(callback, Returns(loss=lambda logits, labels: logits.sum()))
    assert callback._run.capture.kind == "given"
    assert callback.store.last_loss().isfinite().all()
    assert min(len(module.trained(e)) for e in range(5)) < N


def test_module_loader_and_torch_are_as_they_were_after_fit():
    train, reference, _ = make_data()
    loader = make_loader(train)
    sampler, module = loader.sampler, Plain()
    functions = dict(vars(F))
    bare, _ = fit(None, trainer=make_trainer(max_epochs=1))
    fit(AlignPrune(reference), module, loader, max_epochs=2)
    assert loader.sampler is sampler
    assert loader.batch_sampler.sampler is sampler
    assert dict(vars(F)) == functions
    assert set(vars(module)) == set(vars(bare))
    assert "training_step" not in vars(module)


@pytest.mark.parametrize("batch", [0, 3])
def test_module_and_torch_are_as_they_were_after_an_exception(batch):
    class Breaks(Plain):
        def training_step(self, batch_, batch_idx):
            loss = super().training_step(batch_, batch_idx)
            if batch_idx == batch and self.training:
                raise RuntimeError("broken step")
            return loss

    module, functions = Breaks(), dict(vars(F))
    trainer = make_trainer(AlignPrune(make_data()[1]))
    with pytest.raises(RuntimeError, match="broken step"):
        fit(None, module, trainer=trainer)
    assert dict(vars(F)) == functions
    assert "training_step" not in vars(module)
    assert "dataloader" not in vars(trainer.fit_loop._data_source)


def test_a_second_trainer_without_the_callback_trains_on_everything():
    train, reference, _ = make_data()
    loader = make_loader(train)
    fit(AlignPrune(reference, Random(0.5), LossScore()), loader=loader, max_epochs=2)
    module, _ = fit(None, loader=loader, trainer=make_trainer(max_epochs=1))
    assert sorted(module.trained(0)) == list(range(N))


@pytest.mark.parametrize(
    ("loader", "trainer", "steps"),
    [
        ({}, {}, [7, 3, 13]),
        ({"drop_last": True}, {}, [6, 2, 12]),
        ({}, {"limit_train_batches": 5}, [5, 3, 5]),
        ({}, {"limit_train_batches": 0.5}, [3, 1, 6]),
        ({}, {"accumulate_grad_batches": 2}, [4, 2, 7]),
    ],
)
def test_epochs_of_different_lengths_are_right_everywhere(loader, trainer, steps):
    train, _, _ = make_data()
    totals = []

    class Bar(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            totals.append(trainer.num_training_batches)

    # 100 samples are 7 batches of 16 (the last one of 4), 40 are 3, 203 are 13.
    callback = AlignPrune(policy=Fixed([100, 40, 203]), score=LossScore())
    module, run = fit(
        callback, loader=make_loader(train, **loader), trainer=make_trainer(callback, Bar(), max_epochs=6, **trainer)
    )
    assert module.validated == list(range(6))
    assert run.lr_scheduler_configs[0].scheduler.last_epoch == 6
    assert run.global_step == 2 * sum(steps)
    assert totals == [len([e for e, _ in module.batches if e == epoch]) for epoch in range(6)]
    assert [row["kept"] for row in callback.history] == [len(module.trained(e)) for e in range(6)]


def test_validation_within_an_epoch_follows_its_length():
    callback = AlignPrune(policy=Fixed([203, 64]), score=LossScore())
    module, _ = fit(callback, max_epochs=4, val_check_interval=0.5)
    assert module.validated == [0, 0, 1, 1, 2, 2, 3, 3]


def test_warm_up_scores_by_the_loss_and_then_by_alignment():
    policy = Fixed([N])
    callback = AlignPrune(make_data()[1], policy, AlignmentScore(warm_up=3), window=5)
    fit(callback)
    assert policy.scores[0].isnan().all()
    assert all(bool((scores >= 0).all()) for scores in policy.scores[1:3])
    assert all(bool((scores.abs() <= 1).all()) and bool((scores < 0).any()) for scores in policy.scores[3:])
    assert policy.asked == list(range(6))


def test_the_reference_is_evaluated_in_eval_mode_and_leaves_the_run_as_it_was():
    modes = []

    class Delicate(Plain):
        def __init__(self):
            super().__init__()
            self.acc = MulticlassAccuracy(3)
            self.frozen = torch.nn.Dropout(0.5).eval()
            self.counts, self.drawn, self.losses, self.steps = [], [], [], 0
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("seen_in_place", torch.zeros(()))

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            modes.append((self.net.training, torch.is_grad_enabled()))
            self.losses.append(loss.detach())
            self.steps += 1
            self.seen = self.seen + 1
            self.seen_in_place.add_(1)
            self.made_in_the_step = batch_idx
            self.acc.update(self(batch[0]), batch[1])
            noise = torch.rand(1).item()  # of the user's own
            if self.training:
                self.drawn.append(noise)
            return loss

        def on_train_epoch_end(self):
            self.counts.append(int((self.acc.tp + self.acc.fn).sum()))
            self.acc.reset()
            assert len(self.losses) == 13
            self.losses.clear()

    _, reference, _ = make_data()
    finals, drawn = [], []
    for given in (reference, None):
        pl.seed_everything(3)
        module = Delicate()
        with pytest.warns(UserWarning, match="eval mode at the start"):
            fit(AlignPrune(given, NoPruning(), LossScore()), module, max_epochs=3)
        assert module.counts == [N] * 3
        assert module.steps == int(module.seen) == int(module.seen_in_place) == 39
        assert module.made_in_the_step == 12
        assert module.net.training
        assert not module.frozen.training
        finals.append(module.state_dict())
        drawn.append(module.drawn)
        assert ((False, True) in modes) == (given is not None)
        modes.clear()
    assert drawn[0] == drawn[1]
    for name, value in finals[0].items():
        assert torch.equal(value, finals[1][name]), name


def test_the_reference_loss_is_the_mean_over_all_its_samples():
    _, reference, _ = make_data()

    class Check(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            module.eval()
            with torch.no_grad():
                x, y = reference.tensors
                self.expected = F.cross_entropy(module(x), y).item()
            module.train()

    check = Check()
    # 20 samples in batches of 3 leave one batch of 2.
    callback = AlignPrune(DataLoader(reference, batch_size=3))
    fit(callback, trainer=make_trainer(callback, check, max_epochs=2))
    assert callback.history[-1]["reference_loss"] == pytest.approx(check.expected, rel=1e-5)
    given = AlignPrune(reference, loss_fn=lambda module, batch: torch.full((len(batch[0]),), 7.0))
    fit(given, max_epochs=1)
    assert given.history[0]["reference_loss"] == 7


def test_a_line_an_epoch_tells_of_losses_that_are_left_out():
    row = epoch_row([], 0, torch.arange(3), 4, torch.tensor([math.nan, math.nan]), 5, torch.rand(4), None)
    assert as_sentence(row).splitlines()[1] == "Epoch 0: 5 losses and 2 reference losses left out as not finite"
    whole = epoch_row([], 0, torch.arange(3), 4, torch.ones(2), 0, torch.rand(4), None)
    assert as_sentence(whole) == "Epoch 0: trained on 3 samples (75%), 25.0% saved"


def test_the_line_of_an_epoch_has_fewer_than_100_characters_with_a_million_samples_too():
    row = epoch_row(
        [], 199, torch.arange(3), 3, torch.ones(2), 0, torch.rand(4), torch.tensor([1, 0, 1, 0]).bool(), 1, 1.0
    )
    line = as_sentence({**row, "kept": 1_281_167, "noise_kept": 1.0, "saved": 0.125})
    said = "trained on 1,281,167 samples (100%), 100.0% mislabelled, est. 100.0% in all, 12.5% saved"
    assert line == f"Epoch 199: {said}"
    assert len(line) < 100
    unknown = epoch_row([], 2, torch.arange(3), 4, torch.ones(2), 0, torch.rand(4), None, 1, 0.4)
    assert ", est. 40.0% of all labels wrong, " in as_sentence(unknown)


def test_figures_are_logged_and_count_what_was_trained_on():
    _, reference, mask = make_data()
    callback = AlignPrune(reference, Fixed([100, 52]), LossScore(), noise_mask=mask)
    module, trainer = fit(callback, max_epochs=4)
    trained = torch.tensor(module.trained(3))
    logged = {k: v.item() for k, v in trainer.callback_metrics.items()}
    assert logged["pruning/kept"] == 52
    assert logged["pruning/saved"] == pytest.approx(1 - 304 / (4 * N))
    assert logged["pruning/noise_kept"] == pytest.approx(mask[trained].float().mean().item())
    assert logged["pruning/reference_loss"] == pytest.approx(callback.history[-1]["reference_loss"])
    assert logged["pruning/auroc"] == pytest.approx(noise_auroc(callback.store.last_loss(), mask), abs=1e-6)
    assert 0 < callback.summary()["pruning_time"] < 1


def test_the_noise_mask_never_reaches_the_selection():
    runs = []
    _, reference, mask = make_data()
    for given in (mask, None):
        pl.seed_everything(0)
        module, _ = fit(AlignPrune(reference, window=3, noise_mask=given), val=False, max_epochs=4)
        runs.append(module.batches)
    assert runs[0] == runs[1]
    assert len(module.trained(3)) < N


def test_auroc_ranks_beyond_the_unit_interval_and_leaves_unscored_samples_out():
    mask = torch.tensor([False, False, True, True, True])
    assert noise_auroc(torch.tensor([50.0, 60.0, 70.0, 80.0, math.nan]), mask) == 1
    assert noise_auroc(torch.tensor([-1.0, 1.0, 0.0, -2.0, math.nan]), mask) == pytest.approx(0.25)
    assert math.isnan(noise_auroc(torch.ones(5), torch.zeros(5, dtype=torch.bool)))


def test_the_same_seed_selects_the_same_samples_and_another_one_others():
    _, reference, _ = make_data()

    def run(seed):
        pl.seed_everything(0)
        prune = AlignPrune(reference, Random(0.5), LossScore(), seed=seed)
        return fit(prune, val=False, max_epochs=2)[0].batches

    first = run(1)
    assert first == run(1)
    assert first != run(2)


def test_seed_everything_seeds_the_selection_where_no_seed_is_given():
    runs = []
    for seed in (4, 4, 5):
        pl.seed_everything(seed)
        prune = AlignPrune(make_data()[1], Random(0.5), LossScore())
        runs.append(fit(prune, val=False, max_epochs=2)[0].batches)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_skipped_step_records_nothing_and_stops_nothing():
    class Breaks(Plain):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            logits = self(batch[0])
            loss = F.cross_entropy(torch.where(batch[0][:, :1] == 5, torch.nan, logits), batch[1])
            return None if loss.isnan() else loss

    callback = AlignPrune(make_data()[1], NoPruning(), LossScore())
    fit(callback, Breaks(loss=lambda logits, labels: logits.sum()), max_epochs=2)
    assert 1 <= callback.store.last_loss().isnan().sum() <= 16


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(5), torch.tensor(0)


def loader_with(kind):
    train, _, _ = make_data()
    return {
        "iterable": lambda: DataLoader(Stream()),
        "several": lambda: [make_loader(train), make_loader(train)],
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("iterable", "a stream whose samples have no keys"),
        ("several", "list as training loader"),
    ],
)
def test_a_loader_that_cannot_be_pruned_is_refused_before_training(kind, message):
    module = Plain()
    with pytest.raises((MisconfigurationException, ValueError), match=message):
        fit(AlignPrune(make_data()[1]), module, loader_with(kind), max_epochs=1)
    assert module.batches == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "AlignPrune got no reference"),
        ({"reference": TensorDataset(torch.empty(0, 5))}, "reference is empty"),
        ({"reference": 5}, "reference=int is given"),
        ({"score": LossScore(), "window": 1}, "window=1"),
        ({"seed": "a"}, "seed='a' is given, but a whole number of at least 0 is expected"),
        ({"seed": -1}, "seed=-1 is given, but a whole number of at least 0 is expected"),
        ({"capture_mode": "always"}, "capture_mode='always' is given, but 'auto' or 'explicit' is expected"),
        ({"noise_mask": torch.ones(3)}, r"noise_mask=torch.float32\[3\] is given, but bool\[n\] is expected"),
        ({"noise_mask": [0, 1]}, r"noise_mask=torch.int64\[2\] is given, but bool\[n\] is expected"),
        ({"storage_dtype": "float16"}, "storage_dtype='float16' is given, but 'bfloat16' or 'float32' is expected"),
        ({"storage_dtype": None}, "storage_dtype=None is given, but 'bfloat16' or 'float32' is expected"),
        ({"storage_dtype": torch.float16}, "dtype=torch.float16 is given, but torch.float32 or torch.bfloat16"),
    ],
)
def test_impossible_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        AlignPrune(**{"policy": "none", **arguments} if "reference" not in arguments and arguments else arguments)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ("bfloat16", torch.bfloat16),
        ("float32", torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
        (None, torch.bfloat16),
    ],
)
def test_trajectories_are_stored_as_the_user_says_by_a_word_or_a_dtype(given, dtype):
    callback = AlignPrune(policy="none", **{} if given is None else {"storage_dtype": given})
    fit(callback, max_epochs=1)
    assert callback.store.dtype == dtype
    assert callback.state_dict()["store"]["ring"].dtype == dtype


def test_a_noise_mask_of_another_length_is_refused():
    with pytest.raises(MisconfigurationException, match=f"noise_mask has 5 entries, but the training set has {N}"):
        fit(AlignPrune(make_data()[1], noise_mask=torch.zeros(5, dtype=torch.bool)))


def test_a_policy_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="kept no sample"):
        fit(AlignPrune(policy=Fixed([0]), score=LossScore()))


def test_a_noise_mask_may_be_an_array_or_a_list():
    masks = [AlignPrune(policy="none", noise_mask=mask).noise_mask for mask in ([True, False], np.array([True, False]))]
    assert all(mask.tolist() == [True, False] and mask.dtype == torch.bool for mask in masks)


class CountsByNumpy(NoPruning):
    """Its estimate is numpy's."""

    noise_rate = np.float64(0.25)


def test_numbers_of_numpy_are_pythons_in_what_is_saved(tmp_path):
    prune = AlignPrune(policy=CountsByNumpy(), score="loss", seed=np.int64(3))
    _, trainer = fit(prune, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"][prune.state_key]
    assert (state["planner"]["seed"], state["history"][0]["estimated_noise_rate"]) == (3, 0.25)


@pytest.mark.parametrize(("policy", "share"), [("none", 0.0), ("random", 0.3)])
def test_an_epoch_that_a_limit_of_steps_has_cut_short_saves_what_was_left_out_of_its_part(policy, share):
    prune = AlignPrune(policy=policy, score="loss")
    fit(prune, max_epochs=3, max_steps=15)
    assert prune.history[-1]["full"] < prune.history[0]["full"]
    assert prune.history[-1]["saved"] == pytest.approx(share, abs=0.03)
