"""How many labels are wrong, from the losses of noisy samples and of clean ones."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.core.mixture import log_of_losses, two_normals

# Below a low quantile there are too few reference samples to count, above a high one wrong labels too.
_QUANTILES = torch.linspace(0.5, 0.95, 10)
# The share of the reference beyond the valley from which on the valley says nothing of wrong labels.
_NO_VALLEY = 1 / 3
_HIGHEST = 0.95
_SURE = 3  # standard errors; of the best of many thresholds, fewer are chance too often


def rate_by_reference(suspicion: Tensor, reference: Tensor) -> tuple[float, float]:
    """The share of wrong labels by which noisy samples fall behind clean ones.

    A wrong label rarely has a low loss, so that below a threshold t there are (1 - rate) times as many of the noisy as
    of the clean: rate = 1 - F_noisy(t) / F_clean(t). A wrong label with a low loss makes the estimate too low, so that of
    the thresholds, the clean losses' quantiles from 0.5 to 0.95, the two with the highest estimates count. By the same
    choice, chance makes it too high where the samples are few.

    Args:
        suspicion: float[m], the losses of noisy samples, or what is high for them as for losses; finite.
        reference: float[r], of clean samples in the same mode, finite.

    Returns:
        The rate, at most 1 and on clean data perhaps below zero; and the standard error of the estimate that is highest
        where each is less by its own. NaN where one of the samples is empty.

    Source: the mixture proportion of Elkan and Noto (KDD 2008) and of Scott (AISTATS 2015), with the loss as classifier.
    """
    if len(suspicion) == 0 or len(reference) == 0:
        return float("nan"), float("nan")
    suspicion, reference = suspicion.float(), reference.float()
    thresholds = reference.quantile(_QUANTILES)
    noisy, clean = (_share_below(sample, thresholds) for sample in (suspicion, reference))
    ratio = noisy / clean
    error = (_variance(noisy, len(suspicion)) + ratio.square() * _variance(clean, len(reference))).sqrt() / clean
    return float((1 - ratio).topk(2).values.mean()), float(error[(1 - ratio - error).argmax()])


def _variance(share: Tensor, size: int) -> Tensor:
    """Of a share of a sample of ``size``; with two more in it, so that it is not zero where all or none count."""
    share = (share * size + 1) / (size + 2)
    return share * (1 - share) / (size + 2)


def _share_below(sample: Tensor, thresholds: Tensor) -> Tensor:
    """The share of a sample (float[m]) that is not above each threshold (float[t])."""
    return (sample[:, None] <= thresholds).float().mean(dim=0)


def beyond_valley(losses: Tensor, *others: Tensor) -> list[float]:
    """The shares that lie beyond the valley between the low and the high losses of the first sample.

    The valley is where the two components of a mixture of normal distributions in the logarithm of the loss, fitted by
    expectation maximisation, are equally likely.

    Args:
        losses: float[m], finite and at least zero; the mixture is fitted to them.
        others: float[k], likewise.

    Returns:
        Of ``losses`` and of each of ``others``, the share that the upper component claims.
    """
    logs = [log_of_losses(sample) for sample in (losses, *others)]
    mixture = two_normals(logs[0])
    return [float((mixture.claims(values)[:, mixture.upper] > 0.5).float().mean()) for values in logs]


def estimate_noise_rate(suspicion: Tensor, reference: Tensor) -> float:
    """The share of wrong labels: the mean of what the reference says and of what the valley in the losses says.

    The reference's estimate has its sampling error: a few hundred clean samples may happen to be hard or easy. Where it is
    within three standard errors of zero no label is taken for wrong, as on clean data. The valley is that of the many
    noisy samples, so that chance moves it little; the share b beyond it counts as (b - c) / (1 - c), c being that of the
    reference, as there are hard clean samples beyond it too. It has no say where the two differ by more than three
    standard errors, or a third of the reference lies beyond it.

    Args:
        suspicion: float[m], the losses of noisy samples; those that are not finite do not count.
        reference: float[r], of clean samples in the same mode; likewise.

    Returns:
        The rate in [0, 0.95]; NaN where one of both is empty.

    Example:
        >>> right, wrong = torch.linspace(0.1, 1.0, 700), torch.linspace(3.0, 4.0, 300)
        >>> round(estimate_noise_rate(torch.cat([right, wrong]), torch.linspace(0.1, 1.0, 100)), 2)
        0.3
    """
    suspicion, reference = suspicion[suspicion.isfinite()], reference[reference.isfinite()]
    rate, error = rate_by_reference(suspicion, reference)
    if not rate > _SURE * error:
        return rate if rate != rate else 0.0
    beyond, reference_beyond = beyond_valley(suspicion, reference)
    is_of_losses = bool((suspicion >= 0).all())  # their logarithms have the valley
    if is_of_losses and reference_beyond < _NO_VALLEY:
        by_valley = (beyond - reference_beyond) / (1 - reference_beyond)
        if abs(by_valley - rate) < _SURE * error:
            rate = (rate + by_valley) / 2
    return min(_HIGHEST, rate)
