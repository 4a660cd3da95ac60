"""Steps that optimise by hand: closures, several losses, gradients for other ends; recorded once, weighted or refused."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from alignprune_pl import AlignPrune, EpochPlan, LossScore, Policy
from helpers import make_trainer

N, D, C = 24, 4, 3
GENERATOR = torch.Generator().manual_seed(0)
X, Y, WEIGHT = torch.randn(N, D, generator=GENERATOR), torch.arange(N) % C, torch.rand(N, generator=GENERATOR) * 2
DATA = TensorDataset(X, Y, torch.arange(N))


class Weighs(Policy):
    """Keeps all, in order, each with a weight of its own."""

    def __init__(self, weight=WEIGHT):
        self.weight = weight

    def plan(self, scores, ask):
        return EpochPlan(torch.arange(N), self.weight)


class ByHand(pl.LightningModule):
    """One body, two heads; ``step(module, optimizer, batch)`` does the rest."""

    def __init__(self, step, optimizer=None):
        super().__init__()
        self.automatic_optimization = False
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.head, self.side = nn.Linear(D, 8), nn.Linear(8, C), nn.Linear(8, C)
        self.step = step
        self.make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.5))
        self.prune = []

    def logits(self, x):
        features = self.body(x).tanh()
        return self.head(features), self.side(features)

    def losses(self, batch):
        z, side = self.logits(batch[0])
        return F.cross_entropy(z, batch[1], reduction="none"), F.cross_entropy(side, batch[1], reduction="none")

    def training_step(self, batch, batch_idx):
        self.step(self, self.optimizers(), batch)

    def configure_optimizers(self):
        return self.make(self.parameters())


def fit(module, batch_size=N, weight=WEIGHT, **kwargs):
    settings = {"score": LossScore(), **kwargs}
    prune = AlignPrune(policy=Weighs(weight), window=2, storage_dtype="float32", **settings)
    module.prune = [prune]
    make_trainer(prune, max_epochs=1).fit(module, DataLoader(DATA, batch_size=batch_size))
    return prune.store.last_loss()


def check_updated(module, loss, recorded=None, given=None, parameters=None):
    """One step of SGD by the gradient of ``loss(module, weight)``, and the losses that were recorded before it."""
    fresh = ByHand(None)
    loss(fresh, WEIGHT).backward()
    for (name, now), then in zip(module.named_parameters(), fresh.parameters(), strict=True):
        gradient = torch.zeros_like(then) if then.grad is None else then.grad
        torch.testing.assert_close(now, then - 0.5 * gradient, msg=lambda text, name=name: f"{name}: {text}")
    if recorded is not None:
        torch.testing.assert_close(given, recorded(ByHand(None)).detach())


def first(module, weight=1.0):
    return (weight * module.losses((X, Y))[0]).mean()


# ---- closures -----------------------------------------------------------------------------------------------


def closure_of(module, optimizer, batch):
    def closure():
        optimizer.zero_grad()
        loss = module.losses(batch)[0].mean()
        module.manual_backward(loss)
        return loss

    return closure


def test_a_step_that_is_given_a_closure_is_weighted_and_recorded():
    module = ByHand(lambda module, optimizer, batch: optimizer.step(closure=closure_of(module, optimizer, batch)))
    recorded = fit(module)
    check_updated(module, first, lambda fresh: fresh.losses((X, Y))[0], recorded)


def test_so_is_a_closure_that_torchs_own_optimizer_is_given_by_place():
    def step(module, optimizer, batch):
        optimizer.optimizer.step(closure_of(module, optimizer, batch))

    module = ByHand(step)
    recorded = fit(module)
    check_updated(module, first, lambda fresh: fresh.losses((X, Y))[0], recorded)


def test_a_closure_whose_loss_cannot_be_seen_is_refused_before_the_update():
    def step(module, optimizer, batch):
        def closure():
            module.losses(batch)[0].mean().backward()

        optimizer.step(closure=closure)

    check_refused(ByHand(step))


def check_refused(module, **kwargs):
    """Nothing of the last step has reached the parameters."""
    with pytest.raises(MisconfigurationException, match=r"has not seen the loss.* call self.manual_backward\(loss\)"):
        fit(module, **kwargs)
    for now, then in zip(module.parameters(), ByHand(None).parameters(), strict=True):
        assert torch.equal(now, then)


# ---- losses that go back otherwise --------------------------------------------------------------------------


def test_a_second_loss_that_goes_back_by_itself_is_refused_before_the_update():
    def step(module, optimizer, batch):
        one, two = module.losses(batch)
        module.manual_backward(one.mean(), retain_graph=True)
        two.mean().backward()
        optimizer.step()

    check_refused(ByHand(step))


def test_so_is_one_before_the_loss_that_is_followed_and_one_of_an_earlier_batch():
    def before(module, optimizer, batch):
        one, two = module.losses(batch)
        torch.autograd.backward(two.mean(), retain_graph=True)
        module.manual_backward(one.mean())
        optimizer.step()

    def earlier(module, optimizer, batch):
        one, two = module.losses(batch)
        if 0 in batch[2]:
            two.mean().backward()
            return
        module.manual_backward(one.mean())
        optimizer.step()

    check_refused(ByHand(before))
    check_refused(ByHand(earlier), batch_size=12)


def test_gradients_made_by_hand_alone_are_refused_before_the_first_update():
    def step(module, optimizer, batch):
        parameters = [*module.body.parameters(), *module.head.parameters()]
        found = torch.autograd.grad(module.losses(batch)[0].mean(), parameters)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
        optimizer.step()

    check_refused(ByHand(step))


def test_a_gradient_that_is_cleared_before_the_loss_goes_back_is_the_users_own():
    def step(module, optimizer, batch):  # training on adversarial samples
        x = batch[0].clone().requires_grad_()
        module.losses((x, batch[1]))[0].mean().backward()
        optimizer.zero_grad()
        module.manual_backward(module.losses((x.detach() + 0.1 * x.grad.sign(), batch[1]))[0].mean())
        optimizer.step()

    def adversarial(module, weight):
        x = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(first_of(module, x), x)
        return (weight * module.losses((X + 0.1 * gradient.sign(), Y))[0]).mean()

    def first_of(module, x):
        return module.losses((x, Y))[0].mean()

    module = ByHand(step)
    fit(module)
    check_updated(module, adversarial)


@pytest.mark.parametrize("way", ["by itself", "followed"])
def test_a_penalty_without_samples_may_go_back_either_way(way):
    def penalty(module):
        return 0.1 * module.head.weight.square().sum()

    def step(module, optimizer, batch):
        penalty(module).backward() if way == "by itself" else module.manual_backward(penalty(module))
        module.manual_backward(module.losses(batch)[0].mean())
        optimizer.step()

    module = ByHand(step)
    recorded = fit(module)
    check_updated(module, lambda fresh, weight: first(fresh, weight) + penalty(fresh))
    torch.testing.assert_close(recorded, ByHand(None).losses((X, Y))[0].detach())


def test_torch_goes_back_as_before_after_the_step():
    original = torch.autograd.backward
    fit(ByHand(lambda module, optimizer, batch: module.manual_backward(module.losses(batch)[0].mean())))
    assert torch.autograd.backward is original


# ---- once a step --------------------------------------------------------------------------------------------


def looking(looked):
    """A step that looks at its loss's gradient after that went back."""

    def step(module, optimizer, batch):
        z, _ = module.logits(batch[0])
        loss = F.cross_entropy(z, batch[1])
        module.manual_backward(loss, retain_graph=True)
        looked.append(torch.autograd.grad(loss, z)[0])
        optimizer.step()

    return step


def check_looked(looked):
    z = ByHand(None).logits(X)[0]
    torch.testing.assert_close(looked[0], torch.autograd.grad(F.cross_entropy(z, Y), z)[0])


def test_a_gradient_that_the_step_takes_after_the_loss_went_back_is_neither_weighted_nor_recorded():
    looked = []
    module = ByHand(looking(looked))
    recorded = fit(module)
    check_updated(module, first, lambda fresh: fresh.losses((X, Y))[0], recorded)
    check_looked(looked)


def test_nor_is_that_of_a_loss_of_which_the_batchs_value_counts():
    looked = []
    module = ByHand(looking(looked))
    prune = AlignPrune(policy=Weighs(), score="batch_loss", window=2)
    make_trainer(prune, max_epochs=1).fit(module, DataLoader(DATA, batch_size=N))
    check_looked(looked)


def test_a_loss_that_is_looked_at_before_it_goes_back_is_recorded_once():
    class Looks(ByHand):
        def __init__(self):
            super().__init__(None)
            self.automatic_optimization = True

        def training_step(self, batch, batch_idx):
            return self.losses(batch)[0].mean()

        def on_before_backward(self, loss):
            torch.autograd.grad(loss, self.head.weight, retain_graph=True)

    recorded = fit(Looks())
    torch.testing.assert_close(recorded, ByHand(None).losses((X, Y))[0].detach())


@pytest.mark.parametrize("capture_mode", ["auto", "explicit"])
def test_of_a_closure_that_is_called_again_the_last_call_counts(capture_mode):
    calls = []

    def step(module, optimizer, batch):
        def closure():
            optimizer.zero_grad()
            losses = module.losses(batch)[0]
            calls.append(losses.detach())
            losses = module.prune[0].weight(losses) if capture_mode == "explicit" else losses
            module.manual_backward(losses.mean())
            return losses.mean()

        optimizer.step(closure=closure)

    module = ByHand(step, lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=4))
    recorded = fit(module, capture_mode=capture_mode)
    assert len(calls) > 2
    torch.testing.assert_close(recorded, calls[-1])


@pytest.mark.parametrize("score", ["el2n", "margin", "rival"])
def test_what_several_losses_show_of_their_logits_is_the_mean_as_it_is_of_their_sum(score):
    def by_hand(module, optimizer, batch):
        for loss in module.losses(batch):
            module.manual_backward(loss.mean(), retain_graph=True)
        optimizer.step()

    def together(module, optimizer, batch):
        module.manual_backward(sum(loss.mean() for loss in module.losses(batch)))
        optimizer.step()

    one, other = (fit(ByHand(step), score=score) for step in (by_hand, together))
    torch.testing.assert_close(one, other)
    assert one.isfinite().all()


def test_several_losses_of_a_step_are_added_up_whichever_closures_they_are_in():
    def step(module, optimizer, batch):
        one, two = module.losses(batch)
        module.manual_backward(one.mean(), retain_graph=True)

        def closure():
            module.manual_backward(0.5 * two.mean())

        optimizer.step(closure=closure)

    module = ByHand(step)
    recorded = fit(module)
    one, two = ByHand(None).losses((X, Y))
    torch.testing.assert_close(recorded, (one + 0.5 * two).detach())
