"""Correlations of many trajectories with one reference, over the epochs that both have."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_word
from alignprune_pl.scores.arguments import check_least

Correlation = Literal["pearson", "spearman", "cosine"]

# Trajectories handled at once: their temporaries stay in the processor's cache, and memory small whatever n is.
_CHUNK = 1 << 14


def correlate(losses: Tensor, reference: Tensor, correlation: Correlation = "pearson", min_observed: int = 3) -> Tensor:
    """The correlation of each trajectory with the reference's.

    Args:
        losses: float[n, T], NaN where a sample was not observed.
        reference: float[T], NaN where unknown.
        correlation: ``"pearson"``; ``"spearman"``, Pearson of the ranks, equal values sharing their mean rank; or
            ``"cosine"``, Pearson without taking off the means.
        min_observed: Fewer common epochs than this leave it undefined.

    Returns:
        float32[n] in [-1, 1]. NaN where undefined: too few common epochs, or one of the two without a direction over
        them, constant within float32's rounding (zero for the cosine).

    Raises:
        ValueError: If the shapes do not fit, ``correlation`` is another word or ``min_observed`` < 2.
    """
    if losses.ndim != 2 or reference.shape != losses.shape[1:]:
        raise ValueError(
            f"losses of shape {tuple(losses.shape)} and a reference of shape {tuple(reference.shape)} are given, "
            "but (n, T) and (T,) are expected; pass one reference loss an epoch."
        )
    check_correlation(correlation, min_observed)
    scores = losses.new_full((len(losses),), torch.nan, dtype=torch.float32)
    if losses.shape[1] < min_observed:
        return scores
    reference = reference.float()
    # Epochs first: a sum over epochs is then a sum of whole rows, and the samples of a row lie side by side.
    for part, chunk in zip(scores.split(_CHUNK), losses.T.split(_CHUNK, dim=1), strict=True):
        part.copy_(_correlate(chunk.float(), reference, correlation, min_observed))
    return scores


def check_correlation(correlation: str, min_observed: int) -> None:
    """Refuse settings under which there is no correlation.

    Raises:
        ValueError: If ``correlation`` is another word or ``min_observed`` < 2.
    """
    check_word("correlation", correlation, get_args(Correlation))
    check_least("min_observed", min_observed, 2)


def _correlate(x: Tensor, y: Tensor, correlation: Correlation, min_observed: int) -> Tensor:
    """The same for x float32[T, m] and y float32[T].

    What is seen is a float mask throughout: operations on booleans take several times as long.
    """
    y = y.unsqueeze(1)
    seen = None
    # One sum tells whether all is finite, as it mostly is where pruned epochs are carried.
    if not bool(x.sum(dim=0).isfinite().all() and y.isfinite().all()):
        # Zero times what is not finite is NaN.
        seen = (x * 0).add_(y * 0).add_(1).nan_to_num_(0.0)
        # y becomes one for each sample: over the epochs in which it was seen.
        x, y = _only(x, seen), _only(y, seen)
    if correlation == "spearman":
        x, y = _ranks(x, seen), _ranks(y, seen)
    x, x_is_flat = _direction(x, seen, correlation != "cosine")
    y, y_is_flat = _direction(y, seen, correlation != "cosine")
    is_undefined = x_is_flat | y_is_flat
    if seen is not None:
        is_undefined |= seen.sum(dim=0) < min_observed
    return (x * y).sum(dim=0).clamp_(-1.0, 1.0).masked_fill_(is_undefined, torch.nan)


def _only(values: Tensor, seen: Tensor) -> Tensor:
    """Values where they are seen, and zero elsewhere."""
    return values.nan_to_num(0.0, 0.0, 0.0) * seen


def _direction(values: Tensor, seen: Tensor | None, centred: bool) -> tuple[Tensor, Tensor]:
    """Values as vectors of length one, and whether there is only rounding to them.

    Args:
        values: float32[T, m], zero where not seen; or [T, 1] for all samples alike.
        seen: float32[T, m], one where seen and zero elsewhere; None where all are.
        centred: Whether the means over ``seen`` are taken off first.
    """
    rounding = values.abs().amax(dim=0) * (4 * torch.finfo(torch.float32).eps)
    if centred:
        count = len(values) if seen is None else seen.sum(dim=0)
        # Twice, as the rounding of the mean of large numbers may be as large as their spread.
        for _ in range(2):
            values = values - values.sum(dim=0) / count
            if seen is not None:
                values = values.mul_(seen)
    largest = values.abs().amax(dim=0)
    # Scaled before it is squared: squares of small or large numbers would leave float32.
    values = values / largest
    length = values.square().sum(dim=0).sqrt_()
    return values / length, (largest <= rounding) | (largest == 0)


def _ranks(values: Tensor, seen: Tensor | None) -> Tensor:
    """The rank of each value among the seen ones of its sample, centred; equal ones share their mean rank.

    It is how many are smaller less how many are larger, which is twice the rank but for a constant.
    """
    ranks = torch.zeros_like(values)
    for epoch, other in enumerate(values):
        larger = (values - other).sign_()
        ranks += larger if seen is None else larger.mul_(seen[epoch])
    return ranks if seen is None else ranks.mul_(seen)
