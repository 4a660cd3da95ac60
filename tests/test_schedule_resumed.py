"""A schedule by steps in a run that goes on otherwise than it began."""

from __future__ import annotations

import pytest
import torch
from lightning import pytorch as pl
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader, TensorDataset

from alignprune_pl import AlignPrune
from helpers import make_trainer

N = 80


class Stepping(pl.LightningModule):
    """Its learning rate tells how often the schedule was stepped."""

    def __init__(self, make=None):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.make = make or (lambda optimizer, trainer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step))
        self.rates = []

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return [optimizer], [{"scheduler": self.make(optimizer, self.trainer), "interval": "step"}]

    def on_train_batch_start(self, batch, batch_idx):
        self.rates.append(self.optimizers().param_groups[0]["lr"])


def loader(batch_size=8):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(N, 2, generator=generator), torch.arange(N) % 2)
    return DataLoader(data, batch_size=batch_size, shuffle=True)


def nothing_left_out():
    return AlignPrune(policy="none", score="loss")


def rest(path, callbacks, batch_size=8, make=None, **settings):
    """The module after three epochs that follow three of ten steps."""
    first = make_trainer(*callbacks(), max_epochs=3)
    first.fit(Stepping(make), loader())
    first.save_checkpoint(path)
    module = Stepping(make)
    trainer = make_trainer(*callbacks(), max_epochs=6, **settings)
    trainer.fit(module, loader(batch_size), ckpt_path=str(path))
    return module


CHANGES = {
    "nothing": {},
    "larger batches": {"batch_size": 16},
    "smaller batches": {"batch_size": 4},
    "accumulation": {"accumulate_grad_batches": 2},
    "a limit": {"limit_train_batches": 5},
    "a last step": {"max_steps": 50},
}


@pytest.mark.parametrize("change", CHANGES)
def test_with_nothing_left_out_it_goes_on_step_by_step_whatever_has_changed(tmp_path, change):
    plain = rest(tmp_path / "plain.ckpt", list, **CHANGES[change]).rates
    ours = rest(tmp_path / "ours.ckpt", lambda: [nothing_left_out()], **CHANGES[change]).rates
    assert ours == plain
    assert ours[0] == 30


def test_the_rest_of_a_pruned_run_has_the_steps_of_full_epochs_as_they_are_now(tmp_path):
    def half():
        return [AlignPrune(policy="random", score="loss", seed=0)]

    module = rest(tmp_path / "a.ckpt", half, batch_size=16)
    assert module.rates[0] == 30
    assert len(module.rates) < 15
    assert module.lr_schedulers().last_epoch == 45


def test_what_has_changed_once_is_known_to_the_next_checkpoint(tmp_path):
    def ours():
        return make_trainer(nothing_left_out(), max_epochs=6, limit_train_batches=5)

    whole = rest(tmp_path / "a.ckpt", lambda: [nothing_left_out()], limit_train_batches=5).rates
    part = ours()
    part.fit_loop.max_epochs = 4
    part.fit(Stepping(), loader(), ckpt_path=str(tmp_path / "a.ckpt"))
    part.save_checkpoint(tmp_path / "b.ckpt")
    module = Stepping()
    ours().fit(module, loader(), ckpt_path=str(tmp_path / "b.ckpt"))
    assert module.rates == whole[5:] == list(range(35, 45))


def test_a_schedule_that_is_made_anew_begins_at_its_beginning():
    def one_cycle(optimizer, trainer):
        steps = int(trainer.estimated_stepping_batches)
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps)

    rates = []
    for callbacks in ([], [nothing_left_out()]):
        module, trainer = Stepping(one_cycle), make_trainer(*callbacks, max_epochs=2)
        trainer.fit(module, loader())
        trainer.fit_loop.max_epochs = 4
        trainer.fit(module, loader())
        rates.append(module.rates)
    assert rates[0] == rates[1]
    assert len(rates[0]) == 40


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"rescale_schedules": False, "max_epochs": 3}, {"max_epochs": 6}),
        ({"max_epochs": -1, "max_steps": 21}, {"max_epochs": 6}),
    ],
    ids=["left alone before", "by steps before"],
)
def test_it_does_not_jump_where_it_was_paced_otherwise_before(tmp_path, first, then):
    def trainer(rescale_schedules=True, **settings):
        prune = AlignPrune(policy="random", score="loss", seed=0, rescale_schedules=rescale_schedules)
        return make_trainer(prune, **settings)

    before, module = trainer(**first), Stepping()
    before.fit(Stepping(), loader())
    before.save_checkpoint(tmp_path / "a.ckpt")
    trainer(**then).fit(module, loader(), ckpt_path=str(tmp_path / "a.ckpt"))
    assert module.rates[0] == before.global_step == 21


class SavesFirst(pl.Callback):
    """Saves at the end of an epoch, before the callbacks after it have seen that end."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_that_was_cut_short_is_so_too_where_a_resumed_run_closes_it(tmp_path, drop_last):
    def data():
        return DataLoader(loader().dataset, batch_size=7, shuffle=True, drop_last=drop_last)

    first, path = nothing_left_out(), tmp_path / "a.ckpt"
    make_trainer(first, SavesFirst(path), max_steps=14).fit(Stepping(), data())
    trainer = make_trainer(SavesFirst(path), nothing_left_out(), max_steps=14)
    trainer.fit(Stepping(), data())
    resumed = nothing_left_out()
    make_trainer(resumed, max_epochs=4).fit(Stepping(), data(), ckpt_path=str(path))
    rows = [[row[name] for name in ("kept", "full", "saved")] for row in (first.history[1], resumed.history[1])]
    assert rows[0] == rows[1]
    assert [row["saved"] for row in resumed.history] == [0.0] * len(resumed.history)


class Late(SingleDeviceStrategy):
    """Restores after the optimisers are made, as sharding ones do."""

    @property
    def restore_checkpoint_after_setup(self):
        return True


class AsksForSteps(Stepping):
    """Asks for the number of steps, and so for the loader, when the epoch is not restored yet."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()


def test_an_epoch_that_a_resumed_run_closes_is_that_of_its_plan_though_the_loader_was_made_before(tmp_path):
    def prune():
        return AlignPrune(policy="random", score="loss", seed=0, noise_mask=torch.arange(N) % 3 == 0)

    first, path = prune(), tmp_path / "a.ckpt"
    make_trainer(SavesFirst(path), first, max_epochs=2).fit(AsksForSteps(), loader())
    resumed = prune()
    make_trainer(resumed, max_epochs=3, strategy=Late("cpu")).fit(AsksForSteps(), loader(), ckpt_path=str(path))
    assert resumed.history[1] == pytest.approx(first.history[1], nan_ok=True)
