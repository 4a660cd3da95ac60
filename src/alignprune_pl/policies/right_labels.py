"""How likely a label is right given its sample's suspicion, told by noisy samples beside clean ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alignprune_pl.core.trajectory import lead

# Slopes that are compared at a time, and how often between the best one's neighbours.
_SLOPES, _ROUNDS = 17, 6
_STEEPEST = 8.0  # in standard deviations of what it is a slope of
_HALVINGS = 40


@dataclass(frozen=True)
class RightLabels:
    """P(right | suspicion) as a logistic curve, falling with suspicion.

    Attributes:
        offset: Its log odds where x is zero.
        slope: By which they fall, at least 0; 0 where suspicion tells nothing.
        is_loss: Whether x is log(exp(suspicion) - 1), the lead of a rival in log odds, or the suspicion itself.

    Example:
        >>> curve = RightLabels(offset=1.0, slope=2.0)
        >>> curve(torch.tensor([0.1, 0.7, 3.0, torch.nan])).round(decimals=2)
        tensor([1.0000, 0.7300, 0.0100, 1.0000])
    """

    offset: float
    slope: float
    is_loss: bool = True

    def __call__(self, suspicion: Tensor) -> Tensor:
        """The probability of each sample, float32[n]; one where the suspicion is NaN."""
        odds = self.offset - self.slope * (lead(suspicion.double()) if self.is_loss else suspicion.double())
        return torch.sigmoid(odds).float().masked_fill(suspicion.isnan(), 1.0)


def fit_right_labels(noisy: Tensor, reference: Tensor, noise_rate: float) -> RightLabels:
    """The curve under which the reference is most likely to be drawn from the right labels among the noisy samples.

    Where labels are right with P(s) at suspicion s, clean samples have the density P(s) f_noisy(s) / E_noisy P. Of the
    logistic curves whose mean over the noisy samples is 1 - ``noise_rate``, that with the highest likelihood of the
    reference is taken. Neither density has to be known or smoothed.

    Args:
        noisy: float[m], the suspicion of noisy samples, finite, m at least 1.
        reference: float[r], of clean ones in the same mode, likewise.
        noise_rate: Their share of wrong labels, in [0, 1].

    Source: this package; densities by the ratio that a classifier gives are those of density ratio estimation (Sugiyama
    et al., 2012).
    """
    is_loss = bool((noisy >= 0).all() and (reference >= 0).all())
    x, clean = (lead(part.double()) if is_loss else part.double() for part in (noisy, reference))
    pooled = torch.cat([x, clean])
    centre, unit = float(pooled.mean()), max(float(pooled.std(correction=0)), 1e-9)
    x, clean = (x - centre) / unit, (clean - centre) / unit
    rate = min(max(noise_rate, 1e-4), 1 - 1e-4)
    low, high = 0.0, _STEEPEST
    for _ in range(_ROUNDS):
        slopes = torch.linspace(low, high, _SLOPES, dtype=torch.float64)
        offsets = _offsets(x, slopes, 1 - rate)
        likelihood = F.logsigmoid(offsets[:, None] - slopes[:, None] * clean).mean(dim=1)
        best = int(likelihood.argmax())
        slope, step = float(slopes[best]), (high - low) / (_SLOPES - 1)
        low, high = max(0.0, slope - step), min(_STEEPEST, slope + step)
    return RightLabels(float(offsets[best]) + slope * centre / unit, slope / unit, is_loss)


def _offsets(x: Tensor, slopes: Tensor, share: float) -> Tensor:
    """By which each curve has the mean ``share`` over ``x``: float64[k], by halving."""
    low, high = (slopes * end - 20 * sign for end, sign in ((x.min(), 1), (x.max(), -1)))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_low = torch.sigmoid(middle[:, None] - slopes[:, None] * x).mean(dim=1) < share
        low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
    return (low + high) / 2


def line_of(right: Tensor, harm: float) -> float:
    """P(right) from which on samples are worth training on.

    A sample is left out where P(wrong) * harm > P(right) / R. R is the share of the right labels that is trained, so that
    they count the more the fewer are left. The line L = harm * R / (1 + harm * R) depends on R, and R on the line.

    Args:
        right: float[r], P(right) of the reference's samples; R is their share from the line on.
        harm: Of training on a wrong label, with the loss of leaving out a right one as its unit; at least 0.

    Returns:
        The line in [0, 1).
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        line = (low + high) / 2
        weighed = harm * float((right >= line).float().mean())
        low, high = (line, high) if weighed / (1 + weighed) > line else (low, line)
    return low


def careful_line(right: Tensor, given_away: float) -> float:
    """P(right) below which labels are rather wrong than right, and few right ones are lost.

    Args:
        right: float[m], P(right) of noisy samples, m at least 1.
        given_away: The share of the right labels that may be below, in [0, 1].

    Returns:
        The line in [0, 0.5].

    Example:
        >>> careful_line(torch.tensor([0.125, 0.25, 0.375, 0.875, 0.875]), 0.1), careful_line(torch.tensor([0.9]), 0.1)
        (0.25, 0.5)
    """
    right = right.sort().values
    lost = int((right.cumsum(0) <= given_away * right.sum()).sum())
    return min(0.5, float(right[min(lost, len(right) - 1)]))


def wrong_that_stay(right: Tensor, line: float) -> float:
    """The share of wrong labels among the samples from a line on, over that among all; 1 where it leaves out none.

    Args:
        right: float[m], P(right) of noisy samples, m at least 1.
        line: P(right) below which a sample is left out; some must stay.

    Example:
        >>> wrong_that_stay(torch.tensor([0.0, 0.5, 0.75, 0.75]), 0.25)
        0.66...
    """
    wrong = 1 - right.double()
    return float(wrong[right >= line].mean() / wrong.mean().clamp(min=1e-9))


@dataclass(frozen=True)
class Gap:
    """How much nearer a network is to the labels that it is trained on than to others like them: what it memorises.

    Attributes:
        value: As a share of how far it is from the others.
        error: The standard error.
    """

    value: float = math.nan
    error: float = math.nan

    @property
    def least(self) -> float:
        """What it surely is: two standard errors less, as two random groups differ by chance too."""
        return self.value - 2 * self.error

    @property
    def is_sure(self) -> bool:
        """Whether chance would hardly open one as wide: three standard errors, as a run looks many times."""
        return self.value >= 3 * self.error

    def __str__(self) -> str:
        return f"{self.value:.0%} ± {self.error:.0%}"


def twin_gap(held: Tensor, twins: Tensor, first: tuple[Tensor, Tensor] | None = None) -> Gap:
    """The gap between two random groups of noisy samples, or what of it has opened since they were first compared.

    Of a loss l, 1 - exp(-l) is how far the network is from the label, in [0, 1]: so that a few high losses do not decide.
    What differs between the groups by chance differed at first too: what has opened since has the smaller error, but
    lacks what the first epoch has memorised.

    Args:
        held: float[h], losses of samples that are not trained on, in eval mode.
        twins: float[t], of such that are, likewise.
        first: Those of the same samples, held and twins, when they were first compared; None for the gap itself.

    Returns:
        In [0, 1] but for chance; NaN where a group has no finite loss.

    Source: this package; what tells samples that were trained on from others is membership inference (Yeom et al., CSF
    2018).

    Example:
        >>> gap = twin_gap(torch.full((100,), 2.0), torch.full((100,), 0.5))
        >>> f"{gap.value:.2f}"
        '0.54'
    """
    far, near = _distance(held), _distance(twins)
    unit = max(float(far.nanmean()), 1e-9)
    if first is not None:
        far, near = far - _distance(first[0]), near - _distance(first[1])
    far, near = far[far.isfinite()], near[near.isfinite()]
    if len(far) == 0 or len(near) == 0:
        return Gap()
    variance = sum(float(part.var(correction=0)) / len(part) for part in (far, near))
    return Gap(float(far.mean() - near.mean()) / unit, math.sqrt(variance) / unit)


def _distance(losses: Tensor) -> Tensor:
    """How far from the label, float64 in [0, 1]; NaN where a loss is not finite, 0 where it is below zero."""
    return -torch.expm1(-losses.double().clamp(min=0).masked_fill(~losses.isfinite(), math.nan))
