from __future__ import annotations

import copy
import math

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.functional import cross_entropy

from alignprune_pl.fit.capture import LossCapture, captured

B = 6
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 5.0])


class Step(pl.LightningModule):
    def __init__(self, loss):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(B, 3, generator=torch.Generator().manual_seed(0)))
        self.loss = loss

    def training_step(self, batch, batch_idx):
        return self.loss(self.logits)


def capture_once(capture, module, weight=None):
    capture.arm(module, B, weight)
    output = module.training_step(None, 0)
    observed = capture.take()
    capture.disarm()
    return output, None if observed is None else observed.value


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
    expected = LOSSES[name](module.logits)
    for _ in range(3):  # the first step finds the loss, later ones intercept it
        output, losses = capture_once(capture, module)
        torch.testing.assert_close(output, expected)
        assert losses.shape == (B,)
        assert not losses.requires_grad
    assert capture.source == ("mode" if name == "imported name" else capture.source)
    assert "training_step" not in vars(module)


def test_captured_losses_are_torchs_own():
    module = Step(LOSSES["cross_entropy"])
    _, losses = capture_once(LossCapture(), module)
    torch.testing.assert_close(losses, F.cross_entropy(module.logits, LABELS, reduction="none").detach())


@pytest.mark.parametrize("name", ["cross_entropy", "imported name", "none", "bce", "mse", "with a regulariser"])
def test_weights_multiply_each_samples_loss_and_nothing_else(name):
    weight = torch.arange(6.0)
    module, capture = Step(LOSSES[name]), LossCapture()
    capture_once(capture, module)
    plain, losses = capture_once(capture, module)
    weighted, unchanged = capture_once(capture, module, weight)
    torch.testing.assert_close(weighted, plain + ((weight - 1) * losses).mean())
    torch.testing.assert_close(unchanged, losses)


def test_per_pixel_losses_are_averaged_over_a_samples_own_valid_pixels():
    target = torch.tensor([[[0, -100]], [[1, 2]]])
    logits = torch.randn(2, 3, 1, 2, requires_grad=True)
    capture = LossCapture()
    module = Step(lambda _: F.cross_entropy(logits, target))
    capture.arm(module, 2, None)
    output = module.training_step(None, 0)
    losses = capture.take().value
    capture.disarm()
    pixel = F.cross_entropy(logits, target, reduction="none").detach()
    torch.testing.assert_close(losses, torch.stack([pixel[0, 0, 0], pixel[1].mean()]))
    torch.testing.assert_close(output, F.cross_entropy(logits, target))


def test_tokens_flattened_into_the_batch_are_refused_with_what_to_do():
    logits = torch.randn(B, 3, 4, requires_grad=True)
    flat = logits.transpose(1, 2).reshape(-1, 3)
    module = Step(lambda x: F.cross_entropy(flat, LABELS.repeat_interleave(4)) + 0 * x.sum())
    with pytest.raises(MisconfigurationException, match=r"over \(24,\), so keep the batch apart.*\[b, C, T\]"):
        capture_once(LossCapture(), module)
    module = Step(lambda x: F.cross_entropy(logits, LABELS[:, None].repeat(1, 4)) + 0 * x.sum())
    _, losses = capture_once(LossCapture(), module)
    torch.testing.assert_close(
        losses, F.cross_entropy(flat, LABELS.repeat_interleave(4), reduction="none").detach().view(B, 4).mean(1)
    )


def test_a_regression_loss_takes_prediction_and_target_in_either_order():
    module = Step(lambda x: F.mse_loss(torch.arange(6.0), x[:, 0]))
    output, losses = capture_once(LossCapture(), module)
    torch.testing.assert_close(losses, (torch.arange(6.0) - module.logits[:, 0]).square().detach())
    torch.testing.assert_close(output, losses.mean())


def test_a_sample_whose_targets_are_all_ignored_has_no_loss():
    target = torch.tensor([0, 1, -100, 0, 1, 2])
    _, losses = capture_once(LossCapture(), Step(lambda x: F.cross_entropy(x, target)))
    assert losses.isnan().tolist() == [False, False, True, False, False, False]


def test_many_elements_in_half_precision_are_added_up_in_single():
    logits = torch.ones(B, 20_000, dtype=torch.float16, requires_grad=True)
    output, losses = capture_once(LossCapture(), Step(lambda _: F.mse_loss(logits, torch.zeros_like(logits))))
    assert output.dtype == torch.float16
    assert output == 1
    assert losses.tolist() == [1.0] * B


def test_two_losses_of_a_sample_are_added():
    module = Step(lambda x: F.cross_entropy(x, LABELS) + F.mse_loss(x[:, 0], torch.zeros(6)))
    _, losses = capture_once(LossCapture(), module)
    expected = F.cross_entropy(module.logits, LABELS, reduction="none") + module.logits[:, 0].square()
    torch.testing.assert_close(losses, expected.detach())


def test_a_loss_without_gradient_is_a_metric_and_not_recorded():
    module = Step(lambda x: F.cross_entropy(x, LABELS) + 0 * F.mse_loss(x.detach(), torch.zeros(6, 3)))
    _, losses = capture_once(LossCapture(), module)
    torch.testing.assert_close(losses, F.cross_entropy(module.logits, LABELS, reduction="none").detach())


def test_a_copy_of_the_module_made_within_a_batch_runs_its_own_step():
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture()
    capture.arm(module, B, None)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.logits.zero_()
    assert other.training_step(None, 0).item() == pytest.approx(math.log(3))
    assert capture.take() is None
    capture.disarm()
    assert module.training_step(None, 0).item() != pytest.approx(math.log(3))


def test_interception_is_on_for_the_step_alone():
    inside = []
    module, capture = Step(lambda x: inside.append(F.cross_entropy) or F.cross_entropy(x, LABELS)), LossCapture()
    original = F.cross_entropy
    capture_once(capture, module)
    capture_once(capture, module)
    assert capture.source == "cross_entropy"
    assert all(function is not original for function in inside)
    assert F.cross_entropy is original


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda x: x.square().mean(), "could not capture a loss for each sample"),
        (lambda x: F.cross_entropy(x[:4], LABELS[:4]), r"it saw cross_entropy over \(4,\)"),
        (lambda x: F.cross_entropy(x, LABELS) + F.l1_loss(x[:2, 0], torch.zeros(2)), r"but also l1_loss over \(2,\)"),
        (lambda x: {"loss": x.mean(), "per_sample_loss": x.mean()}, r"per_sample_loss \(\), but one loss for each"),
        (lambda x: {"loss": x.mean(), "per_sample_loss": x[:, 0].detach()}, "without a graph"),
    ],
)
def test_a_loss_that_cannot_be_captured_is_refused_by_name(loss, message):
    module, capture = Step(loss), LossCapture()
    with pytest.raises(MisconfigurationException, match=message):
        capture_once(capture, module)


def test_returned_losses_are_weighted_and_other_terms_left_alone():
    def loss(x):
        per_sample = x.square().sum(1)
        return {"loss": per_sample.mean() + 3 * x.mean(), "per_sample_loss": per_sample}

    module, capture, weight = Step(loss), LossCapture(), torch.arange(6.0)
    capture_once(capture, module)
    output, losses = capture_once(capture, module, weight)
    torch.testing.assert_close(output["loss"], (weight * losses).mean() + 3 * module.logits.mean())
    output["loss"].backward()
    assert module.logits.grad is not None


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
            output, seen = capture_once(capture, module)
        torch.testing.assert_close(output, LOSSES[name](module.logits))
        if name == "soft targets" and observable == "el2n":
            soft = F.one_hot(LABELS).float() * 0.9 + 0.1 / 3
            torch.testing.assert_close(seen, (module.logits.softmax(1) - soft).norm(dim=1).detach())
        else:
            torch.testing.assert_close(seen, torch.tensor([pair[number] for pair in expected]))


def test_el2n_and_margin_of_pixels_are_averaged_over_a_samples_valid_ones():
    target = torch.tensor([[[0, -100]], [[1, 2]], [[-100, -100]]])
    logits = torch.randn(3, 3, 1, 2, requires_grad=True)
    module = Step(lambda _: F.cross_entropy(logits, target))
    pixel = [logits_observables(logits[i, :, 0, j].detach(), int(target[i, 0, j].clamp(min=0))) for i, j in PIXELS]
    for number, observable in enumerate(("el2n", "margin")):
        capture = LossCapture(observes=observable)
        capture.arm(module, 3, None)
        module.training_step(None, 0)
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
            output, seen = capture_once(capture, module, weight)
            torch.testing.assert_close(seen, alone)
        both = F.cross_entropy(module.logits, LABELS, reduction="none") + module.logits[:, 0].square()
        torch.testing.assert_close(output, (weight * both).mean())


def test_the_error_vectors_of_several_heads_are_averaged():
    def el2n(*heads):
        module = Step(lambda x: sum(F.cross_entropy(head * x, LABELS) for head in heads))
        return capture_once(LossCapture(observes="el2n"), module)[1]

    torch.testing.assert_close(el2n(1.0, -0.5, 2.0), (el2n(1.0) + el2n(-0.5) + el2n(2.0)) / 3)


PIXELS = [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            LOSSES["mse"],
            "The score reads margin from logits, but training_step calls mse_loss, which has none; use cross",
        ),
        (LOSSES["bce"], "but training_step calls binary_cross_entropy_with_logits, which has none"),
        (
            lambda x: {"loss": x.mean(), "per_sample_loss": x.square().sum(1)},
            "returned per_sample_loss, but the score reads margin from the logits",
        ),
        (lambda x: x.square().mean(), "could not capture a loss for each sample"),
    ],
)
def test_a_loss_without_logits_is_refused_where_the_score_reads_them(loss, message):
    with pytest.raises(MisconfigurationException, match=message):
        capture_once(LossCapture(observes="margin"), Step(loss))


@pytest.mark.parametrize("observes", ["loss", "margin", "el2n", "rival"])
def test_of_a_batch_that_is_not_trained_on_the_same_is_observed_as_in_training(observes):
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture(observes=observes)
    _, trained = capture_once(capture, module)
    with torch.no_grad():
        passed = capture.observe(lambda: module.training_step(None, 0)).value
    assert torch.equal(passed, trained)


@pytest.mark.parametrize("resumed", [False, True])
def test_where_several_losses_in_training_show_no_pair_a_pass_with_one_shows_none_either(resumed):
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture(observes="rival")
    module.loss = lambda x: F.cross_entropy(x, LABELS) + (F.cross_entropy(2 * x, LABELS) if x.requires_grad else 0)
    capture_once(capture, module)
    if resumed:
        state, capture = capture.state_dict(), LossCapture(observes="rival")
        capture.load_state_dict(state)
    module.loss = lambda x: F.cross_entropy(x, LABELS)
    with torch.no_grad():
        assert capture.observe(lambda: module.training_step(None, 0)).pair is None
    capture_once(capture, module)
    with torch.no_grad():
        assert capture.observe(lambda: module.training_step(None, 0)).pair is not None


BATCH_LOSSES = {
    "unknown loss": lambda x: x.square().mean(),
    "in a dictionary": lambda x: {"loss": x.square().mean(), "other": 3},
    "over part of the batch": lambda x: F.cross_entropy(x[:4], LABELS[:4]),
    "of one element": lambda x: x.square().mean().reshape(1),
}


@pytest.mark.parametrize("name", BATCH_LOSSES)
def test_where_only_the_batchs_loss_exists_it_is_every_samples_and_gets_the_mean_weight(name):
    module, capture = Step(BATCH_LOSSES[name]), LossCapture(observes="batch_loss")
    plain = BATCH_LOSSES[name](module.logits)
    plain = plain["loss"] if isinstance(plain, dict) else plain
    weight = torch.tensor([1.0, 1.0, 4.0, 4.0, 1.0, 1.0])
    for _ in range(2):
        output, losses = capture_once(capture, module, weight)
        loss = output["loss"] if isinstance(output, dict) else output
        torch.testing.assert_close(losses, plain.detach().expand(B))
        torch.testing.assert_close(loss, 2 * plain)
    assert capture.source == "batch"
    (gradient,) = torch.autograd.grad(loss.sum(), module.logits)
    (expected,) = torch.autograd.grad(plain.sum(), module.logits)
    torch.testing.assert_close(gradient, 2 * expected)
    with torch.no_grad():
        assert capture.observe(lambda: module.training_step(None, 0)).value.shape == ()


def test_the_batchs_loss_is_all_of_what_the_step_returns_though_a_part_of_it_could_be_captured():
    module = Step(lambda x: 100 * x.square().mean() + 1e-3 * F.mse_loss(x, torch.zeros(B, 3)))
    capture = LossCapture(observes="batch_loss")
    expected = module.loss(module.logits)
    output, losses = capture_once(capture, module, torch.full((B,), 3.0))
    torch.testing.assert_close(losses, expected.detach().expand(B))
    torch.testing.assert_close(output, 3 * expected)


def test_returned_losses_of_samples_are_weighted_one_by_one_for_batch_scores_too():
    def loss(x):
        per_sample = x.square().sum(1)
        return {"loss": per_sample.mean(), "per_sample_loss": per_sample}

    module, capture, weight = Step(loss), LossCapture(observes="batch_loss"), torch.arange(6.0)
    for _ in range(2):
        output, losses = capture_once(capture, module, weight)
        torch.testing.assert_close(output["loss"], (weight * losses).mean())


@pytest.mark.parametrize("loss", [lambda x: None, lambda x: {"other": x.mean()}, lambda x: x.square()])
def test_a_step_without_a_loss_is_no_batch_loss_either(loss):
    module, capture = Step(loss), LossCapture(observes="batch_loss")
    if loss(module.logits) is None:
        assert capture_once(capture, module) == (None, None)  # a skipped batch
    else:
        with pytest.raises(MisconfigurationException, match="could not capture a loss"):
            capture_once(capture, module)


def test_an_explicit_step_may_weigh_its_batchs_loss_where_that_will_do():
    capture = LossCapture(explicit=True, observes="batch_loss")
    module = Step(lambda x: capture.weigh(x.square().mean()))
    weight = torch.tensor([1.0, 1.0, 4.0, 4.0, 1.0, 1.0])
    output, losses = capture_once(capture, module, weight)
    torch.testing.assert_close(output, 2 * module.logits.square().mean())
    torch.testing.assert_close(losses, module.logits.square().mean().detach().expand(B))
    other = LossCapture(explicit=True)
    with pytest.raises(MisconfigurationException, match=r"gave weight\(\) \(\), but one loss for each"):
        capture_once(other, Step(lambda x: other.weigh(x.square().mean())))


# ---- the loss against the strongest other class, and which one that is ------------------------------------


def observed_of(capture, module, weight=None):
    """What a step in training shows."""
    capture.arm(module, B, weight)
    module.training_step(None, 0)
    observed = capture.take()
    capture.disarm()
    return observed


def against_rivals(logits):
    """The losses against rivals and the pairs, written out."""
    losses, pairs = [], []
    for row, label in zip(logits.tolist(), LABELS.tolist(), strict=True):
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
    weight, plain = torch.arange(6.0), LossCapture()
    for _ in range(3):
        torch.testing.assert_close(capture_once(capture, module, weight)[0], capture_once(plain, module, weight)[0])
        observed = observed_of(capture, module, weight)
        torch.testing.assert_close(observed.value, losses)
        assert observed.pair.tolist() == pairs
        assert observed.classes == 3


HEADS = {
    "a second head": lambda x: F.cross_entropy(x, LABELS) + F.cross_entropy(-x, LABELS),
    "one without logits after it": lambda x: F.cross_entropy(x, LABELS) + F.mse_loss(x[:, 0], torch.zeros(6)),
    "one without logits before it": lambda x: F.mse_loss(x[:, 0], torch.zeros(6)) + F.cross_entropy(x, LABELS),
}


@pytest.mark.parametrize("name", HEADS)
def test_two_losses_in_a_step_count_by_their_mean_and_give_no_pair(name):
    module, capture = Step(HEADS[name]), LossCapture(observes="rival")
    logits = module.logits.detach()
    other = against_rivals(-logits)[0] if name == "a second head" else logits[:, 0].square()
    for _ in range(2):
        observed = observed_of(capture, module)
        torch.testing.assert_close(observed.value, (against_rivals(logits)[0] + other) / 2)
        assert observed.pair_or_unknown().tolist() == [-1] * B
    with torch.no_grad():
        reference = capture.observe(lambda: module.training_step(None, 0))
    torch.testing.assert_close(reference.value, observed.value)
    assert reference.pair_or_unknown().tolist() == [-1] * B


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
    with torch.no_grad():
        observed = capture.observe(lambda: module.training_step(None, 0))
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
    module.training_step(None, 0)
    assert capture.take().pair is not None
    assert capture.take() is None
    module.loss = LOSSES["mse"]
    module.training_step(None, 0)
    assert capture.take().pair is None
    capture.disarm()


def test_a_step_that_runs_again_before_its_losses_are_taken_shows_its_last_run():
    module, capture = Step(LOSSES["cross_entropy"]), LossCapture(observes="rival")
    capture.arm(module, B, None)
    module.training_step(None, 0)
    with torch.no_grad():
        module.logits.neg_()
    module.training_step(None, 0)
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
