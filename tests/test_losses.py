"""What one call of a loss shows of each sample: its loss against the strongest other class, and which class that is."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from alignprune_pl.core.trajectory import Observed
from alignprune_pl.fit.losses import LossCall

LOGITS = torch.tensor(
    [[2.0, 1.0, -1.0, 0.0], [0.5, 0.0, 3.0, 1.0], [-1.0, 4.0, 2.0, 3.5], [0.0, 0.0, 1.0, -2.0]], requires_grad=True
)
LABELS = torch.tensor([0, 3, 1, 0])
RIVALS = [1, 2, 3, 2]
LEADS = [-1.0, 2.0, -0.5, 1.0]  # of the rival's logit over the label's
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 5.0, 0.5])
SOFT = F.one_hot(LABELS, 4).float() * 0.7 + 0.3 / 4

CALLS = {
    "cross_entropy": ("cross_entropy", LOGITS, LABELS, {}),
    "nll_loss": ("nll_loss", LOGITS.log_softmax(1), LABELS, {}),
    "class weights": ("cross_entropy", LOGITS, LABELS, {"weight": CLASS_WEIGHT}),
    "label smoothing": ("cross_entropy", LOGITS, LABELS, {"label_smoothing": 0.2}),
    "smoothed and weighted": ("cross_entropy", LOGITS, LABELS, {"weight": CLASS_WEIGHT, "label_smoothing": 0.2}),
    "soft targets": ("cross_entropy", LOGITS, SOFT, {}),
    "sum": ("cross_entropy", LOGITS, LABELS, {"reduction": "sum"}),
    "none": ("cross_entropy", LOGITS, LABELS, {"reduction": "none"}),
    "half precision": ("cross_entropy", LOGITS.half(), LABELS, {}),
}


def seen(name, logits, target, options) -> tuple[torch.Tensor, Observed]:
    """The losses against rivals, and the pairs."""
    call = LossCall(name, (logits, target), options)
    return call.from_logits("rival", call.elements()), call.pair()


@pytest.mark.parametrize("name", CALLS)
def test_a_loss_shows_label_and_rival_and_the_loss_between_the_two_whatever_its_options(name):
    values, pair = seen(*CALLS[name])
    assert values.dtype == torch.float32
    assert not values.requires_grad
    assert values.tolist() == pytest.approx([math.log(1 + math.exp(m)) for m in LEADS], rel=1e-3)
    assert pair.classes == 4
    assert pair.pair.dtype == torch.int64
    assert pair.pair.tolist() == [label * 4 + rival for label, rival in zip(LABELS.tolist(), RIVALS, strict=True)]
    assert pair.value.tolist() == [0.0] * 4


@pytest.mark.parametrize("ignored", [-100, 3])
def test_a_sample_that_is_ignored_has_neither_loss_nor_pair(ignored):
    target = torch.tensor([0, ignored, 1, 0])
    values, pair = seen("cross_entropy", LOGITS, target, {"ignore_index": ignored})
    assert values.isnan().tolist() == [False, True, False, False]
    assert pair.pair.tolist() == [0 * 4 + 1, -1, 1 * 4 + 3, 0 * 4 + 2]


def test_of_soft_targets_the_greatest_share_is_the_label():
    target = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(4, 4)
    values, pair = seen("cross_entropy", LOGITS, target, {})
    assert (pair.pair // 4).tolist() == [3] * 4
    assert (pair.pair % 4).tolist() == [0, 2, 1, 2]
    assert values.tolist() == pytest.approx([math.log(1 + math.exp(m)) for m in (2.0, 2.0, 0.5, 3.0)])


def test_dense_predictions_have_the_mean_of_their_valid_places_and_no_pair():
    logits = LOGITS[:3].T.unsqueeze(0).expand(2, 4, 3)  # two samples of three places
    target = torch.tensor([[0, 3, -100], [-100, -100, 1]])
    values, pair = seen("cross_entropy", logits, target, {})
    losses = [math.log(1 + math.exp(m)) for m in LEADS]
    assert values.tolist() == pytest.approx([(losses[0] + losses[1]) / 2, losses[2]])
    assert (pair.pair, pair.classes) == (None, 0)
    assert pair.pair_or_unknown().tolist() == [-1, -1]


def test_a_label_far_ahead_or_behind_has_a_finite_loss():
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [60.0, 0.0]], requires_grad=True)
    values, pair = seen("cross_entropy", logits, torch.zeros(3, dtype=torch.int64), {})
    assert values.tolist() == [0.0, 1e4, pytest.approx(math.exp(-60))]
    assert pair.pair.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("classes", "is_known"), [(4095, True), (4096, False)])
def test_of_more_classes_than_a_store_takes_no_pair_is_known(classes, is_known):
    logits = torch.zeros(2, classes, requires_grad=True)
    values, pair = seen("cross_entropy", logits, torch.tensor([0, 4094]), {})
    assert values.tolist() == pytest.approx([math.log(2)] * 2)
    assert bool((pair.pair_or_unknown() >= 0).all()) == is_known
    assert pair.classes == (classes if is_known else 0)


def test_labels_of_any_integer_type_are_read():
    for dtype in (torch.uint8, torch.int64):
        values, pair = seen(
            "cross_entropy", torch.zeros(2, 200, requires_grad=True), torch.tensor([3, 150]).to(dtype), {}
        )
        assert values.tolist() == pytest.approx([math.log(2)] * 2)
        assert pair.pair.tolist() == [600, 30_000]
