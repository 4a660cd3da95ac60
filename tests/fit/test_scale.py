"""A sample's recorded loss has one scale, whatever the size of its batch and however the loss is divided."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from manual_step import ManualStep
from test_exact_in_every_step import CLASS_WEIGHT, WEIGHT, B, Step, X, Y, ce

from alignprune_pl.fit.capture import LossCapture

FEW = 3


def smooth(z, y, **options):
    return F.cross_entropy(z, y, label_smoothing=0.1, **options)


def focal_of(z, y):
    loss = ce(z, y)
    return (1 - torch.exp(-loss)) ** 2 * loss


def singles(loss):
    return lambda z, y: sum(loss(z[i : i + 1], y[i : i + 1]) for i in range(len(z)))


# What the step trains on, and the loss of each sample.
ONE_SCALE = {
    "a sum by a constant": (lambda z, y: F.cross_entropy(z, y, reduction="sum") / B, ce),
    "a product with a constant": (lambda z, y: (1 / B) * ce(z, y).sum(), ce),
    "half of it": (lambda z, y: 0.5 * F.cross_entropy(z, y, reduction="sum") / B, lambda z, y: 0.5 * ce(z, y)),
    "values by a constant": (lambda z, y: focal_of(z, y).sum() / B, focal_of),
    "smoothed": (lambda z, y: smooth(z, y, reduction="sum") / B, lambda z, y: smooth(z, y, reduction="none")),
    "a sum by the batch's size": (lambda z, y: ce(z, y).sum() / len(z), ce),
    "values by the batch's size": (lambda z, y: focal_of(z, y).sum() / len(z), focal_of),
    "a sum": (lambda z, y: ce(z, y).sum(), ce),
    "a weighted sum": (
        lambda z, y: F.cross_entropy(z, y, weight=CLASS_WEIGHT, reduction="sum"),
        lambda z, y: ce(z, y, weight=CLASS_WEIGHT),
    ),
    "samples one by one": (singles(F.cross_entropy), ce),
    "one by one, smoothed": (singles(smooth), lambda z, y: smooth(z, y, reduction="none")),
    "one by one, by their own mean": (singles(lambda z, y: ce(z, y).mean()), ce),
    "one by one, by the batch's size": (lambda z, y: singles(F.cross_entropy)(z, y) / len(z), ce),
    "one by one, by a constant": (lambda z, y: singles(F.cross_entropy)(z, y) / B, ce),
    "one by one, their mean": (
        lambda z, y: torch.stack([F.cross_entropy(z[i : i + 1], y[i : i + 1]) for i in range(len(z))]).mean(),
        ce,
    ),
}


def recorded(module, capture, size):
    module.size = size
    capture.arm(module, size, WEIGHT[:size])
    module.training_step(None, 0).backward()
    observed = capture.take()
    capture.disarm()
    return observed.value


class Sized(Step):
    def training_step(self, batch, batch_idx):
        return self.step(self.net(X[: self.size]), Y[: self.size])


@pytest.mark.parametrize("name", ONE_SCALE)
def test_a_samples_loss_is_recorded_alike_in_a_full_batch_and_in_the_last(name):
    loss, losses = ONE_SCALE[name]
    module, capture = Sized(loss), LossCapture()
    for size in (B, FEW, 1, B - 1, B):
        expected = losses(module.net(X[:size]), Y[:size]).detach()
        torch.testing.assert_close(
            recorded(module, capture, size), expected, msg=lambda text, size=size: f"{size}: {text}"
        )


# What changes how much an element counts, besides the batch's size; by the number of the batch.
VARY = {
    "classes": (
        lambda z, y, at: (CLASS_WEIGHT[y] * ce(z, y)).sum() / len(z),
        lambda z, y, at: CLASS_WEIGHT[y] * ce(z, y),
    ),
    "less and less": (lambda z, y, at: 0.7**at * ce(z, y).sum() / len(z), lambda z, y, at: 0.7**at * ce(z, y)),
    "from nothing on": (
        lambda z, y, at: (at * focal_of(z, y).sum() + ce(z, y).sum()) / len(z),
        lambda z, y, at: at * focal_of(z, y) + ce(z, y),
    ),
    "the other one from nothing on": (
        lambda z, y, at: (ce(z, y).sum() + at * focal_of(z, y).sum()) / len(z),
        lambda z, y, at: ce(z, y) + at * focal_of(z, y),
    ),
}


@pytest.mark.parametrize("name", VARY)
def test_weights_of_classes_and_of_the_loss_are_not_taken_for_another_size(name):
    loss, losses = VARY[name]
    module, capture = Sized(lambda z, y: loss(z, y, module.at)), LossCapture()
    for module.at, size in enumerate((B, B, FEW, 1, 2, B - 1, B)):
        expected = losses(module.net(X[:size]), Y[:size], module.at).detach()
        torch.testing.assert_close(
            recorded(module, capture, size), expected, msg=lambda text, size=size: f"{size}: {text}"
        )


def test_so_it_is_in_a_reference_and_after_resuming():
    module, first, capture = Sized(ONE_SCALE["a sum by a constant"][0]), LossCapture(), LossCapture()
    recorded(module, first, B)
    capture.load_state_dict(first.state_dict())
    module.size = FEW
    expected = ce(module.net(X[:FEW]), Y[:FEW]).detach()
    for one in (first, capture):
        observed = one.observe(module, lambda: module.training_step(None, 0), FEW)
        torch.testing.assert_close(observed.value, expected)


def test_each_loss_of_a_step_has_its_own_scale():
    class Both(ManualStep):
        def training_step(self, batch, batch_idx):
            z, side = self.net.both(X[: self.size])
            self.manual_backward(ce(z, Y[: self.size]).sum() / B, retain_graph=True)
            self.manual_backward(ce(side, Y[: self.size]).sum())

    module, capture = Both(), LossCapture()
    for size in (B, FEW, B):
        capture.arm(module, size, WEIGHT[:size])
        module.size = size
        module.training_step(None, 0)
        z, side = module.net.both(X[:size])
        expected = (ce(z, Y[:size]) + ce(side, Y[:size])).detach()
        torch.testing.assert_close(capture.take().value, expected)
        capture.disarm()
