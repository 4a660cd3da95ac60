"""How likely each label is wrong, by a run's scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignprune_pl.report.detection import bounded, confusion, most_suspect, wrong_probability


def two_parts(right=700, wrong=300, seed=0):
    """Losses of correctly and of wrongly labelled samples, and the mask."""
    draw = np.random.default_rng(seed)
    losses = np.concatenate([draw.lognormal(-2, 0.8, right), draw.lognormal(1, 0.6, wrong)])
    return losses.astype(np.float32), np.arange(right + wrong) >= right


def test_probabilities_tell_the_parts_of_a_mixture_apart_and_mean_what_they_say():
    losses, mask = two_parts(7000, 3000)
    probability = wrong_probability(losses)
    assert probability.mean() == pytest.approx(0.3, abs=0.02)
    for low, high in ((0.0, 0.1), (0.2, 0.8), (0.9, 1.0)):
        inside = (probability >= low) & (probability <= high)
        assert inside.sum() > 50
        assert mask[inside].mean() == pytest.approx(probability[inside].mean(), abs=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=60), st.sampled_from([None, 0.1, 0.5, 0.9]))
def test_what_is_more_suspect_is_never_less_likely_wrong(scores, rate):
    scores = np.array(scores, dtype=np.float32)
    probability = wrong_probability(scores, rate)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert (np.diff(probability[np.argsort(scores, kind="stable")]) >= -1e-9).all()


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6])
def test_with_an_estimated_rate_the_probabilities_have_that_mean(rate):
    assert wrong_probability(two_parts()[0], rate).mean() == pytest.approx(rate, abs=1e-6)


def test_where_no_label_is_estimated_to_be_wrong_none_is():
    assert (wrong_probability(two_parts()[0], 0.0) == 0).all()


def test_infinite_scores_are_bounded_by_the_finite_ones_and_unknown_ones_stay():
    scores = bounded(np.array([np.inf, 1.0, np.nan, 3.0, -np.inf]))
    assert np.array_equal(scores, [3.0, 1.0, np.nan, 3.0, 1.0], equal_nan=True)
    assert bounded(np.array([np.inf, -np.inf])).tolist() == [0.0, 0.0]
    assert len(bounded(np.array([]))) == 0


@pytest.mark.parametrize("scores", [[np.nan, np.nan, np.nan], [2.0, 2.0, 2.0], [1.0, np.nan, np.nan], []])
def test_scores_that_say_nothing_make_no_label_suspect(scores):
    assert (wrong_probability(np.array(scores, dtype=np.float32)) == 0).all()


def test_samples_without_a_score_are_not_suspect():
    losses, _ = two_parts()
    losses[-10:] = np.nan
    assert (wrong_probability(losses, 0.3)[-10:] == 0).all()
    assert not set(range(990, 1000)) & set(most_suspect(losses, 2000).tolist())
    assert len(most_suspect(losses, 2000)) == 990


def test_the_most_suspect_come_first_and_ties_in_their_order():
    assert most_suspect(np.array([1.0, 3.0, np.nan, 3.0, 2.0]), 3).tolist() == [1, 3, 4]


def test_confusion_counts_given_labels_of_each_class():
    matrix = confusion(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 2]), 4)
    assert matrix[0].round(3).tolist() == [0.667, 0.333, 0, 0]
    assert matrix[1].tolist() == [0, 0, 1, 0]
    assert (matrix[2:] == 0).all()
