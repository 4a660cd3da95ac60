"""Reference and probes leave nothing behind: metrics, augmentation, attributes; and what they cannot do is told first."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import Counter, deque

import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torchmetrics import MeanMetric, MetricCollection, MinMaxMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score
from torchmetrics.wrappers import Running

from alignprune_pl import AlignPrune, NoPruning
from helpers import CLASSES, Plain, make_data, make_loader, make_trainer


class Measured(Plain):
    """Every kind of metric, called or updated with the loss and its graph, as templates have it."""

    def __init__(self):
        super().__init__()
        self.mean, self.accuracy = MeanMetric(), MulticlassAccuracy(CLASSES)
        self.group = MetricCollection([MulticlassAccuracy(CLASSES, average="micro"), MulticlassF1Score(CLASSES)])
        self.extremes, self.running = MinMaxMetric(MulticlassAccuracy(CLASSES)), Running(MeanMetric(), window=3)
        self.listed = [MeanMetric()]
        self.named = {"matrix": MulticlassConfusionMatrix(CLASSES)}
        self.values = []

    def training_step(self, batch, batch_idx):
        z = self(batch[0])
        loss = F.cross_entropy(z, batch[1])
        self.mean(loss)
        self.accuracy.update(z, batch[1])
        self.group(z, batch[1])
        self.extremes(z, batch[1])
        self.running(loss)
        self.listed[0].update(loss)
        self.named["matrix"].update(z, batch[1])
        self.log("train/accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        found = [self.mean, self.group, self.extremes, self.running, *self.listed, *self.named.values()]
        self.values.append([metric.compute() for metric in found])
        self.values[-1].append(self.trainer.callback_metrics.get("train/accuracy"))
        for metric in found:
            metric.reset()


def fit(module, callback=None, **kwargs):
    torch.manual_seed(0)
    make_trainer(*([] if callback is None else [callback]), **{"max_epochs": 2, **kwargs}).fit(
        module, make_loader(make_data()[0], shuffle=False)
    )
    return module


def test_metrics_of_every_kind_keep_their_values():
    runs = []
    for has_callback in (False, True):
        torch.manual_seed(3)
        module = Measured()
        fit(module, AlignPrune(make_data()[1], NoPruning(), "das") if has_callback else None)
        runs.append(module)
    bare, ours = (run.values for run in runs)
    assert len(bare) == len(ours) == 2
    for then, now in zip(bare, ours, strict=True):
        torch.testing.assert_close(now, then)


def test_a_hook_that_augments_while_the_trainer_trains_leaves_the_reference_alone():
    class Augments(Plain):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            x, y = batch
            seen.append(self.trainer.training)
            return (torch.cat([x[:, :1], 100 * torch.ones_like(x[:, 1:])], 1), y) if self.trainer.training else batch

    class Sees(Augments):
        def training_step(self, batch, batch_idx):
            (augmented if self.training else plain).append(float(batch[0][:, 1:].max()))
            return super().training_step(batch, batch_idx)

    seen, augmented, plain = [], [], []
    module = fit(Sees(), AlignPrune(make_data()[1], NoPruning(), "loss"))
    assert min(augmented) == 100
    assert max(plain) < 10
    assert len(plain) > 1
    assert set(seen) == {True, False}
    assert not module.trainer.training


class NoLossInEval(Plain):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if self.training else {"boxes": self(batch[0])}


class Columns(Plain):
    def forward(self, x):  # samples in columns
        return self.net[0].weight[:3] @ x[:, 1:].T

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()


class Many(Plain):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], reduction="none")


@pytest.mark.parametrize(
    ("kind", "sentence", "needs_reference"),
    [
        (NoLossInEval, r"no loss for a reference or probe batch, in eval mode; .* pass AlignPrune\(loss_fn=", True),
        (Columns, "AlignPrune finds no tensor of the batch's 16 samples", False),
        (Many, r"\(16,\)", False),
    ],
)
@pytest.mark.parametrize("has_reference", [False, True])
def test_the_sentence_that_helps_comes_before_the_first_update_with_a_reference_and_without(
    kind, sentence, needs_reference, has_reference
):
    module = kind()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    callback = AlignPrune(make_data()[1] if has_reference else None, NoPruning(), "loss")
    if needs_reference and not has_reference:
        fit(module, callback, max_epochs=1)
        return
    with pytest.raises(MisconfigurationException, match=sentence) as error:
        fit(module, callback)
    assert "batch of None" not in str(error.value)
    assert all(map(torch.equal, module.parameters(), before))


def test_after_the_reference_the_same_parameters_are_trained_as_before():
    class Frozen(Plain):
        def __init__(self):
            super().__init__()
            self.net[0].weight.requires_grad_(False)

        def training_step(self, batch, batch_idx):
            asked.append([parameter.requires_grad for parameter in self.parameters()] if self.training else None)
            return super().training_step(batch, batch_idx)

    asked = []
    fit(Frozen(), AlignPrune(make_data()[1], NoPruning(), "loss"))
    assert None in asked
    assert all(step == [False, *[True] * 5] for step in asked if step is not None)


class Teacher(Plain):
    """Keeps a moving average of its parameters, a queue and counters, in whatever they are kept."""

    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(self.net)
        self.teacher.requires_grad_(False)
        self.queue, self._steps, self._seen = deque(maxlen=100), 0, torch.zeros(1)
        self.counts = Counter()

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            for ours, theirs in zip(self.net.parameters(), self.teacher.parameters(), strict=True):
                theirs.mul_(0.9).add_(0.1 * ours)
        self.queue.append(len(batch[1]))
        self.counts.update(batch[1].tolist())
        self._steps += 1
        self._seen += 1
        return super().training_step(batch, batch_idx)


def test_what_a_step_keeps_besides_its_parameters_is_as_without_a_reference():
    runs = []
    for callback in (None, AlignPrune(make_data()[1], NoPruning(), "loss")):
        torch.manual_seed(3)
        runs.append(fit(Teacher(), callback))
    bare, ours = runs
    for name in ("queue", "_steps", "counts", "_seen"):
        assert getattr(ours, name) == getattr(bare, name), name
    for then, now in zip(bare.teacher.parameters(), ours.teacher.parameters(), strict=True):
        torch.testing.assert_close(now, then)


def test_no_graph_is_held_over_steps_without_the_garbage_collector():
    class Holds(Plain):
        def training_step(self, batch, batch_idx):
            x = self(batch[0])
            alive.append(weakref.ref(x))
            return F.mse_loss(x, torch.zeros_like(x))

    alive = []
    gc.disable()
    try:
        fit(Holds(), AlignPrune(policy=NoPruning(), score="loss"), max_epochs=1)
        assert sum(tensor() is not None for tensor in alive) <= 1
    finally:
        gc.enable()
