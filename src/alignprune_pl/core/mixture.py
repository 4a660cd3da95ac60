"""Two normal distributions fitted to scores: where the valley between them is, and how likely a label is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alignprune_pl.core.streams import stream

SMALLEST = 1e-3
"""Nats; differences between smaller losses mean nothing."""

_MOST_FITTED = 100_000


@dataclass(frozen=True)
class Mixture:
    """Two weighted normal distributions.

    Attributes:
        mean: float64[2].
        deviation: float64[2].
        weight: float64[2], of sum one.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor

    @property
    def upper(self) -> int:
        """Which of the two has the higher mean."""
        return int(self.mean.argmax())

    def log_densities(self, values: Tensor) -> Tensor:
        """Of each value (float64[m]) under each of the two, but for a constant and without the weights: float64[m, 2]."""
        return -((values[:, None] - self.mean) ** 2) / (2 * self.deviation**2) - self.deviation.log()

    def claims(self, values: Tensor) -> Tensor:
        """How likely each value (float64[m]) comes from each of the two: float64[m, 2]."""
        return (self.log_densities(values) + self.weight.log()).softmax(dim=1)


def two_normals(x: Tensor) -> Mixture:
    """The mixture of two normal distributions fitted to ``x`` (float64[m]) by expectation maximisation.

    No deviation is less than 0.1.
    """
    fitted = Mixture(
        x.quantile(torch.tensor([0.25, 0.75], dtype=x.dtype)),
        (x.std(correction=0) / 2).clamp(min=0.1).expand(2).clone(),
        torch.full((2,), 0.5, dtype=x.dtype),
    )
    for _ in range(60):
        claim = fitted.claims(x)
        size = claim.sum(dim=0) + 1e-6
        mean = (claim * x[:, None]).sum(dim=0) / size
        deviation = ((claim * (x[:, None] - mean) ** 2).sum(dim=0) / size).sqrt().clamp(min=0.1)
        fitted = Mixture(mean, deviation, size / len(x))
    return fitted


def log_of_losses(losses: Tensor) -> Tensor:
    """The logarithms of losses (float[m], zero at least), in which the right and the wrong labels' are nearly normal."""
    return losses.double().clamp(min=SMALLEST).log()


def wrong_probability(suspicion: Tensor, noise_rate: float | None = None) -> Tensor:
    """How likely each label is wrong.

    Two normal distributions are fitted to the scores, to their logarithms if none is negative, as losses are. A label is
    wrong as far as the upper one claims its sample; of two samples the more suspect one is at least as likely wrong.

    Args:
        suspicion: float[n], high is suspect, and finite; NaN where there is no score.
        noise_rate: The share of wrong labels, where there is an estimate; NaN is none. The upper distribution then has
            the weight with which the probabilities have this mean.

    Returns:
        float64[n] in [0, 1]; 0 where there is no score.

    Example:
        >>> scores = torch.cat([torch.linspace(0.1, 0.2, 80), torch.linspace(4.0, 5.0, 20)])
        >>> wrong_probability(scores)[[0, 79, 80, 99]].round(decimals=2).tolist()
        [0.0, 0.0, 1.0, 1.0]

    Source: the mixture of losses of Arazo et al. (ICML 2019), with the normal components of DivideMix (ICLR 2020).
    """
    probability = torch.zeros(len(suspicion), dtype=torch.float64)
    known = (~suspicion.isnan()).nonzero().squeeze(1)
    scores = suspicion[known].double()
    if len(known) < 2 or noise_rate == 0:
        return probability
    # Other scores than losses have any unit, in which 0.1 could be much or nothing.
    x = log_of_losses(scores) if bool((scores >= 0).all()) else (scores - scores.mean()) / scores.std(correction=0)
    if not bool((x > x.min()).any()):
        return probability
    some = torch.randperm(len(x), generator=stream(0, "mixture"))[:_MOST_FITTED]
    mixture = two_normals(x if len(x) <= _MOST_FITTED else x[some])
    upper, density = mixture.upper, mixture.log_densities(x)
    # How much likelier a score is from the upper one. What is more suspect is no less likely wrong, though the wider one
    # of two normal distributions has both ends.
    order = x.argsort(stable=True)
    ratio = (density[:, upper] - density[:, 1 - upper])[order]
    lowest = int(torch.where(x[order] <= mixture.mean[upper], ratio, torch.inf).argmin())
    ratio[:lowest] = ratio[lowest]
    ratio = ratio.cummax(dim=0).values
    offset = float((mixture.weight[upper] / mixture.weight[1 - upper]).log())
    if noise_rate is not None and not math.isnan(noise_rate):
        offset = _offset_of_mean(ratio, noise_rate)
    probability[known[order]] = (ratio + offset).sigmoid()
    return probability


def _offset_of_mean(ratio: Tensor, mean: float) -> float:
    """What added to ``ratio`` gives probabilities of this mean, by halving."""
    low, high = float(-ratio.max() - 50), float(-ratio.min() + 50)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float((ratio + middle).sigmoid().mean()) < mean else (low, middle)
    return (low + high) / 2
