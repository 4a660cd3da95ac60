"""A step's graph that looks like the last one is not searched again; any other is, and is followed as by a new capture."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_exact_in_every_step import MANY, STEPS, WEIGHT, B, C, Net, Step, X, Y, draw, trained

from alignprune_pl.fit import one_pass
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.graph import cut
from alignprune_pl.fit.likeness import likeness
from alignprune_pl.fit.terms import terms

TARGET = draw(B, C, seed=9)
ODD = torch.arange(B) // 2 * 2


def by_hand(z, dim=1):
    return -(z.log_softmax(dim) * F.one_hot(Y, C)).sum(1).mean()


def gated(z, other):
    return F.cross_entropy(z.sigmoid() * other.tanh(), Y)


def twice(z):
    return z.sigmoid(), z.sigmoid()


def bce(z, *shape):
    return F.binary_cross_entropy_with_logits(z.view(*shape), MANY.view(*shape))


UNLIKE = {
    "another function": (
        lambda net: F.cross_entropy(net(X).sigmoid(), Y),
        lambda net: F.cross_entropy(net(X).tanh(), Y),
    ),
    "samples mixed": (lambda net: by_hand(net(X)), lambda net: by_hand(net(X), 0)),
    "a sum": (lambda net: F.mse_loss(net(X), TARGET, reduction="sum"), lambda net: F.mse_loss(net(X), TARGET)),
    "another layer": (
        lambda net: F.cross_entropy(net.head(net.features(X)), Y),
        lambda net: F.cross_entropy(net.side(net.features(X)), Y),
    ),
    "two layers": (
        lambda net: F.cross_entropy(net(X), Y),
        lambda net: F.cross_entropy(net(X), Y) + F.cross_entropy(net.side(net.features(X)), Y),
    ),
    "a factor with a graph": (
        lambda net: gated(net(X), torch.ones(B, C)),
        lambda net: gated(net(X), net(X) * torch.ones(B, C)),
    ),
    "a constant": (lambda net: (net(X) * TARGET).mean(), lambda net: (TARGET * net(X)).mean()),
    "joined otherwise": (
        lambda net: (lambda a, b: F.cross_entropy(a * b + a, Y))(*twice(net(X))),
        lambda net: (lambda a, b: F.cross_entropy(a * b + b, Y))(*twice(net(X))),
    ),
    "flattened": (lambda net: bce(net(X), B, C, 1), lambda net: bce(net(X), B * C)),
}
NOT_PLAIN = {
    "a penalty": lambda net: F.cross_entropy(net(X), Y) + net.head.weight.square().sum(),
    "an index": lambda net: F.cross_entropy(net(X), Y, reduction="none")[ODD].mean(),
    "samples picked": lambda net: F.cross_entropy(net(X).index_select(0, ODD), Y[ODD]),
    "parameters of parameters": lambda net: F.cross_entropy(F.linear(net.features(X), net.head.weight.flip(0)), Y),
    "a leaf of data": lambda net: F.cross_entropy(net(X) + TARGET.clone().requires_grad_(), Y),
    "several layers": lambda net: F.cross_entropy(net(X), Y) + F.cross_entropy(net.side(net.features(X)), Y),
}


def remembered(loss):
    at = cut(loss.grad_fn, B)
    return likeness(loss.grad_fn, at, terms(loss.grad_fn, at, B, {}), B)


@pytest.mark.parametrize("name", UNLIKE)
def test_a_graph_that_differs_is_not_taken_for_the_last_one(name):
    net = Net()
    first, second = UNLIKE[name]
    known = remembered(first(net))
    assert known.found(first(net).grad_fn, B) is not None
    assert known.found(first(net).grad_fn, B + 1) is None
    assert known.found(second(net).grad_fn, B) is None


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_a_graph_that_could_differ_unseen_is_not_remembered(name):
    assert remembered(NOT_PLAIN[name](Net())) is None


@pytest.mark.filterwarnings("ignore:AlignPrune now observes nothing of this batch")
@pytest.mark.parametrize("name", UNLIKE)
def test_a_step_that_changes_is_followed_as_by_a_new_capture(name):
    steps, calls = UNLIKE[name], []
    module, capture = Step(lambda net: steps[len(calls) % 2](net)), LossCapture()
    for _ in range(4):
        gradient, observed = trained(module, capture, WEIGHT)
        fresh = Step(steps[len(calls) % 2], copy.deepcopy(module.net))
        expected, shown = trained(fresh, LossCapture(), WEIGHT)
        torch.testing.assert_close(gradient, expected)
        if observed is not None:  # the first step after such a change may show nothing
            torch.testing.assert_close(observed.value, shown.value, equal_nan=True)
        calls.append(None)


def test_a_graph_that_looks_the_same_is_not_searched_again(monkeypatch):
    searched = []
    monkeypatch.setattr(one_pass, "cut", lambda *args: searched.append(args) or cut(*args))
    module, capture = Step(STEPS["mean"].step), LossCapture()
    for _ in range(3):
        trained(module, capture, WEIGHT)
    assert len(searched) == 1
