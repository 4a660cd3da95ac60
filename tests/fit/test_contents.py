"""What a module holds is put back however deep it lies, and what is not its own is left alone."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from torchmetrics import MeanMetric

from alignprune_pl import AlignPrune, NoPruning
from alignprune_pl.fit import contents
from alignprune_pl.fit.contents import Contents
from helpers import Plain, make_data, make_loader, make_trainer


class Meter:
    """As the AverageMeter of many a project."""

    def __init__(self):
        self.total, self.count = 0.0, 0

    def update(self, value):
        self.total += value
        self.count += 1


class Deep(Plain):
    """Keeps what it shows in containers and objects within others."""

    def __init__(self):
        super().__init__()
        self.outputs, self.rows, self.meters = {"loss": []}, [[], []], {"train": [Meter()]}
        self.histogram, self.averages = np.zeros(4), {"ema": (torch.zeros(1),)}
        self.metrics = {"train": {"loss": MeanMetric()}}
        self.state = SimpleNamespace(steps=0, seen=defaultdict(int), last=deque([0], maxlen=2), kinds=({1},))
        self.drawn, self.rngs = [], [torch.Generator(), random.Random(0), np.random.default_rng(0)]
        self.hidden = [nn.BatchNorm1d(5)]
        self.means = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        value = loss.detach()
        self.outputs["loss"].append(value)
        self.rows[batch_idx % 2].append(batch_idx)
        self.meters["train"][0].update(float(value))
        self.histogram[batch_idx % 4] += 1
        self.averages["ema"][0].mul_(0.9).add_(value)
        self.metrics["train"]["loss"].update(loss)
        self.state.steps += 1
        self.state.seen[batch_idx % 3] += 1
        self.state.last.append(batch_idx)
        self.state.kinds[0].add(len(batch[1]))
        self.hidden[0](batch[0])
        noise, plain, numpys = self.rngs
        drawn = (torch.rand(1, generator=noise).item(), plain.random(), numpys.random())
        if self.training:
            self.drawn.append(drawn)
        return loss

    def on_train_epoch_end(self):
        meter, state = self.meters["train"][0], self.state
        self.means.append(
            {
                "loss": torch.stack(self.outputs["loss"]).mean(),
                "rows": torch.tensor([len(row) for row in self.rows]),
                "meter": torch.tensor([meter.total, meter.count]),
                "histogram": torch.from_numpy(self.histogram.copy()),
                "average": self.averages["ema"][0].clone(),
                "metric": self.metrics["train"]["loss"].compute(),
                "state": torch.tensor([state.steps, *state.seen.values(), *state.last, *state.kinds[0]]),
                "hidden": self.hidden[0].running_mean.clone(),
                "drawn": torch.tensor(self.drawn),
            }
        )
        self.outputs["loss"].clear()
        self.metrics["train"]["loss"].reset()


def test_what_a_step_changes_deep_in_the_module_is_as_without_a_reference():
    runs = []
    for callback in ([], [AlignPrune(make_data()[1], NoPruning(), "loss")]):
        torch.manual_seed(3)
        module = Deep()
        make_trainer(*callback, max_epochs=2).fit(module, make_loader(make_data()[0], shuffle=False))
        runs.append(module.means)
    bare, ours = runs
    assert len(bare) == len(ours) == 2
    for then, now in zip(bare, ours, strict=True):
        for name, value in then.items():
            torch.testing.assert_close(now[name], value, msg=name)


def holding(**attributes):
    module = nn.Linear(2, 2)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def test_an_object_that_others_hold_too_stays_the_same_object():
    inner, meter, ordered, array = [1], Meter(), OrderedDict(a=1, b=2), np.zeros(2)
    module = holding(outer={"inner": inner}, meters=(meter,), ordered=[ordered], arrays=[array])
    found = Contents(module)
    module.outer["inner"] = [2]
    inner.append(3)
    meter.update(1)
    meter.made = 1
    ordered.move_to_end("a")
    array += 1
    found.put_back()
    assert module.outer["inner"] is inner
    assert inner == [1]
    assert vars(module.meters[0]) == vars(meter) == {"total": 0.0, "count": 0}
    assert list(ordered) == ["a", "b"]
    ordered.popitem()  # fails where its order was lost
    assert array.tolist() == [0, 0]


def test_what_holds_itself_is_looked_into_once():
    ring, meter, module = [], Meter(), holding()
    ring.append(ring)
    meter.me, meter.ring, meter.module = meter, ring, module
    module.meter = meter
    found = Contents(module)
    ring.append(1)
    meter.count = 7
    found.put_back()
    assert ring == [ring]
    assert meter.count == 0


class Slots:
    __slots__ = ("count",)


class Stubborn:
    """Neither attributes nor what it is can be asked, and none can be set."""

    __class__ = property(lambda self: 1 / 0)

    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __setattr__(self, name, value):
        raise RuntimeError(name)

    def __eq__(self, other):
        raise RuntimeError


class NoDictionary:
    @property
    def __dict__(self):
        raise RuntimeError


def test_objects_that_cannot_be_read_break_nothing():
    module = holding(odd=[Slots(), Stubborn(), NoDictionary()], read_only=np.broadcast_to(np.zeros(1), 3), last=[1])
    found = Contents(module)
    module.last.append(2)
    found.put_back()
    assert module.last == [1]


class Data(Dataset):
    def __init__(self):
        self.read = 0


def test_what_is_not_the_users_own_is_left_alone():
    data, callback = Data(), AlignPrune(policy="random")
    module = holding(held=[data, callback, lambda: None, iter([1]), Data])
    found = Contents(module)
    data.read = callback.window = 5
    found.put_back()
    assert (data.read, callback.window) == (5, 5)


@pytest.mark.parametrize("name", ["_MOST", "_MOST_BYTES"])
def test_what_lies_deep_in_a_module_is_put_back_up_to_a_limit(name, monkeypatch):
    monkeypatch.setattr(contents, name, 100)
    module = holding(many=[[0] for _ in range(1000)], large=[np.zeros(1000)], few=[0])
    found = Contents(module)
    module.many[-1].append(1)
    module.few.append(1)
    module.many.append(1)
    module.large[0] += 1
    found.put_back()
    assert module.few == [0]
    assert len(module.many) == 1000
    assert (module.many[-1] == [0]) == (name == "_MOST_BYTES")
    assert module.large[0][0] == 1
