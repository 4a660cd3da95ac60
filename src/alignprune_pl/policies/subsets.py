"""What several hosts share: how many samples, and which."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_number
from alignprune_pl.core.contracts import Ask, Suspects
from alignprune_pl.core.plan import permutation


def check_ratio(ratio: float) -> float:
    """``ratio`` as given, if it is a pruning ratio.

    Raises:
        ValueError: If it is outside [0, 1).
    """
    return check_number("ratio", ratio, "[0, 1)", "a pruning ratio", "0.3 prunes three samples in ten")


def check_delta(delta: float) -> float:
    """``delta`` as given, if it is a share of the epochs.

    Raises:
        ValueError: If it is outside [0, 1].
    """
    return check_number("delta", delta, "[0, 1]", "a share of the epochs", "0.875 anneals the last eighth")


def anneals(ask: Ask, delta: float) -> bool:
    """Whether the epoch lies in the last (1 - delta) * E epochs, undisturbed by the rounding of delta * E.

    Example:
        >>> anneals(Ask(14, torch.Generator(), max_epochs=25), 0.56), 14 >= 0.56 * 25
        (True, False)
    """
    return ask.max_epochs is not None and ask.epoch >= round(delta * ask.max_epochs, 6)


def kept_count(n: int, ratio: float) -> int:
    """floor((1 - ratio) * n), undisturbed by the rounding of 1 - ratio.

    Example:
        >>> kept_count(10, 0.8), int((1 - 0.8) * 10)
        (2, 1)
    """
    return share_count(n, 1 - ratio)


def share_count(n: int, share: float) -> int:
    """floor(share * n), undisturbed by the rounding of the share.

    Example:
        >>> share_count(100, 0.29), int(0.29 * 100)
        (29, 28)
    """
    return math.floor(round(share * n, 6))


def window_of_groups(count: int, epoch: int, window_scale: float) -> range:
    """The groups in the epoch's window, of ``count``."""
    width = min(count, max(1, round(count * window_scale)))
    start = epoch % (count - width + 1)
    return range(start, start + width)


def random_subset(index: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """``size`` elements of ``index`` (int64[n]), uniformly without replacement, in random order."""
    return index.index_select(0, permutation(len(index), generator)[:size])


def members(n: int, index: Tensor) -> Tensor:
    """Whether each of n samples is among ``index`` (integers[k]): bool[n]."""
    return torch.zeros(n, dtype=torch.bool).index_fill_(0, index.long(), True)


def indices(mask: Tensor) -> Tensor:
    """The samples of a mask (bool[n]) in ascending order: int64[k]."""
    return mask.nonzero().squeeze(1)


def highest(scores: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The ``size`` samples with the highest scores, where samples without a score come first: bool[n].

    Of equal scores at the border as many are drawn as there is room for. All samples without a score are in it,
    even where they are more than ``size``.

    Example:
        >>> highest(torch.tensor([3.0, 1.0, torch.nan, 2.0]), 2, torch.Generator())
        tensor([ True, False,  True, False])
    """
    chosen = scores.isnan()
    scored = scores if not chosen.any() else scores[~chosen]
    room = min(size - int(chosen.sum()), len(scored))
    if room <= 0:
        return chosen
    border = scored.kthvalue(len(scored) - room + 1).values
    above, at = scores > border, indices(scores == border)
    chosen |= above
    return chosen.index_fill_(0, random_subset(at, room - int(above.sum()), generator), True)


def most_suspect(suspicion: Tensor, noise_rate: float) -> Suspects:
    """A share of all samples, the most suspect first, as far as they have a suspicion; none where the rate is NaN.

    Args:
        suspicion: float32[n], high for suspect, NaN where it is not known.
        noise_rate: The share, in [0, 1].

    Example:
        >>> most_suspect(torch.tensor([0.1, 4.0, torch.nan, 2.0]), 0.5).index
        tensor([1, 3])
    """
    order = suspicion.nan_to_num(-math.inf).argsort(descending=True, stable=True)
    known = int((~suspicion.isnan()).sum())
    count = 0 if math.isnan(noise_rate) else min(known, share_count(len(order), noise_rate))
    return Suspects(order[:count], suspicion.clone(), noise_rate)


def least_of_each(labels: Tensor, suspicion: Tensor, share: float) -> Tensor:
    """The least suspect share of the samples of each class: bool[n].

    Args:
        labels: int64[n], at least 0, or -1 for one that is not known; these are a class of their own.
        suspicion: float32[n], high for suspect; NaN where it is not known, which is the least of all.
        share: In [0, 1], rounded up in each class; none of a class of which it is less than one sample.

    Example:
        >>> least_of_each(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([3.0, 1.0, 2.0, 9.0, 8.0]), 0.5)
        tensor([False,  True,  True, False,  True])
    """
    order = suspicion.nan_to_num(-math.inf).argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    _, counts = labels[order].unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    room = (counts.double() * share).sub(1e-6).ceil() * (counts.double() * share >= 1 - 1e-6)
    return members(len(labels), order[torch.arange(len(labels)) - starts < room.repeat_interleave(counts)])
