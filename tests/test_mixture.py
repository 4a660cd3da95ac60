"""How likely each label is wrong, by a run's scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignprune_pl.core.mixture import log_of_losses, two_normals, wrong_probability


def probabilities(suspicion, noise_rate=None):
    return wrong_probability(torch.from_numpy(suspicion), noise_rate).numpy()


def two_parts(right=700, wrong=300, seed=0):
    """Losses of correctly and of wrongly labelled samples, and the mask."""
    draw = np.random.default_rng(seed)
    losses = np.concatenate([draw.lognormal(-2, 0.8, right), draw.lognormal(1, 0.6, wrong)])
    return losses.astype(np.float32), np.arange(right + wrong) >= right


def test_probabilities_tell_the_parts_of_a_mixture_apart_and_mean_what_they_say():
    losses, mask = two_parts(7000, 3000)
    probability = probabilities(losses)
    assert probability.mean() == pytest.approx(0.3, abs=0.02)
    for low, high in ((0.0, 0.1), (0.2, 0.8), (0.9, 1.0)):
        inside = (probability >= low) & (probability <= high)
        assert inside.sum() > 50
        assert mask[inside].mean() == pytest.approx(probability[inside].mean(), abs=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=60), st.sampled_from([None, 0.1, 0.5, 0.9]))
def test_what_is_more_suspect_is_never_less_likely_wrong(scores, rate):
    scores = np.array(scores, dtype=np.float32)
    probability = probabilities(scores, rate)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert (np.diff(probability[np.argsort(scores, kind="stable")]) >= -1e-9).all()


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6])
def test_with_an_estimated_rate_the_probabilities_have_that_mean(rate):
    assert probabilities(two_parts()[0], rate).mean() == pytest.approx(rate, abs=1e-6)


def test_where_no_label_is_estimated_to_be_wrong_none_is():
    assert (probabilities(two_parts()[0], 0.0) == 0).all()


@pytest.mark.parametrize("scores", [[np.nan, np.nan, np.nan], [2.0, 2.0, 2.0], [1.0, np.nan, np.nan], []])
def test_scores_that_say_nothing_make_no_label_suspect(scores):
    assert (probabilities(np.array(scores, dtype=np.float32)) == 0).all()


def test_samples_without_a_score_are_not_suspect():
    losses, _ = two_parts()
    losses[-10:] = np.nan
    assert (probabilities(losses, 0.3)[-10:] == 0).all()


def test_the_same_scores_in_another_unit_have_the_same_probabilities():
    draw = np.random.default_rng(0)
    scores = np.concatenate([draw.normal(-0.5, 0.2, 700), draw.normal(0.4, 0.2, 300)])
    assert np.allclose(probabilities(scores), probabilities(1000 * scores))


def test_of_many_scores_the_mixture_is_fitted_to_some(monkeypatch):
    from alignprune_pl.core import mixture

    losses, _ = two_parts(7000, 3000)
    whole = probabilities(losses)
    monkeypatch.setattr(mixture, "_MOST_FITTED", 2000)
    assert np.abs(probabilities(losses) - whole).mean() < 0.02
    assert np.array_equal(probabilities(losses), probabilities(losses))


def test_the_mixture_is_that_of_scikit_learn_where_it_has_converged():
    from sklearn.mixture import GaussianMixture

    losses, _ = two_parts(7000, 3000)
    x = log_of_losses(torch.from_numpy(losses))
    ours = two_normals(x)
    theirs = GaussianMixture(2, tol=1e-9, max_iter=1000, random_state=0).fit(x.numpy()[:, None])
    order = theirs.means_[:, 0].argsort()
    assert np.allclose(ours.mean, theirs.means_[order, 0], atol=0.01)
    assert np.allclose(ours.weight, theirs.weights_[order], atol=0.01)
    assert np.allclose(ours.deviation, np.sqrt(theirs.covariances_[order, 0, 0]), atol=0.01)


def test_a_score_far_below_all_others_is_not_taken_for_wrong_by_the_wide_end_of_the_upper_distribution():
    generator = torch.Generator().manual_seed(0)
    right, wrong = torch.randn(800, generator=generator) * 0.1, torch.randn(200, generator=generator) + 2
    probability = wrong_probability(torch.cat([torch.tensor([-6.0]), right, wrong]))
    assert probability[0] < 0.1
    assert (probability[1:801] < 0.5).float().mean() > 0.9
    assert (probability[801:] > 0.5).float().mean() > 0.8
