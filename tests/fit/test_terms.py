"""What one loss shows of each sample: its loss against the strongest other class, and which class that is."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from test_exact_in_every_step import WEIGHT, Step, X, Y, focal, gce, trained
from torch import nn

from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.graph import cut
from alignprune_pl.fit.recorder import Recorder
from alignprune_pl.fit.terms import terms

LOGITS = torch.tensor([[2.0, 1.0, -1.0, 0.0], [0.5, 0.0, 3.0, 1.0], [-1.0, 4.0, 2.0, 3.5], [0.0, 0.0, 1.0, -2.0]])
LABELS = torch.tensor([0, 3, 1, 0])
RIVALS = [1, 2, 3, 2]
LEADS = [-1.0, 2.0, -0.5, 1.0]  # of the rival's logit over the label's
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 5.0, 0.5])
LONG_TAIL = torch.tensor([0.05, 50.0, 0.01, 0.2])  # by which the least smoothing outweighs the label
SOFT = F.one_hot(LABELS, 4).float() * 0.7 + 0.3 / 4


def smoothed(said):
    return 0.8 * F.nll_loss(said, LABELS, LONG_TAIL) - (0.2 * said * LONG_TAIL).mean()


LOSSES = {
    "cross_entropy": lambda x: F.cross_entropy(x, LABELS),
    "nll_loss": lambda x: F.nll_loss(x.log_softmax(1), LABELS),
    "class weights": lambda x: F.cross_entropy(x, LABELS, weight=CLASS_WEIGHT),
    "label smoothing": lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.2),
    "smoothed and weighted": lambda x: F.cross_entropy(x, LABELS, weight=CLASS_WEIGHT, label_smoothing=0.2),
    "smoothed, by weights of a long tail": lambda x: F.cross_entropy(x, LABELS, weight=LONG_TAIL, label_smoothing=0.2),
    "smoothed by hand": lambda x: smoothed(x.log_softmax(1)),
    "soft targets": lambda x: F.cross_entropy(x, SOFT),
    "sum": lambda x: F.cross_entropy(x, LABELS, reduction="sum"),
    "none": lambda x: F.cross_entropy(x, LABELS, reduction="none").mean(),
    "half precision": lambda x: F.cross_entropy(x.half(), LABELS),
}


def shown(loss, rows=4, logits=LOGITS):
    """What a loss on ``logits`` shows."""
    net = nn.Linear(rows, logits.shape[1:].numel(), bias=False)
    with torch.no_grad():
        net.weight.copy_(logits.reshape(rows, -1).T)
    value = loss(net(torch.eye(rows)).view_as(logits))
    at = cut(value.grad_fn, rows)
    recorder = Recorder(value, at, terms(value.grad_fn, at, rows, {}), rows, None, "rival", [])
    value.backward()
    return recorder.observed()


def test_a_target_that_is_ignored_names_no_label_where_a_soft_one_counts():
    soft = F.one_hot(torch.tensor([2, 3, 0, 1]), 4).float() * 0.8 + 0.05

    def loss(x):
        said, seen = x.log_softmax(1), torch.tensor([-100, 3, -100, 0])
        return F.nll_loss(said, seen) - (soft * said).sum(1).mean()

    assert (shown(loss).pair // 4).tolist() == [2, 3, 0, 0]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_shows_label_and_rival_and_the_loss_between_the_two_whatever_its_options(name):
    observed = shown(LOSSES[name])
    assert observed.value.dtype == torch.float32
    assert not observed.value.requires_grad
    assert observed.value.tolist() == pytest.approx([math.log(1 + math.exp(m)) for m in LEADS], rel=1e-3)
    assert observed.classes == 4
    assert observed.pair.dtype == torch.int64
    assert observed.pair.tolist() == [label * 4 + rival for label, rival in zip(LABELS.tolist(), RIVALS, strict=True)]


@pytest.mark.parametrize("ignored", [-100, 3])
def test_a_sample_that_is_ignored_has_neither_loss_nor_pair(ignored):
    target = torch.tensor([0, ignored, 1, 0])
    observed = shown(lambda x: F.cross_entropy(x, target, ignore_index=ignored))
    assert observed.value.isnan().tolist() == [False, True, False, False]
    assert observed.pair.tolist() == [0 * 4 + 1, -1, 1 * 4 + 3, 0 * 4 + 2]


def test_of_soft_targets_the_greatest_share_is_the_label():
    target = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(4, 4)
    observed = shown(lambda x: F.cross_entropy(x, target))
    assert (observed.pair // 4).tolist() == [3] * 4
    assert (observed.pair % 4).tolist() == [0, 2, 1, 2]
    assert observed.value.tolist() == pytest.approx([math.log(1 + math.exp(m)) for m in (2.0, 2.0, 0.5, 3.0)])


def test_dense_predictions_have_the_mean_of_their_valid_places_and_no_pair():
    logits = LOGITS[:3].T.unsqueeze(0).expand(2, 4, 3)  # two samples of three places
    target = torch.tensor([[0, 3, -100], [-100, -100, 1]])
    observed = shown(lambda x: F.cross_entropy(x, target), 2, logits)
    losses = [math.log(1 + math.exp(m)) for m in LEADS]
    assert observed.value.tolist() == pytest.approx([(losses[0] + losses[1]) / 2, losses[2]])
    assert (observed.pair, observed.classes) == (None, 0)
    assert observed.pair_or_unknown().tolist() == [-1, -1]


def test_a_label_far_ahead_or_behind_has_a_finite_loss():
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [60.0, 0.0]])
    observed = shown(lambda x: F.cross_entropy(x, torch.zeros(3, dtype=torch.int64)), 3, logits)
    assert observed.value.tolist() == [0.0, 1e4, pytest.approx(math.exp(-60))]
    assert observed.pair.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("classes", "is_known"), [(4095, True), (4096, False)])
def test_of_more_classes_than_a_store_takes_no_pair_is_known(classes, is_known):
    observed = shown(lambda x: F.cross_entropy(x, torch.tensor([0, 4094])), 2, torch.zeros(2, classes))
    assert observed.value.tolist() == pytest.approx([math.log(2)] * 2)
    assert bool((observed.pair_or_unknown() >= 0).all()) == is_known
    assert observed.classes == (classes if is_known else 0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_of_any_integer_type_are_read(dtype):
    observed = shown(lambda x: F.cross_entropy(x, torch.tensor([3, 150]).to(dtype)), 2, torch.zeros(2, 200))
    assert observed.value.tolist() == pytest.approx([math.log(2)] * 2)
    assert observed.pair.tolist() == [600, 30_000]


PARTS = {  # a function that takes losses apart, and what each part counts for
    "unbind": (lambda losses: losses.unbind(1), (1.0, 0.1)),
    "chunk": (lambda losses: losses.chunk(2, 1), (1.0, 0.1)),
    "split": (lambda losses: losses.split([1, 2], 1), (1.0, 0.1)),
    "unbind, of which one is used": (lambda losses: losses.unbind(1), (0.0, 1.0)),
    "unbind, of one size": (lambda losses: losses.unbind(1), (1.0, 1.0)),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_part_of_losses_that_are_taken_apart_counts_for_what_it_is(name):
    apart, factors = PARTS[name]

    def parts(net):
        z = net(X)
        losses = torch.stack([gce(z), focal(z), focal(z) ** 2], 1)
        used = zip(apart(losses if name == "split" else losses[:, :2]), factors, strict=True)
        return [(part, factor) for part, factor in used if factor]

    module, capture = Step(lambda net: sum(factor * part.mean() for part, factor in parts(net))), LossCapture()
    for _ in range(2):
        _, observed = trained(module, capture, WEIGHT)
    expected = sum(factor * part.view(len(X), -1).mean(1) for part, factor in parts(module.net)).detach()
    torch.testing.assert_close(observed.value, expected)


TWICE = {  # a loss that uses something and what was made of it, and that loss sample by sample
    "a slice": (
        lambda z: torch.stack([gce(z), focal(z), focal(z) ** 2], 1),
        lambda losses: losses.mean() + 0.5 * losses[:, :2].mean(),
        lambda losses: losses.mean(1) + 0.5 * losses[:, :2].mean(1),
    ),
    "a part": (
        lambda z: torch.stack([gce(z), focal(z)], 1),
        lambda losses: losses.mean() + 0.5 * losses.unbind(1)[0].mean(),
        lambda losses: losses.mean(1) + 0.5 * losses[:, 0],
    ),
    "the same twice": (
        lambda z: F.cross_entropy(z, Y, reduction="none"),
        lambda losses: losses.mean() + 0.5 * (2 * losses).mean(),
        lambda losses: 2 * losses,
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_loss_of_something_and_of_what_was_made_of_it_counts_each_once(name):
    make, whole, of_samples = TWICE[name]
    module, capture = Step(lambda net: whole(make(net(X)))), LossCapture()
    for _ in range(2):
        _, observed = trained(module, capture, WEIGHT)
    assert capture.state_dict()["is_whole"]
    torch.testing.assert_close(observed.value, of_samples(make(module.net(X))).detach())


def test_what_is_made_of_a_loss_and_bent_is_said_not_to_be_told():
    def step(net):
        losses = F.cross_entropy(net(X), Y, reduction="none")
        return losses.mean() + 0.5 * ((1 - torch.exp(-losses)) ** 2 * losses).mean()

    capture = LossCapture()
    trained(Step(step), capture, WEIGHT)
    assert not capture.state_dict()["is_whole"]
