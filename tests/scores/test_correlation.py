"""The correlations against numpy's and scipy's, over whole and over observed trajectories."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.scores import AlignmentScore, LossDifferenceScore, alignment_score, loss_difference_score

NAN = math.nan
GENERATOR = torch.Generator().manual_seed(0)


def cosine(x, y):
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


ORACLES = {
    "pearson": lambda x, y: np.corrcoef(x, y)[0, 1],
    "spearman": lambda x, y: scipy.stats.spearmanr(x, y).statistic,
    "cosine": cosine,
}


@pytest.mark.parametrize("correlation", ORACLES)
@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("levels", [None, 4], ids=["distinct", "with ties"])
def test_agrees_with_an_independent_library_over_the_observed_epochs(correlation, missing, levels):
    losses, reference = torch.rand(300, 10, generator=GENERATOR), torch.rand(10, generator=GENERATOR)
    if levels:
        losses, reference = (losses * levels).floor() + 1, (reference * levels).floor() + 1
    losses[torch.rand(300, 10, generator=GENERATOR) < missing] = NAN
    reference[3] = NAN
    compared = 0
    for row, score in zip(losses, alignment_score(losses, reference, 3, correlation), strict=True):
        seen = ~row.isnan() & ~reference.isnan()
        x, y = row[seen].double().numpy(), reference[seen].double().numpy()
        flat = correlation != "cosine" and (len(set(x)) < 2 or len(set(y)) < 2)
        if len(x) < 3 or flat:
            assert score.isnan()
        else:
            compared += 1
            assert score.item() == pytest.approx(ORACLES[correlation](x, y), abs=2e-6)
    assert compared > 200


def test_ranks_alone_count_for_spearman():
    losses, reference = torch.rand(50, 10, generator=GENERATOR), torch.rand(10, generator=GENERATOR)
    ranked = alignment_score(losses, reference, 3, "spearman")
    torch.testing.assert_close(alignment_score(losses.exp() ** 5, reference**3, 3, "spearman"), ranked)
    assert (ranked - alignment_score(losses, reference)).abs().max() > 0.05


@pytest.mark.parametrize("correlation", ORACLES)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_losses_of_any_size_can_be_correlated(correlation, scale):
    losses, reference = torch.rand(20, 10, generator=GENERATOR), torch.rand(10, generator=GENERATOR)
    scaled = alignment_score(scale * losses, reference, 3, correlation)
    torch.testing.assert_close(scaled, alignment_score(losses, reference, 3, correlation), atol=1e-5, rtol=0)


def test_zero_has_no_direction_for_the_cosine_but_a_constant_has():
    scores = alignment_score(torch.stack([torch.zeros(5), torch.full((5,), 2.0)]), torch.ones(5), 3, "cosine")
    assert scores[0].isnan()
    assert scores[1].item() == pytest.approx(1)


@pytest.mark.parametrize("n", [0, 1, (1 << 14) + 3])
def test_any_number_of_trajectories_is_scored(n):
    losses, reference = torch.rand(n, 6, generator=GENERATOR), torch.rand(6, generator=GENERATOR)
    scores = alignment_score(losses, reference)
    assert scores.shape == (n,)
    if n:
        assert scores[-1].item() == pytest.approx(np.corrcoef(losses[-1], reference)[0, 1], abs=1e-5)


def test_loss_differences_are_those_between_epochs_that_follow_each_other():
    losses, reference = torch.rand(200, 10, generator=GENERATOR), torch.rand(10, generator=GENERATOR)
    losses[torch.rand(200, 10, generator=GENERATOR) < 0.2] = NAN
    for row, score in zip(losses, loss_difference_score(losses, reference), strict=True):
        change, expected = row.diff().double().numpy(), reference.diff().double().numpy()
        seen = ~np.isnan(change)
        if seen.sum() < 3:
            assert score.isnan()
        else:
            assert score.item() == pytest.approx(np.corrcoef(change[seen], expected[seen])[0, 1], abs=1e-5)


def test_fewer_epochs_than_are_needed_leave_all_scores_undefined():
    assert alignment_score(torch.rand(4, 2), torch.rand(2)).isnan().all()
    assert loss_difference_score(torch.rand(4, 1), torch.rand(1)).isnan().all()
    assert loss_difference_score(torch.rand(4, 0), torch.rand(0)).isnan().all()


def test_a_window_looks_at_the_last_epochs_alone():
    store = TrajectoryStore(30, 8)
    losses, reference = torch.rand(30, 12, generator=GENERATOR), torch.rand(12, generator=GENERATOR)
    for epoch in range(12):
        seen = (torch.rand(30, generator=GENERATOR) < 0.7).nonzero().squeeze(1)
        store.record(seen, losses[seen, epoch])
        store.close_epoch(float(reference[epoch]))
    for missing in ("carry", "mask"):
        whole = store.losses(carry=missing == "carry")
        expected = alignment_score(whole[:, -4:], reference[-4:])
        torch.testing.assert_close(AlignmentScore(missing, window=4)(store), expected, equal_nan=True)


def test_the_classes_hand_their_settings_on():
    store = TrajectoryStore(40, 8, dtype=torch.float32)
    for epoch in range(8):
        seen = (torch.rand(40, generator=GENERATOR) < 0.6).nonzero().squeeze(1)
        store.record(seen, torch.rand(len(seen), generator=GENERATOR).exp())
        store.close_epoch(float(epoch) ** 2)
    observed, carried, reference = store.losses(), store.losses(carry=True), store.reference()
    for correlation in ORACLES:
        score = AlignmentScore("mask", min_observed=5, correlation=correlation)(store)
        torch.testing.assert_close(score, alignment_score(observed, reference, 5, correlation), equal_nan=True)
        assert 0 < score.isnan().sum() < 40
    for missing, losses in (("mask", observed), ("carry", carried)):
        score = LossDifferenceScore(missing, min_observed=4)(store)
        torch.testing.assert_close(score, loss_difference_score(losses, reference, 4), equal_nan=True)
    assert not torch.equal(score.isnan(), LossDifferenceScore("mask", min_observed=4)(store).isnan())


@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
@pytest.mark.parametrize(("level", "spread"), [(1000.0, 0.01), (1.0, 1e-5)])
def test_small_changes_of_a_large_loss_are_correlated_as_they_are(correlation, level, spread):
    losses = level + spread * torch.rand(100, 10, generator=GENERATOR)
    reference = torch.rand(10, generator=GENERATOR)
    for row, score in zip(losses, alignment_score(losses, reference, 3, correlation), strict=True):
        expected = ORACLES[correlation](row.double().numpy(), reference.double().numpy())
        assert score.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"correlation": "kendall"}, "correlation='kendall' is given, but 'pearson'"),
        ({"window": 1}, "window=1 is given"),
    ],
)
def test_other_correlations_and_windows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AlignmentScore(**arguments)
