"""Which labels are wrong, by a run's score: how likely, and what was found of those that are known to be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

Array = NDArray[Any]

_SMALLEST = 1e-3  # nats; differences between smaller losses mean nothing
_MOST_FITTED = 100_000


def most_suspect(suspicion: Array, count: int) -> Array:
    """The ``count`` most suspect samples, int64[count] or fewer, as those without a score (NaN) are not suspect."""
    order = np.argsort(-suspicion, kind="stable")  # NaN comes last
    return order[: min(count, int((~np.isnan(suspicion)).sum()))]


def bounded(suspicion: Array) -> Array:
    """The scores with infinite ones as high, or as low, as the highest or the lowest other; NaN stays."""
    finite = suspicion[np.isfinite(suspicion)]
    limited: Array = suspicion.clip(*((finite.min(), finite.max()) if len(finite) else (0.0, 0.0)))
    return limited


def wrong_probability(suspicion: Array, noise_rate: float | None = None) -> Array:
    """How likely each label is wrong.

    Two normal distributions are fitted to the scores, to their logarithms if none is negative, as losses are. A label is
    wrong as far as the upper one claims its sample; of two samples the more suspect one is at least as likely wrong.

    Args:
        suspicion: float[n], high is suspect, and finite; NaN where there is no score.
        noise_rate: The share of wrong labels, where there is an estimate. The upper distribution then has the weight
            with which the probabilities have this mean.

    Returns:
        float64[n] in [0, 1]; 0 where there is no score.

    Example:
        >>> scores = np.concatenate([np.linspace(0.1, 0.2, 80), np.linspace(4.0, 5.0, 20)])
        >>> wrong_probability(scores)[[0, 79, 80, 99]].round(2)
        array([0., 0., 1., 1.])

    Source: the mixture of losses of Arazo et al. (ICML 2019), with the normal components of DivideMix (ICLR 2020).
    """
    probability = np.zeros(len(suspicion))
    known = np.flatnonzero(~np.isnan(suspicion))
    if len(known) < 2 or noise_rate == 0:
        return probability
    scores = suspicion[known].astype(np.float64)
    x = np.log(np.maximum(scores, _SMALLEST)) if (scores >= 0).all() else scores
    if np.ptp(x) == 0:
        return probability
    fitted = np.random.default_rng(0).choice(x, min(len(x), _MOST_FITTED), replace=False)
    mixture = GaussianMixture(2, means_init=np.quantile(x, [0.25, 0.75])[:, None], random_state=0).fit(fitted[:, None])
    upper = int(mixture.means_[:, 0].argmax())
    density = _log_densities(mixture, x)
    # How much likelier a score is from the upper one. What is more suspect is no less likely wrong, though the wider one
    # of two normal distributions has both ends.
    order = np.argsort(x, kind="stable")
    ratio = (density[:, upper] - density[:, 1 - upper])[order]
    lowest = int(np.argmin(np.where(x[order] <= mixture.means_[upper, 0], ratio, np.inf)))
    ratio[:lowest] = ratio[lowest]
    ratio = np.maximum.accumulate(ratio)
    offset = float(np.log(mixture.weights_[upper] / mixture.weights_[1 - upper]))
    if noise_rate is not None:
        offset = _offset_of_mean(ratio, noise_rate)
    probability[known[order]] = _sigmoid(ratio + offset)
    return probability


def _log_densities(mixture: GaussianMixture, x: Array) -> Array:
    """float64[m, 2], of each component, without its weight."""
    deviation = np.sqrt(mixture.covariances_[:, 0, 0])
    density: Array = -(((x[:, None] - mixture.means_[:, 0]) / deviation) ** 2) / 2 - np.log(deviation)
    return density


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def _offset_of_mean(ratio: Array, mean: float) -> float:
    """What added to ``ratio`` gives probabilities of this mean, by halving."""
    low, high = float(-ratio.max() - 50), float(-ratio.min() + 50)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(ratio + middle).mean() < mean else (low, middle)
    return (low + high) / 2


def confusion(clean: Array, given: Array, classes: int) -> Array:
    """How often each class bears each label: float64[C, C], rows (the clean label) sum to 1, or to 0 if it has none."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (clean, given), 1)
    shares: Array = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares
