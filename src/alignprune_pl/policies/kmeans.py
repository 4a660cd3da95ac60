"""One-dimensional k-means without a loop over samples, for SeTa's groups."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

# From this many values on they are counted in bins, if the groups are few: sorting would take ten times as long.
_MANY = 1 << 16
_FEW_GROUPS = 10
_BINS = 1 << 14
# Bins are fine enough if what varies within them is this small a part of what varies within the groups.
_FINE = 1e-4
# Borders that the dynamic programme chooses among, at least; and for each group.
_CANDIDATES, _CANDIDATES_A_GROUP = 256, 4
# Lloyd's steps at the most: until nothing moves, or until it makes no difference for bins.
_STEPS, _STEPS_OF_BINS = 300, 8
# Values handled at once, so that temporaries stay in the cache.
_CHUNK = 1 << 18


def kmeans_1d(values: Tensor, k: int) -> Tensor:
    """Group numbers by k-means; the groups are numbered by their centres, low to high.

    Groups of numbers are intervals, so that prefix sums over ordered values give every mean at once. The start is the
    exact optimum over a few hundred borders (a dynamic programme), which Lloyd's steps then refine. Many values are
    counted in bins instead of sorted, where the bins are fine enough to make no difference. Nothing is drawn at random.

    Args:
        values: float[n], finite.
        k: How many groups; fewer come out where there are fewer distinct values.

    Returns:
        uint8[n] (int16 for more than 255 groups), the group of each value, from 0 without gaps.

    Example:
        >>> kmeans_1d(torch.tensor([9.0, 0.1, 0.2, 9.1, 5.0]), 3)
        tensor([2, 0, 0, 2, 1], dtype=torch.uint8)
    """
    dtype = torch.uint8 if k <= 255 else torch.int16
    groups = _groups_by_bins(values, k, dtype) if len(values) >= _MANY and k <= _FEW_GROUPS else None
    return _groups_by_order(values, k, dtype) if groups is None else groups


def _groups_by_order(values: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """The groups, from the values in order."""
    ordered = values.sort().values
    borders = best_borders(ordered.double(), torch.ones(len(ordered), dtype=torch.float64), k)
    groups = torch.zeros(len(values), dtype=dtype)
    for start in ordered[borders].tolist():
        groups += values >= start
    return groups


def _groups_by_bins(values: Tensor, k: int, dtype: torch.dtype) -> Tensor | None:
    """The groups, from counts in equal bins; None where too many values share one, because a few lie far out."""
    low, high = (float(end) for end in values.aminmax())
    width = (high - low) / _BINS
    # Bins are counted in single precision, which both the width and its inverse must have room in.
    if not 1e-30 < width < 1e30:
        return None
    bins = torch.empty(len(values), dtype=torch.int32)
    scaled = torch.empty(_CHUNK, dtype=values.dtype)
    for part, chunk in zip(bins.split(_CHUNK), values.split(_CHUNK), strict=True):
        part.copy_(torch.sub(chunk, low, out=scaled[: len(chunk)]).mul_(1 / width))
    counts = torch.bincount(bins, minlength=_BINS + 1)
    filled = counts.nonzero().squeeze(1)
    points, weight = low + (filled + 0.5) * width, counts[filled].double()
    borders = borders_of_bins(points.double(), weight, k, width)
    if borders is None:
        return None
    of_bin = torch.zeros(_BINS + 1, dtype=dtype)
    for border in borders:
        of_bin[filled[border] :] += 1
    groups: Tensor = of_bin.index_select(0, bins)
    return groups


def borders_of_bins(points: Tensor, weight: Tensor, k: int, width: float) -> Tensor | None:
    """Where k-means begins a new group of bins: int64[at most k - 1]; None where the bins are too wide for the groups.

    Args:
        points: float64[m], the middles of bins that are not empty, ascending.
        weight: float64[m], how many values each has.
        k: How many groups.
        width: Of a bin.
    """
    borders = best_borders(points, weight, k, _STEPS_OF_BINS)
    fine = width**2 / 12 * float(weight.sum()) <= _FINE * _inertia(points, weight, borders)
    return borders if fine else None


def _inertia(points: Tensor, weight: Tensor, borders: Tensor) -> float:
    """Squares of the distances to the groups' means, summed."""
    total = 0.0
    for start, end in pairwise([0, *borders.tolist(), len(points)]):
        point, share = points[start:end], weight[start:end]
        total += float((share * (point - (share * point).sum() / share.sum()).square()).sum())
    return total


def best_borders(points: Tensor, weight: Tensor, k: int, steps: int = _STEPS) -> Tensor:
    """Where k-means begins a new group: int64[at most k - 1], positions in ``points``.

    Args:
        points: float64[m], ascending.
        weight: float64[m], how many values each stands for.
        k: How many groups.
        steps: Lloyd's steps at the most.
    """
    m = len(points)
    if m == 0:
        return torch.empty(0, dtype=torch.int64)
    # Or large squares would lose the spread. Not the mean: one loss that has run away would move it far from the others.
    points = points - points[m // 2]
    # Equal points stay together: a group can only begin where a value first occurs.
    first = torch.cat([torch.tensor([True]), points.diff() != 0]).nonzero().squeeze(1)
    if len(first) <= k:
        return first[1:]
    zero = points.new_zeros(1)
    count = torch.cat([zero, weight.cumsum(0)])
    total = torch.cat([zero, (weight * points).cumsum(0)])
    square = torch.cat([zero, (weight * points.square()).cumsum(0)])
    borders = _dynamic_programme(_candidates(points, count, first, k), count, total, square, k)
    for _ in range(steps):
        means = total[borders].diff() / count[borders].diff()
        moved = torch.searchsorted(points, (means[1:] + means[:-1]) / 2, right=True)
        # Equal borders would be an empty group; unique drops it.
        moved = torch.cat([borders[:1], moved, borders[-1:]]).unique()
        if torch.equal(moved, borders):
            break
        borders = moved
    inner: Tensor = borders[1:-1]
    return inner


def _candidates(points: Tensor, count: Tensor, first: Tensor, k: int) -> Tensor:
    """Borders to choose among, with 0 and m: half of them equally many values apart, half equally far apart."""
    m, wanted = len(points), max(_CANDIDATES, _CANDIDATES_A_GROUP * k)
    if len(first) <= wanted:
        return torch.cat([first, torch.tensor([m])])
    share = torch.linspace(0, 1, wanted // 2, dtype=points.dtype)
    by_count = torch.searchsorted(count[:-1].contiguous(), share * count[-1]).clamp(max=m - 1)
    by_value = torch.searchsorted(points, points[0] + share * (points[-1] - points[0])).clamp(max=m - 1)
    starts = torch.searchsorted(points, points[torch.cat([by_count, by_value])])
    borders: Tensor = torch.cat([torch.tensor([0]), starts, torch.tensor([m])]).unique()
    return borders


def _dynamic_programme(candidates: Tensor, count: Tensor, total: Tensor, square: Tensor, k: int) -> Tensor:
    """The best k - 1 borders among candidates, with 0 and m before and after them."""
    count, total, square = count[candidates], total[candidates], square[candidates]
    size = (count - count[:, None]).clamp(min=1)
    cost = (square - square[:, None]) - (total - total[:, None]).square() / size
    position = torch.arange(len(candidates))
    cost = cost.masked_fill(position <= position[:, None], torch.inf)
    best, previous = cost[0], []
    for _ in range(min(k, len(candidates) - 1) - 1):
        best, origin = (best[:, None] + cost).min(dim=0)
        previous.append(origin)
    at = len(candidates) - 1
    chosen = [at]
    for origin in reversed(previous):
        at = int(origin[at])
        chosen.append(at)
    picked: Tensor = candidates[torch.tensor([0, *reversed(chosen)])]
    return picked
