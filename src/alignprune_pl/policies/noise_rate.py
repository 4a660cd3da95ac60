"""How many labels are wrong, from the losses of noisy samples and of clean ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Below a low quantile there are too few reference samples to count, above a high one wrong labels too.
_QUANTILES = torch.linspace(0.5, 0.95, 10)
_HIGHEST = 0.95


def estimate_noise_rate(suspicion: Tensor, reference: Tensor) -> float:
    """The share of wrong labels, by which noisy samples fall behind clean ones.

    Few wrong labels have a low loss. Below a threshold t the share of the noisy samples is therefore (1 - rate) times that
    of the clean ones: rate = 1 - F_noisy(t) / F_clean(t). Wrong labels with a low loss make the estimate too low. Chance
    makes it too high where samples are few, so half its standard error is taken off. The thresholds are the clean losses'
    quantiles from 0.5 to 0.95; the highest of their estimates counts.

    Args:
        suspicion: float[m], the losses of noisy samples, or what is high for them as for losses; those that are not finite
            do not count.
        reference: float[r], of clean samples in the same mode; likewise.

    Returns:
        The rate in [0, 0.95]; NaN where one of both is empty.

    Source: the mixture proportion of Elkan and Noto (KDD 2008) and of Scott (AISTATS 2015), with the loss as classifier.

    Example:
        >>> right, wrong = torch.linspace(0.1, 1.0, 7000), torch.linspace(3.0, 4.0, 3000)
        >>> round(estimate_noise_rate(torch.cat([right, wrong]), torch.linspace(0.1, 1.0, 1000)), 2)
        0.3
    """
    noisy, clean = (sample[sample.isfinite()].float() for sample in (suspicion, reference))
    if len(noisy) == 0 or len(clean) == 0:
        return math.nan
    thresholds = clean.quantile(_QUANTILES)
    below, clean_below = (_share_below(sample, thresholds) for sample in (noisy, clean))
    ratio = below / clean_below
    variance = _variance(below, len(noisy)) + ratio.square() * _variance(clean_below, len(clean))
    return min(_HIGHEST, max(0.0, float((1 - ratio - variance.sqrt() / clean_below / 2).max())))


def _variance(share: Tensor, size: int) -> Tensor:
    """Of a share of a sample of ``size``; with two more in it, so that it is not zero where all or none count."""
    share = (share * size + 1) / (size + 2)
    return share * (1 - share) / (size + 2)


def _share_below(sample: Tensor, thresholds: Tensor) -> Tensor:
    """The share of a sample (float[m]) that is not above each threshold (float[t])."""
    return (sample[:, None] <= thresholds).float().mean(dim=0)
