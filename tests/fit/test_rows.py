"""Which rows of a graph are samples: where functions mix them, order them anew, or sizes leave it open."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from manual_step import ManualStep
from test_exact_in_every_step import WEIGHT, B, C, D, Net, Step, X, Y, ce, draw, trained
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from alignprune_pl.fit.capture import LossCapture

ORDER = torch.randperm(B, generator=torch.Generator().manual_seed(3))
SQUARE = draw(B, B, seed=4).softmax(1)
CLASS = torch.arange(B) * 5 % B


class Mixed(Net):
    """Its output is made by a function that mixes samples and has no parameters."""

    def __init__(self, mix):
        super().__init__()
        self.mix = mix

    def forward(self, x):
        return self.mix(super().forward(x))


class Width(nn.Module):
    """As wide as the batch is long, with a head that is made from its parameters."""

    def __init__(self, head):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.weight = nn.Linear(D, B), nn.Parameter(draw(B, B, seed=5))
        self.head = head(self)

    def forward(self, x):
        return self.head(self.body(x).tanh())


def spectral(net):
    return spectral_norm(nn.Linear(B, B, bias=False)).eval()


def scaled(net):
    return lambda h: F.linear(h, 0.5 * (net.weight - 0.1))


MIXING = {
    "batch norm without parameters": Mixed(nn.BatchNorm1d(C, affine=False)),
    "less the batch's mean": Mixed(lambda z: z - z.mean(0)),
    "a graph's neighbours": Mixed(lambda z: SQUARE @ z),
    "attention over the batch": Mixed(lambda z: (z @ z.T).softmax(1) @ z),
    "spectral norm": Width(spectral),
    "a head made from parameters": Width(scaled),
}


@pytest.mark.parametrize("name", MIXING)
def test_the_gradient_is_that_of_the_weighted_loss_though_the_network_ends_with(name):
    net = MIXING[name]
    gradient, observed = trained(Step(lambda net: F.cross_entropy(net(X), Y), net), LossCapture(), WEIGHT)
    net.zero_grad()
    losses = ce(net(X), Y)
    (WEIGHT * losses).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(observed.value, losses.detach())


ORDERED = {
    "picked": lambda z: (z[ORDER], Y[ORDER]),
    "selected": lambda z: (z.index_select(0, ORDER), Y[ORDER]),
    "flipped": lambda z: (z.flip(0), Y.flip(0)),
    "gathered": lambda z: (z.gather(0, ORDER[:, None].expand(B, C)), Y[ORDER]),
    "halves swapped": lambda z: (torch.cat([z[B // 2 :], z[: B // 2]]), Y.roll(B // 2)),
}


@pytest.mark.parametrize("name", ORDERED)
def test_rows_in_another_order_are_weighted_as_the_samples_that_they_are(name):
    module, capture = Step(lambda net: F.cross_entropy(*ORDERED[name](net(X)))), LossCapture()
    gradient, observed = trained(module, capture, WEIGHT)
    module.zero_grad()
    losses = ce(module.net(X), Y)
    (WEIGHT * losses).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient, expected)
    if capture.kind == "terms":  # otherwise the norm of the gradient is observed
        torch.testing.assert_close(observed.value, losses.detach())
    else:
        assert capture.kind == "norm"


PENALTIES = {
    "distance from a start": lambda w: (w - 0.3).square().sum(),
    "a Fisher weight": lambda w: (SQUARE * (w - 0.3).square()).sum(),
    "orthogonality": lambda w: (w @ w.T - torch.eye(B)).square().sum(),
    "mse from a start": lambda w: F.mse_loss(w, SQUARE),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_on_a_parameter_as_long_as_the_batch_has_no_weight_whatever_constants_it_has(name):
    net = Width(lambda net: nn.Linear(B, C))
    step = Step(lambda net: F.cross_entropy(net(X), Y) + 0.1 * PENALTIES[name](net.weight), net)
    gradient, observed = trained(step, LossCapture(), WEIGHT)
    net.zero_grad()
    losses = ce(net(X), Y)
    ((WEIGHT * losses).mean() + 0.1 * PENALTIES[name](net.weight)).backward()
    torch.testing.assert_close(gradient, torch.cat([p.grad.flatten() for p in net.parameters()]))
    torch.testing.assert_close(observed.value, losses.detach())


class Sequences(nn.Module):
    """Sequences as long as the batch, the time first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D, C)

    def forward(self, x):
        return self.head(x)


def classes_first(net):
    """As many classes as samples."""
    return net.weight @ net.body(X).T


OPEN = {
    "flattened": lambda net: F.cross_entropy(net(draw(B, B, D)).view(-1, C), Y.repeat(B)),
    "averaged over the first": lambda net: F.cross_entropy(net(draw(B, B, D)).mean(0), Y),
}
CLASSES_FIRST = {
    "picked": lambda net: -classes_first(net).log_softmax(0)[CLASS, torch.arange(B)].mean(),
    "picked in another order": lambda net: -classes_first(net).log_softmax(0)[CLASS[ORDER], ORDER].mean(),
    "gathered": lambda net: -classes_first(net).log_softmax(0).gather(0, CLASS[None]).mean(),
    "masked": lambda net: -(classes_first(net).log_softmax(0) * F.one_hot(CLASS, B).T).sum() / B,
    "turned": lambda net: -net(X).T.log_softmax(0)[CLASS, torch.arange(B)].mean(),
    "permuted": lambda net: -net(X).permute(1, 0).log_softmax(0)[CLASS, torch.arange(B)].mean(),
    "by einsum": lambda net: (
        -torch.einsum("cd,bd->cb", net.weight, net.body(X)).log_softmax(0)[CLASS, torch.arange(B)].mean()
    ),
    "a layer on the weights": lambda net: -F.linear(net.weight, net.body(X)).log_softmax(0)[CLASS, ORDER].mean(),
}
BATCH_FIRST = {
    "turned back": lambda net: F.cross_entropy(classes_first(net).T, CLASS),
    "turned back later": lambda net: F.nll_loss(classes_first(net).log_softmax(0).T, CLASS),
    "picked": lambda net: -net(X).log_softmax(1)[torch.arange(B), CLASS].mean(),
    "by einsum": lambda net: F.cross_entropy(torch.einsum("cd,bd->bc", net.weight, net.body(X)), CLASS),
    "gathered": lambda net: -net(X).log_softmax(1).gather(1, CLASS[:, None]).mean(),
}


@pytest.mark.parametrize("name", OPEN)
def test_where_sizes_leave_it_open_which_dimension_is_the_batch_the_step_is_refused(name):
    capture = LossCapture()
    with pytest.raises(
        MisconfigurationException, match=r"either dimension could be the batch .take another batch size"
    ):
        trained(Step(OPEN[name], Sequences()), capture, WEIGHT)
    capture.disarm()


@pytest.mark.parametrize("name", CLASSES_FIRST)
def test_classes_first_and_as_many_as_samples_are_not_taken_for_samples_but_refused(name):
    capture = LossCapture()
    with pytest.raises(MisconfigurationException, match="either dimension could be the batch"):
        trained(Step(CLASSES_FIRST[name], Width(lambda net: nn.Linear(B, B))), capture, WEIGHT)
    capture.disarm()


@pytest.mark.parametrize("name", BATCH_FIRST)
def test_samples_first_are_weighted_exactly_though_there_are_as_many_classes(name):
    net = Width(lambda net: nn.Linear(B, B))
    gradient, _ = trained(Step(BATCH_FIRST[name], net), LossCapture(), WEIGHT)
    net.zero_grad()
    z = classes_first(net).T if name in ("turned back", "turned back later", "by einsum") else net(X)
    (WEIGHT * ce(z, CLASS)).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient, expected)


def test_two_losses_that_share_a_part_of_the_graph_are_weighted_once_each():
    class Twice(ManualStep):
        def training_step(self, batch, batch_idx):
            p = self.net(X).log_softmax(1)
            self.manual_backward(F.nll_loss(p, Y), retain_graph=True)
            self.manual_backward(0.5 * F.nll_loss(p, Y.roll(1)))

    module, capture = Twice(), LossCapture()
    capture.arm(module, B, WEIGHT)
    module.training_step(None, 0)
    observed = capture.take()
    capture.disarm()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    module.zero_grad()
    losses = ce(module.net(X), Y) + 0.5 * ce(module.net(X), Y.roll(1))
    (WEIGHT * losses).mean().backward()
    torch.testing.assert_close(
        gradient, torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    )
    whole = ce(module.net(X), Y) + ce(module.net(X), Y.roll(1))  # each as its own loss
    torch.testing.assert_close(observed.value, 0.5 * (whole + ce(module.net(X), Y)).detach(), rtol=1e-4, atol=1e-5)


SCALES = {
    "a mean": lambda e: e.mean(),
    "a sum by hand": lambda e: e.sum() / B,
    "a product by hand": lambda e: e.sum() * (1 / B),
    "a dot product": lambda e: e @ torch.full((B,), 1 / B),
}


@pytest.mark.parametrize("name", SCALES)
def test_however_the_mean_over_the_batch_is_written_a_samples_loss_is_recorded(name):
    module = Step(lambda net: SCALES[name](ce(net(X), Y)))
    _, observed = trained(module, LossCapture(), WEIGHT)
    torch.testing.assert_close(observed.value, ce(module.net(X), Y).detach())


def test_of_a_sum_over_the_batch_a_samples_own_part_is_recorded():
    module = Step(lambda net: (net(X).square()).mean(1).sum() / 2)
    _, observed = trained(module, LossCapture(), WEIGHT)
    torch.testing.assert_close(observed.value, module.net(X).square().mean(1).detach() / 2)


def test_a_batch_whose_loss_has_no_graph_is_skipped():
    module, capture = Step(lambda net: torch.tensor(0.0, requires_grad=True)), LossCapture()
    capture.arm(module, B, WEIGHT)
    module.training_step(None, 0).backward()
    assert capture.take() is None
    capture.disarm()


def test_of_a_prediction_that_is_repeated_for_each_target_the_rows_that_are_recorded_are_weighted():
    def elements(net):  # row i has the target of sample i
        return (net(X)[:, 0].expand(B, B) - draw(B, 1, seed=7)).square()

    module = Step(lambda net: elements(net).mean())
    gradient, observed = trained(module, LossCapture(), WEIGHT)
    module.zero_grad()
    losses = elements(module.net).mean(1)
    (WEIGHT * losses).mean().backward()
    torch.testing.assert_close(
        gradient, torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    )
    torch.testing.assert_close(observed.value, losses.detach())


def test_a_loss_that_is_changed_in_place_after_it_was_summed_up_is_not_recorded_as_what_it_became():
    def step(net):
        losses = (1 - torch.exp(-ce(net(X), Y))) ** 2
        loss = losses.mean()
        losses.detach().zero_()
        return loss

    capture = LossCapture()
    _, observed = trained(Step(step), capture, WEIGHT)
    assert capture.kind == "norm" or bool((observed.value > 0).all())
