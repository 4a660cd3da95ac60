"""One-dimensional k-means without a loop over samples, for SeTa's groups."""

from __future__ import annotations

import torch
from torch import Tensor

# Quantiles that the dynamic programme starts from: enough to place ten borders, and 512^2 costs are cheap.
_BINS = 512
_MAX_STEPS = 300


def kmeans_1d(values: Tensor, k: int) -> Tensor:
    """Group numbers by k-means; the groups are numbered by their centres, low to high.

    Groups of numbers are intervals, so sorted values with prefix sums give every mean at once. The start is
    the exact optimum over quantile borders (a dynamic programme), which Lloyd's steps then refine. Nothing is
    drawn at random.

    Args:
        values: float[n], finite.
        k: How many groups; fewer come out where there are fewer distinct values.

    Returns:
        int64[n], the group of each value, from 0 without gaps.

    Example:
        >>> kmeans_1d(torch.tensor([9.0, 0.1, 0.2, 9.1, 5.0]), 3)
        tensor([2, 0, 0, 2, 1])
    """
    ordered, order = values.double().sort()
    n = len(ordered)
    zero = ordered.new_zeros(1)
    sums = torch.cat([zero, ordered.cumsum(0)])
    borders = _quantile_borders(ordered, sums, k)
    for _ in range(_MAX_STEPS):
        means = (sums[borders[1:]] - sums[borders[:-1]]) / (borders[1:] - borders[:-1])
        middles = torch.searchsorted(ordered, (means[1:] + means[:-1]) / 2, right=True)
        # Equal borders would be an empty group; unique drops it.
        moved = torch.cat([borders[:1], middles, borders[-1:]]).unique()
        if torch.equal(moved, borders):
            break
        borders = moved
    groups = torch.empty(n, dtype=torch.int64)
    sizes = borders[1:] - borders[:-1]
    groups[order] = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    return groups


def _quantile_borders(ordered: Tensor, sums: Tensor, k: int) -> Tensor:
    """Borders (positions in ``ordered``, with 0 and n) that are best among candidates between distinct values."""
    n = len(ordered)
    zero = ordered.new_zeros(1)
    candidates = torch.linspace(0, n - 1, min(n, _BINS)).long()
    # Equal values stay together: a border is where its value first occurs.
    candidates = torch.searchsorted(ordered, ordered[candidates]).unique()
    if len(ordered.unique_consecutive()) <= k:
        firsts = ordered.diff().nonzero().squeeze(1) + 1
        return torch.cat([torch.tensor([0]), firsts, torch.tensor([n])])
    points = torch.cat([candidates, torch.tensor([n])]).unique()
    # Centred, or the difference of two large squares would lose the spread.
    centre = ordered.mean()
    first = sums[points] - points * centre
    second = torch.cat([zero, (ordered - centre).square().cumsum(0)])[points]
    size = (points[None, :] - points[:, None]).clamp(min=1)
    cost = second[None, :] - second[:, None] - (first[None, :] - first[:, None]).square() / size
    cost = cost.masked_fill(points[None, :] <= points[:, None], torch.inf)
    k = min(k, len(points) - 1)
    best, previous = cost[0], []
    for _ in range(k - 1):
        best, arg = (best[:, None] + cost).min(dim=0)
        previous.append(arg)
    at = len(points) - 1
    chosen = [at]
    for arg in reversed(previous):
        at = int(arg[at])
        chosen.append(at)
    picked: Tensor = points[torch.tensor([0, *reversed(chosen)])]
    return picked
