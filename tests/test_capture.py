from __future__ import annotations

import copy
import math
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.functional import cross_entropy

from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.fit.capture import LossCapture, captured

B = 6
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 5.0])


class Step(pl.LightningModule):
    """A step on the logits of a network, which are its parameters, so that their gradient is theirs."""

    def __init__(self, loss):
        super().__init__()
        self.net = nn.Linear(B, 3, bias=False)
        with torch.no_grad():
            self.net.weight.copy_(torch.randn(B, 3, generator=torch.Generator().manual_seed(0)).T)
        self.loss = loss

    @property
    def logits(self):
        return self.net(torch.eye(B))

    def training_step(self, batch, batch_idx):
        return self.loss(self.logits)


def observed_of(capture, module, weight=None):
    """What a step in training shows."""
    module.zero_grad()
    capture.arm(module, B, weight)
    output = module.training_step(None, 0)
    loss = output.get("loss") if isinstance(output, dict) else output
    if loss is not None:
        loss.backward()
    observed = capture.take()
    capture.disarm()
    return observed


def capture_once(capture, module, weight=None):
    """The gradient at the logits, and the losses."""
    observed = observed_of(capture, module, weight)
    gradient = module.net.weight.grad
    return None if gradient is None else gradient.T, None if observed is None else observed.value


def gradient_of(loss, module):
    """At the logits, of a loss that is no step's."""
    return torch.autograd.grad(loss(module.logits).sum(), module.net.weight)[0].T


def passed(capture, module):
    """What samples show that are not trained on."""
    with torch.no_grad():
        return capture.observe(module, lambda: module.training_step(None, 0), B)


LOSSES = {
    "cross_entropy": lambda x: F.cross_entropy(x, LABELS),
    "module form": lambda x: nn.CrossEntropyLoss()(x, LABELS),
    "imported name": lambda x: cross_entropy(x, LABELS),
    "label smoothing": lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1),
    "class weights": lambda x: F.cross_entropy(x, LABELS, weight=CLASS_WEIGHT),
    "smoothed and weighted": lambda x: F.cross_entropy(x, LABELS, weight=CLASS_WEIGHT, label_smoothing=0.1),
    "ignored targets": lambda x: F.cross_entropy(x, LABELS.masked_fill(LABELS == 2, -100)),
    "soft targets": lambda x: F.cross_entropy(x, F.one_hot(LABELS).float() * 0.9 + 0.1 / 3),
    "nll": lambda x: F.nll_loss(x.log_softmax(1), LABELS),
    "bce": lambda x: F.binary_cross_entropy_with_logits(x, F.one_hot(LABELS).float()),
    "mse": lambda x: F.mse_loss(x[:, 0], torch.arange(6.0)),
    "sum": lambda x: F.cross_entropy(x, LABELS, reduction="sum"),
    "none": lambda x: F.cross_entropy(x, LABELS, reduction="none").mean(),
    "with a regulariser": lambda x: F.cross_entropy(x, LABELS) + 0.1 * x.square().mean(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_step_returns_the_same_loss_as_without_capture(name):
    module, capture = Step(LOSSES[name]), LossCapture()
    for _ in range(3):
        capture.arm(module, B, torch.arange(6.0))
        output = module.training_step(None, 0)
        assert torch.equal(output, LOSSES[name](module.logits))
        output.backward()
        losses = capture.take().value
        capture.disarm()
        assert losses.shape == (B,)
        assert not losses.requires_grad
    assert "training_step" not in vars(module)


def test_captured_losses_are_torchs_own():
    module = Step(LOSSES["cross_entropy"])
    _, losses = capture_once(LossCapture(), module)
    assert torch.equal(losses, F.cross_entropy(module.logits, LABELS, reduction="none").detach())


@pytest.mark.parametrize("name", LOSSES)
def test_weights_multiply_each_samples_gradient(name):
    weight = torch.arange(6.0)
    module, capture = Step(LOSSES[name]), LossCapture()
    plain, losses = capture_once(capture, module)
    torch.testing.assert_close(plain, gradient_of(LOSSES[name], module))
    weighted, unchanged = capture_once(capture, module, weight)
    torch.testing.assert_close(weighted, weight[:, None] * plain)
    torch.testing.assert_close(unchanged, losses, equal_nan=True)


def test_factors_that_are_not_the_losss_own_are_not_recorded():
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture()
    capture.arm(module, B, None)
    (1024 * module.training_step(None, 0) / 3).backward()  # as a loss scaler and accumulation do
    losses = capture.take().value
    capture.disarm()
    torch.testing.assert_close(losses, F.cross_entropy(module.logits, LABELS, reduction="none").detach())


def test_a_sample_whose_targets_are_all_ignored_has_no_loss_and_is_not_counted_as_one_that_is_not_finite():
    target = torch.tensor([0, 1, -100, 0, 1, 2])
    observed = observed_of(LossCapture(), Step(lambda x: F.cross_entropy(x, target)))
    assert observed.value.isnan().tolist() == [False, False, True, False, False, False]
    assert observed.seen.tolist() == [True, True, False, True, True, True]
    store = TrajectoryStore(B, 2)
    store.record(torch.arange(B), observed.value, seen=observed.seen)
    store.close_epoch()
    assert store.nonfinite == 0
    assert store.last_loss().isnan().tolist() == observed.value.isnan().tolist()


def test_many_elements_in_half_precision_are_added_up_in_single():
    module = Step(
        lambda x: F.mse_loss(x.half() * 0 + torch.ones(B, 20_000 // 3 * 3).half()[:, :3], torch.zeros(B, 3).half())
    )
    _, losses = capture_once(LossCapture(), module)
    assert losses.tolist() == [1.0] * B


def test_a_loss_without_gradient_is_a_metric_and_not_recorded():
    module = Step(lambda x: F.cross_entropy(x, LABELS) + 0 * F.mse_loss(x.detach(), torch.zeros(6, 3)))
    _, losses = capture_once(LossCapture(), module)
    torch.testing.assert_close(losses, F.cross_entropy(module.logits, LABELS, reduction="none").detach())


def test_a_copy_of_the_module_made_within_a_batch_runs_its_own_step():
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture()
    capture.arm(module, B, None)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.net.weight.zero_()
    assert other.training_step(None, 0).item() == pytest.approx(math.log(3))
    assert capture.take() is None
    capture.disarm()
    assert module.training_step(None, 0).item() != pytest.approx(math.log(3))


def test_nothing_of_torch_is_replaced_within_a_step():
    inside = []
    module, capture = Step(lambda x: inside.append(dict(vars(F))) or F.cross_entropy(x, LABELS)), LossCapture()
    capture_once(capture, module)
    capture_once(capture, module)
    assert all(functions == dict(vars(F)) for functions in inside)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda x: x.square(), r"returned \(6, 3\) as its loss, but one number"),
        (lambda x: {"other": x.mean()}, "returned NoneType as its loss"),
        (lambda x: {"loss": x.mean(), "per_sample_loss": x.mean()}, r"per_sample_loss \(\), but one loss for each"),
        (lambda x: {"loss": x.mean(), "per_sample_loss": x[:, 0].detach()}, "without a graph"),
        (lambda x: {"loss": x.mean(), "samples": torch.tensor([0, 0])}, "the places of samples in the batch of 6"),
        (lambda x: {"loss": x.mean(), "samples": torch.tensor([1, 6])}, "the places of samples in the batch of 6"),
    ],
)
def test_a_step_that_cannot_be_followed_is_refused_by_name(loss, message):
    module, capture = Step(loss), LossCapture()
    with pytest.raises(MisconfigurationException, match=message):
        capture_once(capture, module)


def test_of_a_batch_that_lacks_samples_the_step_may_say_which_it_has():
    def step(x, places=None):
        loss = F.cross_entropy(x, LABELS[:4])
        return loss if places is None else {"loss": loss, "samples": places}

    capture, weight = LossCapture(observes="rival"), torch.arange(6.0)
    with pytest.raises(MisconfigurationException, match=r"the batch's 6 samples .* of shape \(4, 3\)"):
        capture_once(LossCapture(), Four(step))
    for places in (torch.tensor([5, 0, 3, 2]), torch.tensor([True, False, True, True, False, True])):
        module = Four(partial(step, places=places))
        observed = observed_of(capture, module, weight)
        index = places if places.dtype == torch.int64 else places.nonzero().flatten()
        seen = observed.value.isfinite()
        assert seen.nonzero().flatten().tolist() == sorted(index.tolist())
        torch.testing.assert_close(observed.value[index], against_rivals(module.logits.detach(), LABELS[:4])[0])
        assert (observed.pair == -1).tolist() == (~seen).tolist()
        gradient = module.net.weight.grad.T[:4]
        plain = gradient_of(lambda x: F.cross_entropy(x, LABELS[:4]), module)[:4]
        torch.testing.assert_close(gradient, weight[index, None] * plain)


class Four(Step):
    """Its batches have four of six samples."""

    @property
    def logits(self):
        return self.net(torch.eye(B)[:4])


def test_returned_losses_are_weighted_and_other_terms_left_alone():
    def loss(x):
        per_sample = x.square().sum(1)
        return {"loss": per_sample.mean() + 3 * x.mean(), "per_sample_loss": per_sample}

    module, capture, weight = Step(loss), LossCapture(), torch.arange(6.0)
    capture_once(capture, module)
    gradient, losses = capture_once(capture, module, weight)
    torch.testing.assert_close(losses, module.logits.square().sum(1).detach())
    expected = gradient_of(lambda x: (weight * x.square().sum(1)).mean() + 3 * x.mean(), module)
    torch.testing.assert_close(gradient, expected)


def logits_observables(logits, label):
    """EL2N and margin of one row of logits, written out."""
    shares = logits.exp() / logits.exp().sum()
    error = shares - F.one_hot(torch.tensor(label), len(logits))
    others = [float(z) for i, z in enumerate(logits) if i != label]
    return float(error.square().sum().sqrt()), float(logits[label]) - max(others)


@pytest.mark.parametrize(
    "name", ["cross_entropy", "imported name", "label smoothing", "class weights", "nll", "sum", "soft targets"]
)
def test_el2n_and_margin_are_read_from_the_logits_of_the_loss(name):
    module = Step(LOSSES[name])
    expected = [logits_observables(row.detach(), int(label)) for row, label in zip(module.logits, LABELS, strict=True)]
    for number, observable in enumerate(("el2n", "margin")):
        capture = LossCapture(observes=observable)
        for _ in range(2):
            _, seen = capture_once(capture, module)
        if name in ("soft targets", "label smoothing") and observable == "el2n":
            soft = F.one_hot(LABELS).float() * 0.9 + 0.1 / 3
            torch.testing.assert_close(seen, (module.logits.softmax(1) - soft).norm(dim=1).detach())
        else:
            torch.testing.assert_close(seen, torch.tensor([pair[number] for pair in expected]))


def test_el2n_and_margin_of_pixels_are_averaged_over_a_samples_valid_ones():
    target = torch.tensor([[[0, -100]], [[1, 2]], [[-100, -100]]])
    module = Step(None)
    logits = module.logits.detach().view(3, 1, 2, 3).permute(0, 3, 1, 2)
    module.training_step = lambda batch, number: F.cross_entropy(
        module.net(torch.eye(B).view(3, 1, 2, B)).permute(0, 3, 1, 2), target
    )
    pixel = [logits_observables(logits[i, :, 0, j], int(target[i, 0, j].clamp(min=0))) for i, j in PIXELS]
    for number, observable in enumerate(("el2n", "margin")):
        capture = LossCapture(observes=observable)
        capture.arm(module, 3, None)
        module.training_step(None, 0).backward()
        seen = capture.take().value
        capture.disarm()
        first, second, third = (pair[number] for pair in pixel)
        torch.testing.assert_close(seen, torch.tensor([first, (second + third) / 2, math.nan]), equal_nan=True)


def test_a_loss_without_logits_beside_one_with_them_is_trained_but_not_read():
    module = Step(lambda x: F.cross_entropy(x, LABELS) + F.mse_loss(x[:, 0], torch.zeros(6)))
    weight = torch.arange(6.0)
    for observable in ("el2n", "margin"):
        alone = capture_once(LossCapture(observes=observable), Step(LOSSES["cross_entropy"]))[1]
        capture = LossCapture(observes=observable)
        for _ in range(2):
            gradient, seen = capture_once(capture, module, weight)
            torch.testing.assert_close(seen, alone)
        torch.testing.assert_close(gradient, weight[:, None] * gradient_of(module.loss, module))


def test_the_error_vectors_of_several_heads_are_averaged():
    def el2n(*heads):
        module = Step(lambda x: sum(F.cross_entropy(head * x, LABELS) for head in heads))
        return capture_once(LossCapture(observes="el2n"), module)[1]

    torch.testing.assert_close(el2n(1.0, -0.5, 2.0), (el2n(1.0) + el2n(-0.5) + el2n(2.0)) / 3)


PIXELS = [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (LOSSES["mse"], "The score reads margin from logits, but training_step's loss shows none; use cross_entropy"),
        (LOSSES["bce"], "training_step's loss shows none"),
        (
            lambda x: {"loss": x.mean(), "per_sample_loss": x.square().sum(1)},
            "returned per_sample_loss, but the score reads margin from the logits",
        ),
        (lambda x: x.square().mean(), "training_step's loss shows none"),
    ],
)
def test_a_loss_without_logits_is_refused_where_the_score_reads_them(loss, message):
    with pytest.raises(MisconfigurationException, match=message):
        capture_once(LossCapture(observes="margin"), Step(loss))


@pytest.mark.parametrize("observes", ["loss", "margin", "el2n", "rival"])
def test_of_a_batch_that_is_not_trained_on_the_same_is_observed_as_in_training(observes):
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture(observes=observes)
    _, trained = capture_once(capture, module)
    assert torch.equal(passed(capture, module).value, trained)


@pytest.mark.parametrize("resumed", [False, True])
def test_where_several_losses_in_training_show_no_pair_a_pass_with_one_shows_none_either(resumed):
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture(observes="rival")
    module.loss = lambda x: F.cross_entropy(x, LABELS) + F.cross_entropy(2 * x, LABELS)
    capture_once(capture, module)
    if resumed:
        state, capture = capture.state_dict(), LossCapture(observes="rival")
        capture.load_state_dict(state)
    module.loss = lambda x: F.cross_entropy(x, LABELS)
    assert passed(capture, module).pair is None
    capture_once(capture, module)
    assert passed(capture, module).pair is not None


BATCH_LOSSES = {
    "unknown loss": lambda x: x.square().mean(),
    "in a dictionary": lambda x: {"loss": x.square().mean(), "other": 3},
    "over part of the batch": lambda x: F.cross_entropy(x[:4], LABELS[:4]),
    "of one element": lambda x: x.square().mean().reshape(1),
}


@pytest.mark.parametrize("name", BATCH_LOSSES)
def test_where_only_the_batchs_loss_exists_it_is_every_samples_and_gets_the_mean_weight(name):
    module, capture = Step(BATCH_LOSSES[name]), LossCapture(observes="batch_loss")

    def plain(x):
        loss = BATCH_LOSSES[name](x)
        return loss["loss"] if isinstance(loss, dict) else loss

    weight = torch.tensor([1.0, 1.0, 4.0, 4.0, 1.0, 1.0])
    for _ in range(2):
        gradient, losses = capture_once(capture, module, weight)
        torch.testing.assert_close(losses, plain(module.logits).detach().expand(B))
        torch.testing.assert_close(gradient, 2 * gradient_of(plain, module))
    assert capture.kind == "batch"
    torch.testing.assert_close(passed(capture, module).value, losses)


def test_the_batchs_loss_is_all_of_what_the_step_returns_though_a_part_of_it_could_be_captured():
    module = Step(lambda x: 100 * x.square().mean() + 1e-3 * F.mse_loss(x, torch.zeros(B, 3)))
    capture = LossCapture(observes="batch_loss")
    expected = module.loss(module.logits)
    gradient, losses = capture_once(capture, module, torch.full((B,), 3.0))
    torch.testing.assert_close(losses, expected.detach().expand(B))
    torch.testing.assert_close(gradient, 3 * gradient_of(module.loss, module))


def test_returned_losses_of_samples_are_weighted_one_by_one_for_batch_scores_too():
    def loss(x):
        per_sample = x.square().sum(1)
        return {"loss": per_sample.mean(), "per_sample_loss": per_sample}

    module, capture, weight = Step(loss), LossCapture(observes="batch_loss"), torch.arange(6.0)
    for _ in range(2):
        gradient, _ = capture_once(capture, module, weight)
        torch.testing.assert_close(gradient, weight[:, None] * 2 * module.logits.detach() / B)


@pytest.mark.parametrize("loss", [lambda x: None, lambda x: {"other": x.mean()}, lambda x: x.square()])
def test_a_step_without_a_loss_is_no_batch_loss_either(loss):
    module, capture = Step(loss), LossCapture(observes="batch_loss")
    if loss(module.logits) is None:
        assert capture_once(capture, module) == (None, None)  # a skipped batch
    else:
        with pytest.raises(MisconfigurationException, match="as its loss, but one number is expected"):
            capture_once(capture, module)


def test_an_explicit_step_may_weigh_its_batchs_loss_where_that_will_do():
    capture = LossCapture(explicit=True, observes="batch_loss")
    module = Step(lambda x: capture.weigh(x.square().mean()))
    weight = torch.tensor([1.0, 1.0, 4.0, 4.0, 1.0, 1.0])
    gradient, losses = capture_once(capture, module, weight)
    torch.testing.assert_close(gradient, 2 * gradient_of(lambda x: x.square().mean(), module))
    torch.testing.assert_close(losses, module.logits.square().mean().detach().expand(B))
    other = LossCapture(explicit=True)
    with pytest.raises(MisconfigurationException, match=r"gave weight\(\) \(\), but one loss for each"):
        capture_once(other, Step(lambda x: other.weigh(x.square().mean())))


# ---- the loss against the strongest other class, and which one that is ------------------------------------


def against_rivals(logits, labels=LABELS):
    """The losses against rivals and the pairs, written out."""
    losses, pairs = [], []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        lead, rival = max((z - row[label], k) for k, z in enumerate(row) if k != label)
        losses.append(math.log(1 + math.exp(lead)))
        pairs.append(label * 3 + rival)
    return torch.tensor(losses), pairs


@pytest.mark.parametrize(
    "name", ["cross_entropy", "imported name", "label smoothing", "class weights", "nll", "sum", "none", "soft targets"]
)
def test_the_loss_against_the_rival_and_the_pair_are_read_from_the_logits_of_the_loss(name):
    module, capture = Step(LOSSES[name]), LossCapture(observes="rival")
    losses, pairs = against_rivals(module.logits.detach())
    weight = torch.arange(6.0)
    for _ in range(3):
        observed = observed_of(capture, module, weight)
        torch.testing.assert_close(observed.value, losses)
        assert observed.pair.tolist() == pairs
        assert observed.classes == 3


def test_two_heads_in_a_step_count_by_their_share_and_give_no_pair():
    module = Step(lambda x: F.cross_entropy(x, LABELS) + 3 * F.cross_entropy(-x, LABELS))
    capture, logits = LossCapture(observes="rival"), module.logits.detach()
    for _ in range(2):
        observed = observed_of(capture, module)
        torch.testing.assert_close(observed.value, (against_rivals(logits)[0] + 3 * against_rivals(-logits)[0]) / 4)
        assert observed.pair_or_unknown().tolist() == [-1] * B
    reference = passed(capture, module)
    torch.testing.assert_close(reference.value, observed.value)
    assert reference.pair_or_unknown().tolist() == [-1] * B


@pytest.mark.parametrize("turned", [False, True])
def test_a_loss_without_logits_beside_one_with_them_does_not_count_among_rivals(turned):
    losses = [lambda x: F.cross_entropy(x, LABELS), lambda x: F.mse_loss(x[:, 0], torch.zeros(6))]
    module = Step(lambda x: sum(loss(x) for loss in (losses[::-1] if turned else losses)))
    capture, (expected, pairs) = LossCapture(observes="rival"), against_rivals(Step(None).logits.detach())
    for _ in range(2):
        observed = observed_of(capture, module)
        torch.testing.assert_close(observed.value, expected)
        assert observed.pair.tolist() == pairs


@pytest.mark.parametrize("name", ["mse", "bce"])
def test_a_step_without_logits_falls_back_on_its_loss_where_rivals_are_asked_for(name):
    module, capture = Step(LOSSES[name]), LossCapture(observes="rival")
    expected = observed_of(LossCapture(), module).value
    for _ in range(2):
        observed = observed_of(capture, module)
        torch.testing.assert_close(observed.value, expected)
        assert (observed.pair, observed.classes) == (None, 0)


def test_losses_that_are_returned_have_no_pair_though_the_step_called_a_loss_with_logits():
    def loss(x):
        per_sample = F.cross_entropy(x, LABELS, reduction="none") + 1.0
        return {"loss": per_sample.mean(), "per_sample_loss": per_sample}

    module, capture = Step(loss), LossCapture(observes="rival")
    for _ in range(2):
        observed = observed_of(capture, module)
        torch.testing.assert_close(
            observed.value, F.cross_entropy(module.logits, LABELS, reduction="none").detach() + 1
        )
        assert (observed.pair, observed.classes) == (None, 0)


def test_losses_that_an_explicit_step_weighs_have_no_pair():
    capture = LossCapture(explicit=True, observes="rival")
    module = Step(lambda x: capture.weigh(F.cross_entropy(x, LABELS, reduction="none")).mean())
    observed = observed_of(capture, module)
    torch.testing.assert_close(observed.value, F.cross_entropy(module.logits, LABELS, reduction="none").detach())
    assert (observed.pair, observed.classes) == (None, 0)


@pytest.mark.parametrize("observes", ["loss", "el2n", "margin", "batch_loss"])
def test_pairs_are_not_looked_for_where_the_score_does_not_ask_for_them(observes):
    observed = observed_of(LossCapture(observes=observes), Step(LOSSES["cross_entropy"]))
    assert (observed.pair, observed.classes) == (None, 0)


def test_a_reference_batch_shows_its_losses_against_rivals_and_its_pairs():
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture(observes="rival")
    losses, pairs = against_rivals(module.logits.detach())
    observed_of(capture, module)
    observed = passed(capture, module)
    torch.testing.assert_close(observed.value, losses)
    assert (observed.pair.tolist(), observed.classes) == (pairs, 3)


def test_a_metric_beside_the_loss_takes_no_pair_from_it():
    module = Step(lambda x: 0 * F.cross_entropy(-x.detach(), LABELS) + F.cross_entropy(x, LABELS))
    capture = LossCapture(observes="rival")
    for _ in range(2):
        assert observed_of(capture, module).pair.tolist() == against_rivals(module.logits.detach())[1]


def test_what_a_step_has_shown_is_handed_over_once():
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture(observes="rival")
    capture.arm(module, B, None)
    module.training_step(None, 0).backward()
    assert capture.take().pair is not None
    assert capture.take() is None
    module.loss = LOSSES["mse"]
    module.training_step(None, 0).backward()
    assert capture.take().pair is None
    capture.disarm()


def test_a_step_that_runs_again_before_its_losses_are_taken_shows_its_last_run():
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture(observes="rival")
    capture.arm(module, B, None)
    module.training_step(None, 0).backward()
    with torch.no_grad():
        module.net.weight.neg_()
    module.training_step(None, 0).backward()
    losses, pairs = against_rivals(module.logits.detach())
    observed = capture.take()
    capture.disarm()
    torch.testing.assert_close(observed.value, losses)
    assert observed.pair.tolist() == pairs


def test_rivals_are_captured_only_where_both_training_and_reference_have_logits():
    def own(module, batch):
        return torch.zeros(1)

    asked = [captured("rival", explicit, loss_fn) for explicit in (False, True) for loss_fn in (None, own)]
    assert asked == ["rival", "loss", "loss", "loss"]
    assert [captured(observes, True, own) for observes in ("loss", "margin")] == ["loss", "margin"]
