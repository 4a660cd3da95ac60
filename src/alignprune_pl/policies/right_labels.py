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
# Losses of a group by which a gap is measured at least: the scatter of fewer says too little of its error.
_FEWEST = 10


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


def agreement(labels: Tensor, rivals: Tensor, wrong: Tensor) -> float:
    """How often two wrong labels agree whose samples are of one class: always under pair flip, seldom under symmetric noise.

    A sample whose label is wrong is taken for one of its rival. The less a network tells, the more often that is another
    class, and the less wrong labels seem to agree.

    Args:
        labels: int64[n], -1 where not known; or empty, where none is.
        rivals: Each sample's strongest other class, likewise.
        wrong: float[n], P(wrong).

    Returns:
        In [0, 1]; 1 where no two are known. A class counts by how many others a wrong label of it can be compared with, so
        that few of many classes have no bias.

    Example:
        >>> labels, rivals = torch.tensor([1, 1, 2, 0, 0]), torch.tensor([0, 0, 0, 1, 1])
        >>> agreement(labels, rivals, torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))
        0.33...
    """
    if len(labels) == 0 or len(rivals) == 0:
        return 1.0
    known = (labels >= 0) & (rivals >= 0)
    if not bool(known.any()):
        return 1.0
    wrong, classes = wrong[known].double(), int(labels.max()) + 1
    pairs, pair = torch.unique(rivals[known] * classes + labels[known], return_inverse=True)
    of_pair = wrong.new_zeros(len(pairs)).index_add_(0, pair, wrong)
    of_class, squares, alike = wrong.new_zeros(3, int(rivals.max()) + 1)
    of_class.index_add_(0, rivals[known], wrong)
    squares.index_add_(0, rivals[known], wrong.square())  # each label agrees with itself, which tells nothing
    alike.index_add_(0, pairs // classes, of_pair.square())
    has = of_class > 0
    both, same = (((part - squares) / of_class)[has].sum() for part in (of_class.square(), alike))
    return float(same / both) if both > 1e-9 else 1.0


def pattern_harm(noise_rate: float, agreement: float) -> float:
    """What training on a wrong label harms a network that learns patterns, with the loss of leaving out a right one as unit.

    Of a class, R = 1 - ``noise_rate`` of the samples have the right label and W = ``agreement`` * ``noise_rate`` the same
    wrong one. The right ones win by (R - W) / sqrt(R + W) standard errors. A wrong one less adds as much to that as
    (2 + m) / (2 - m) right ones more, m = (R - W) / (R + W), or 0 where the wrong ones win. As many of the wrong ones as
    ``agreement`` are of that kind.

    Args:
        noise_rate: The share of wrong labels, in [0, 1).
        agreement: How often two of them agree, in [0, 1].

    Returns:
        At most 1, so that what is rather right than wrong is trained.

    Example:
        >>> pattern_harm(0.5, 1 / 9), pattern_harm(0.4, 1.0)  # symmetric noise of ten classes, and pair flip
        (0.25..., 1.0)
    """
    right, alike = 1 - noise_rate, agreement * noise_rate
    margin = max(0.0, (right - alike) / (right + alike))
    return min(1.0, agreement * (2 + margin) / (2 - margin))


def wrong_that_stay(right: Tensor, line: float) -> float:
    """The share of wrong labels among the samples from a line on, over that among all.

    Args:
        right: float[m], P(right) of noisy samples, m at least 1.
        line: P(right) below which a sample is left out.

    Returns:
        About 1 where the line leaves out none, or any; 0 where it leaves out all.

    Example:
        >>> wrong_that_stay(torch.tensor([0.0, 0.5, 0.75, 0.75]), 0.25)
        0.66...
    """
    wrong, stays = 1 - right.double(), right >= line
    return float(wrong[stays].sum() / stays.sum().clamp(min=1) / wrong.mean().clamp(min=1e-9))


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
        return "not known" if math.isnan(self.value) else f"{self.value:.0%} ± {self.error:.0%}"


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
        In [0, 1] but for chance; NaN where a group has fewer than ten finite losses.

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
    if min(len(far), len(near)) < _FEWEST:
        return Gap()
    variance = sum(float(part.var(correction=0)) / len(part) for part in (far, near))
    return Gap(float(far.mean() - near.mean()) / unit, math.sqrt(variance) / unit)


def _distance(losses: Tensor) -> Tensor:
    """How far from the label, float64 in [0, 1]; NaN where a loss is not finite, 0 where it is below zero."""
    return -torch.expm1(-losses.double().clamp(min=0).masked_fill(~losses.isfinite(), math.nan))
