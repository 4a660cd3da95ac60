"""In every ordinary training step the weighted gradient and the recorded losses are those of the loss as it is trained on.

Beside each step stands what it means: the loss of each sample, written out. The gradient that a weighted step leaves is
compared with that of ``mean(weight * losses)``, in double precision; the recorded losses with the losses.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.graph import cut
from alignprune_pl.fit.recorder import Recorder
from alignprune_pl.fit.terms import terms

B, C, D, T = 12, 5, 7, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, X_TOKENS = draw(B, D), draw(B, T, D, seed=1)
Y = torch.arange(B) % C
Y2 = (torch.arange(B) * 3 + 1) % C
LAM = 0.3
SOFT = draw(B, C, seed=2).softmax(1)
TEACHER = draw(B, C, seed=3)
MANY = (draw(B, C, seed=4) > 0).float()
REAL = draw(B, C, seed=5)
MASK = (draw(B, C, seed=6) > -0.5).float()
MISSING = REAL.masked_fill(MASK == 0, torch.nan)
TOKENS = (torch.arange(B * T) * 7 % C).view(B, T)
SHORT = TOKENS.masked_fill(draw(B, T, seed=7) > 0.5, -100)
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 5.0, 0.5, 1.5])
WEIGHT = torch.rand(B, generator=torch.Generator().manual_seed(8)) * 2


class Net(nn.Module):
    """A network with two heads, whose dtype is its parameters'."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.norm = nn.Linear(D, 16), nn.LayerNorm(16)
            self.head, self.side = nn.Linear(16, C), nn.Linear(16, C)

    def features(self, x):
        return self.norm(self.body(x.to(self.body.weight.dtype))).tanh()

    def forward(self, x):
        return self.head(self.features(x))

    def both(self, x):
        features = self.features(x)
        return self.head(features), self.side(features)


def ce(z, y, **options):
    return F.cross_entropy(z, y, reduction="none", **options)


def focal(z):
    loss = ce(z, Y)
    return (1 - torch.exp(-loss)) ** 2 * loss


def sigmoid_focal(z):
    p, loss = z.sigmoid(), F.binary_cross_entropy_with_logits(z, MANY.to(z.dtype), reduction="none")
    return loss * (1 - (p * MANY + (1 - p) * (1 - MANY))) ** 2 * (0.25 * MANY + 0.75 * (1 - MANY))


def gce(z):
    return (1 - z.softmax(1).gather(1, Y[:, None]).squeeze(1) ** 0.7) / 0.7


def gce_of_losses(z):
    return (1 - torch.exp(-0.7 * ce(z, Y))) / 0.7


def kl(z):
    return F.kl_div((z / 2).log_softmax(1), (TEACHER / 2).to(z.dtype).softmax(1), reduction="none").sum(1)


def dice(z):
    p, y = z.softmax(1), F.one_hot(Y, C)
    return 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)


def top(losses, k=8):
    return losses * B / k * (losses >= losses.topk(k).values[-1])


def hard(losses):
    return losses * (losses > 1.2) * B / (losses > 1.2).sum()


@dataclass
class Meant:
    """A step, and the losses of its samples."""

    step: object  # module -> loss
    losses: object  # module -> float[b]
    recorded: object = None  # module -> float[b], where it is another
    is_sum: bool = False


def of_logits(step, losses, **options):
    return Meant(lambda net: step(net(X)), lambda net: losses(net(X)), **options)


def tokens(net):
    return net(X_TOKENS)


STEPS = {
    "mean": of_logits(lambda z: F.cross_entropy(z, Y), lambda z: ce(z, Y)),
    "module form": of_logits(lambda z: nn.CrossEntropyLoss()(z, Y), lambda z: ce(z, Y)),
    "sum": of_logits(lambda z: F.cross_entropy(z, Y, reduction="sum"), lambda z: ce(z, Y), is_sum=True),
    "none": of_logits(lambda z: ce(z, Y).mean(), lambda z: ce(z, Y)),
    "a constant divides": of_logits(lambda z: ce(z, Y).sum() / B, lambda z: ce(z, Y)),
    "nll": of_logits(lambda z: F.nll_loss(z.log_softmax(1), Y), lambda z: ce(z, Y)),
    "nll by hand": of_logits(lambda z: -z.log_softmax(1)[torch.arange(B), Y].mean(), lambda z: ce(z, Y)),
    "log of softmax": of_logits(lambda z: F.nll_loss(z.softmax(1).log(), Y), lambda z: ce(z, Y)),
    "label smoothing": of_logits(
        lambda z: F.cross_entropy(z, Y, label_smoothing=0.1), lambda z: ce(z, Y, label_smoothing=0.1)
    ),
    "class weights": of_logits(
        lambda z: F.cross_entropy(z, Y, weight=CLASS_WEIGHT.to(z.dtype)),
        lambda z: ce(z, Y, weight=CLASS_WEIGHT.to(z.dtype)) * B / CLASS_WEIGHT[Y].sum(),
    ),
    "smoothed and weighted": of_logits(
        lambda z: F.cross_entropy(z, Y, weight=CLASS_WEIGHT.to(z.dtype), label_smoothing=0.1),
        lambda z: ce(z, Y, weight=CLASS_WEIGHT.to(z.dtype), label_smoothing=0.1) * B / CLASS_WEIGHT[Y].sum(),
    ),
    "soft targets": of_logits(lambda z: F.cross_entropy(z, SOFT.to(z.dtype)), lambda z: ce(z, SOFT.to(z.dtype))),
    "ignored targets": of_logits(
        lambda z: F.cross_entropy(z, Y.masked_fill(Y == 2, -100)),
        lambda z: ce(z, Y.masked_fill(Y == 2, -100)) * B / (Y != 2).sum(),
    ),
    "focal, textbook": of_logits(lambda z: focal(z).mean(), focal),
    "focal, torchvision": of_logits(lambda z: sigmoid_focal(z).mean(), lambda z: sigmoid_focal(z).mean(1)),
    "GCE": of_logits(lambda z: gce(z).mean(), gce),
    "GCE of losses": of_logits(lambda z: gce_of_losses(z).mean(), gce_of_losses),
    "clamp": of_logits(lambda z: ce(z, Y).clamp(max=1.5).mean(), lambda z: ce(z, Y).clamp(max=1.5)),
    "top-k": of_logits(lambda z: ce(z, Y).topk(8).values.mean(), lambda z: top(ce(z, Y))),
    "OHEM": of_logits(
        lambda z: ce(z, Y)[ce(z, Y) > 1.2].mean(), lambda z: ce(z, Y) * (ce(z, Y) > 1.2) * B / (ce(z, Y) > 1.2).sum()
    ),
    "mixup": of_logits(
        lambda z: LAM * F.cross_entropy(z, Y) + (1 - LAM) * F.cross_entropy(z, Y2),
        lambda z: LAM * ce(z, Y) + (1 - LAM) * ce(z, Y2),
    ),
    "mixup over one log_softmax": of_logits(
        lambda z: (lambda p: LAM * F.nll_loss(p, Y) + (1 - LAM) * F.nll_loss(p, Y2))(z.log_softmax(1)),
        lambda z: LAM * ce(z, Y) + (1 - LAM) * ce(z, Y2),
    ),
    "distillation": of_logits(
        lambda z: (
            0.2 * F.cross_entropy(z, Y)
            + 0.8 * F.kl_div((z / 2).log_softmax(1), (TEACHER / 2).to(z.dtype).softmax(1), reduction="batchmean")
        ),
        lambda z: 0.2 * ce(z, Y) + 0.8 * kl(z),
    ),
    "CE + Dice": of_logits(lambda z: F.cross_entropy(z, Y) + dice(z).mean(), lambda z: ce(z, Y) + dice(z)),
    "CE + auxiliary head": Meant(
        lambda net: (lambda z, a: F.cross_entropy(z, Y) + 0.4 * F.cross_entropy(a, Y))(*net.both(X)),
        lambda net: (lambda z, a: ce(z, Y) + 0.4 * ce(a, Y))(*net.both(X)),
    ),
    "CE + activity": Meant(
        lambda net: (lambda f: F.cross_entropy(net.head(f), Y) + 0.1 * f.square().mean())(net.features(X)),
        lambda net: (lambda f: ce(net.head(f), Y) + 0.1 * f.square().mean(1))(net.features(X)),
    ),
    "multi-task sum": Meant(
        lambda net: (lambda z, a: F.cross_entropy(z, Y) + 0.5 * F.mse_loss(a, REAL.to(a.dtype)))(*net.both(X)),
        lambda net: (lambda z, a: ce(z, Y) + 0.5 * (a - REAL).square().mean(1))(*net.both(X)),
    ),
    "mse": of_logits(lambda z: F.mse_loss(z, REAL.to(z.dtype)), lambda z: (z - REAL).square().mean(1)),
    "mse the other way round": of_logits(
        lambda z: F.mse_loss(REAL.to(z.dtype), z), lambda z: (z - REAL).square().mean(1)
    ),
    "mse by hand": of_logits(lambda z: (z - REAL).pow(2).mean(), lambda z: (z - REAL).square().mean(1)),
    "l1": of_logits(lambda z: F.l1_loss(z, REAL.to(z.dtype)), lambda z: (z - REAL).abs().mean(1)),
    "smooth l1": of_logits(
        lambda z: F.smooth_l1_loss(z, REAL.to(z.dtype), beta=0.5),
        lambda z: F.smooth_l1_loss(z, REAL.to(z.dtype), beta=0.5, reduction="none").mean(1),
    ),
    "huber": of_logits(
        lambda z: F.huber_loss(z, REAL.to(z.dtype), delta=0.5),
        lambda z: F.huber_loss(z, REAL.to(z.dtype), delta=0.5, reduction="none").mean(1),
    ),
    "gaussian nll": of_logits(
        lambda z: F.gaussian_nll_loss(z, REAL.to(z.dtype), z.exp()),
        lambda z: F.gaussian_nll_loss(z, REAL.to(z.dtype), z.exp(), reduction="none").mean(1),
    ),
    "masked regression": of_logits(
        lambda z: (F.mse_loss(z, REAL.to(z.dtype), reduction="none") * MASK).sum() / MASK.sum(),
        lambda z: ((z - REAL).square() * MASK).sum(1) * B / MASK.sum(),
    ),
    "missing targets, left out": of_logits(
        lambda z: (z - MISSING.nan_to_num()).square()[~MISSING.isnan()].mean(),
        lambda z: ((z - REAL).square() * MASK).sum(1) * B / MASK.sum(),
    ),
    "missing targets, left out before": of_logits(
        lambda z: F.mse_loss(z[MASK.bool()], REAL[MASK.bool()].to(z.dtype)),
        lambda z: ((z - REAL).square() * MASK).sum(1) * B / MASK.sum(),
    ),
    "missing targets, set to zero": of_logits(
        lambda z: torch.where(MISSING.isnan(), 0.0, (z - REAL).square()).sum() / MASK.sum(),
        lambda z: ((z - REAL).square() * MASK).sum(1) * B / MASK.sum(),
    ),
    "BCE over many labels": of_logits(
        lambda z: F.binary_cross_entropy_with_logits(z, MANY.to(z.dtype)),
        lambda z: F.binary_cross_entropy_with_logits(z, MANY.to(z.dtype), reduction="none").mean(1),
    ),
    "BCE of probabilities": of_logits(
        lambda z: F.binary_cross_entropy(z.sigmoid(), MANY.to(z.dtype)),
        lambda z: F.binary_cross_entropy_with_logits(z, MANY.to(z.dtype), reduction="none").mean(1),
    ),
    "tokens": Meant(
        lambda net: F.cross_entropy(tokens(net).transpose(1, 2), TOKENS),
        lambda net: ce(tokens(net).transpose(1, 2), TOKENS).mean(1),
    ),
    "tokens, flattened": Meant(
        lambda net: F.cross_entropy(tokens(net).view(-1, C), TOKENS.view(-1)),
        lambda net: ce(tokens(net).transpose(1, 2), TOKENS).mean(1),
    ),
    "tokens, shifted and padded": Meant(
        lambda net: F.cross_entropy(tokens(net)[:, :-1].contiguous().view(-1, C), SHORT[:, 1:].reshape(-1)),
        lambda net: ce(tokens(net)[:, :-1].transpose(1, 2), SHORT[:, 1:]).sum(1) * B / (SHORT[:, 1:] != -100).sum(),
    ),
    "tokens, picked": Meant(
        lambda net: F.cross_entropy(tokens(net)[SHORT != -100], SHORT[SHORT != -100]),
        lambda net: ce(tokens(net).transpose(1, 2), SHORT).sum(1) * B / (SHORT != -100).sum(),
    ),
    "pixels": Meant(
        lambda net: F.cross_entropy(tokens(net).view(B, 2, 2, C).permute(0, 3, 1, 2), TOKENS.view(B, 2, 2)),
        lambda net: ce(tokens(net).transpose(1, 2), TOKENS).mean(1),
    ),
    "contrastive over the batch's own": of_logits(
        lambda z: ce(F.normalize(z, dim=1) @ F.normalize(REAL.to(z.dtype), dim=1).T / 0.1, torch.arange(B)).mean(),
        lambda z: ce(F.normalize(z, dim=1) @ F.normalize(REAL.to(z.dtype), dim=1).T / 0.1, torch.arange(B)),
    ),
    "root of the mean": of_logits(
        lambda z: F.mse_loss(z, REAL.to(z.dtype)).sqrt(),
        lambda z: (z - REAL).square().mean(1) / (2 * F.mse_loss(z, REAL.to(z.dtype)).sqrt().detach()),
    ),
    "a penalty on parameters": Meant(
        lambda net: F.cross_entropy(net(X), Y) + 1e-2 * sum(p.square().sum() for p in net.parameters()),
        lambda net: ce(net(X), Y),
    ),
}


class Step(pl.LightningModule):
    def __init__(self, step, net=None):
        super().__init__()
        self.net = Net() if net is None else net
        self.step = step

    def training_step(self, batch, batch_idx):
        return self.step(self.net)


def trained(module, capture, weight):
    """The gradient and what was recorded."""
    module.zero_grad()
    capture.arm(module, B, weight)
    loss = module.training_step(None, 0)
    (loss["loss"] if isinstance(loss, dict) else loss).backward()
    observed = capture.take()
    capture.disarm()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]), observed


def meant_gradient(module, meant, weight, name):
    """That of the weighted loss, in double precision."""
    net = copy.deepcopy(module.net).double()
    losses = meant.losses(net)
    loss = (weight.double() * losses.double()).nansum() / (1 if meant.is_sum else B)
    if name == "a penalty on parameters":  # no sample's: it has no weight
        loss = loss + 1e-2 * sum(p.square().sum() for p in net.parameters())
    loss.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", STEPS)
def test_the_gradient_is_that_of_the_weighted_loss_and_recorded_is_the_loss_as_trained(name):
    meant = STEPS[name]
    module, capture = Step(meant.step), LossCapture()
    exact = meant.losses(copy.deepcopy(module.net).double()).detach().float()
    for _ in range(2):  # the first step finds out how samples are told apart
        gradient, observed = trained(module, capture, WEIGHT)
        expected = meant_gradient(module, meant, WEIGHT, name)
        error = float((gradient - expected).norm() / expected.norm())
        assert error < 1e-5
        assert capture.kind in ("terms", "values")
        seen = observed.value.isfinite()
        torch.testing.assert_close(observed.value[seen], exact[seen], rtol=1e-4, atol=1e-5)
        assert (exact[~seen] == 0).all()  # masked or left out altogether


@pytest.mark.parametrize("size", [3, 5, 6, 7, 9, 11])
def test_recorded_cross_entropy_is_the_same_to_the_last_bit_whatever_the_size_of_the_batch(size):
    z = Net()(X[:size])
    loss = F.cross_entropy(z, Y[:size])
    at = cut(loss.grad_fn, size)
    recorder = Recorder(loss, at, terms(loss.grad_fn, at, size, {}), size, None, "loss", [])
    loss.backward()
    assert torch.equal(recorder.observed().value, ce(z, Y[:size]))


def test_of_a_loss_without_terms_of_samples_the_norm_of_their_gradient_is_observed(caplog):
    def dice_of_the_batch(z):
        p, y = z.softmax(1), F.one_hot(Y, C)
        return 1 - ((2 * (p * y).sum(0) + 1) / (p.sum(0) + y.sum(0) + 1)).mean()

    module, capture = Step(lambda net: dice_of_the_batch(net(X))), LossCapture()
    with caplog.at_level("INFO"):
        for _ in range(2):
            gradient, observed = trained(module, capture, WEIGHT)
    assert capture.kind == "norm"
    assert caplog.text.count("AlignPrune observes the norm of each sample's gradient at the network's output") == 1
    z = module.net(X)
    (at_output,) = torch.autograd.grad(dice_of_the_batch(z), z, retain_graph=True)
    torch.testing.assert_close(observed.value, B * at_output.norm(dim=1))
    expected = torch.autograd.grad(z, list(module.net.parameters()), WEIGHT[:, None] * at_output, allow_unused=True)
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in expected if g is not None]))


def test_of_cross_entropy_the_norm_of_the_gradient_is_el2n():
    z, y = Net()(X), F.one_hot(Y, C)
    loss = F.cross_entropy(z, Y)
    at = cut(loss.grad_fn, B)
    recorder = Recorder(loss, at, None, B, None, "loss", [])
    loss.backward()
    torch.testing.assert_close(recorder.observed().value, (z.softmax(1) - y).norm(dim=1).detach())


def test_a_loss_of_which_a_part_shows_no_samples_records_the_rest(caplog):
    def loss(z):
        p, y = z.softmax(1), F.one_hot(Y, C)
        return F.cross_entropy(z, Y) - (p * y).sum() / (p + y).sum()

    module, capture = Step(lambda net: loss(net(X))), LossCapture()
    with caplog.at_level("INFO"):
        _, observed = trained(module, capture, None)
    assert "a part of training_step's loss" in caplog.text
    torch.testing.assert_close(observed.value, ce(module.net(X), Y).detach())


REFUSED = {
    "a learnt factor of the loss": lambda net, factor: F.cross_entropy(net(X), Y) * factor.exp() + factor,
    "samples in columns": lambda net, factor: (
        F.cross_entropy((net.head.weight @ net.features(X).T).T.contiguous(), Y) * 0
        + (net.head.weight @ net.features(X).T).square().mean()
    ),
    "no sample": lambda net, factor: factor.square(),
    "a batch of other samples": lambda net, factor: F.cross_entropy(net(X[:5]), Y[:5]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_no_tensor_of_samples_carries_all_of_the_gradient_the_step_is_refused(name):
    factor = nn.Parameter(torch.zeros(()))
    module, capture = Step(lambda net: REFUSED[name](net, factor)), LossCapture()
    capture.arm(module, B, WEIGHT)
    with pytest.raises(MisconfigurationException, match="no tensor of the batch's 12 samples"):
        module.training_step(None, 0)
    capture.disarm()


class Wide(nn.Module):
    """Its parameters have the batch's size in every place."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, B), nn.Linear(B, B, bias=False)
        self.body = self.first

    def forward(self, x):
        return F.linear(self.first(x.to(self.first.weight.dtype)).tanh(), F.normalize(self.second.weight, dim=1))


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_a_parameter_with_as_many_rows_as_the_batch_is_not_taken_for_samples(penalty):
    module, capture = (
        Step(lambda net: F.cross_entropy(net(X), Y) + penalty * net.second.weight.square().sum(), Wide()),
        LossCapture(),
    )
    gradient, _ = trained(module, capture, WEIGHT)
    loss = (WEIGHT * ce(module.net(X), Y)).mean() + penalty * module.net.second.weight.square().sum()
    module.zero_grad()
    loss.backward()
    torch.testing.assert_close(gradient, torch.cat([p.grad.flatten() for p in module.net.parameters()]))
