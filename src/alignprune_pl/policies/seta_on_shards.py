"""SeTa on data that no rank has as a whole: groups from counts in bins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignprune_pl.core.contracts import Ask, Scores
from alignprune_pl.core.over_ranks import (
    BINS,
    NUMBER_BITS,
    VALUE_BITS,
    Numbers,
    Part,
    Summed,
    ordered,
    smallest,
    value_of,
)
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.sharded import Rule, Shard, ShardScores
from alignprune_pl.policies.kmeans import best_borders, borders_of_bins
from alignprune_pl.policies.subsets import anneals, kept_count, window_of_groups

if TYPE_CHECKING:  # it plans by what is here
    from alignprune_pl.policies.seta import SeTa

# Of a value in single precision: the first 16 of its 32 bits, which tell values apart that differ by 1 %.
_REST = VALUE_BITS - 16


def seta_on_shards(policy: SeTa, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
    """SeTa's plan of a shard; all ranks must make theirs.

    Together they keep a random subset of as many samples as ``policy.plan`` does, drawn by their indices, and of it the
    window. Groups are those of k-means on counts in 65,536 equal bins between the lowest and the highest score; where a
    few scores far out make these too wide, in bins that grow with the score.

    Args:
        policy: The host with its settings.
        scores: Of the own samples.
        ask: With the same generator on all ranks, in the same state.
        shard: Whose samples they are.

    Returns:
        The plan, whose ``keep`` are places in the shard.
    """
    own = ShardScores(shard, scores.turned(policy.slides_from))
    windowed = ask.epoch > 0 and not anneals(ask, policy.delta)
    return own.plan(seta_rule(own.summed, policy, Numbers.drawn(ask.generator), ask.epoch if windowed else None))


def seta_rule(summed: Summed, policy: SeTa, numbers: Numbers, epoch: int | None) -> Rule:
    """Keeps the floor((1 - r) * n) samples with the lowest numbers, and of these the epoch's window, with weight one.

    Args:
        summed: Over the scores of all ranks; NaN where a sample has none.
        policy: The host with its settings.
        numbers: Of each sample.
        epoch: Which window; None for no window.
    """
    border = smallest(summed, lambda index, _: numbers(index), NUMBER_BITS, lambda size: kept_count(size, policy.ratio))

    def drawn(index: Tensor) -> Tensor:
        return numbers(index) < border.at

    if epoch is None:
        return lambda index, _: drawn(index).float()
    thresholds = _thresholds(summed, lambda index, values: values[drawn(index) & ~values.isnan()], policy.groups)
    all_equal = thresholds is None
    if thresholds is None:
        # The groups are then random ones of one size.
        thresholds = torch.arange(1, policy.groups, dtype=torch.float64) * border.at / policy.groups
    window = window_of_groups(len(thresholds) + 1, epoch, policy.window_scale)

    def weights(index: Tensor, values: Tensor) -> Tensor:
        grouped = numbers(index) if all_equal else values
        group = torch.bucketize(grouped.double(), thresholds.to(values.device), right=True)
        inside = (group >= window.start) & (group < window.stop)
        return (drawn(index) & (inside | values.isnan())).float()

    return weights


def _thresholds(summed: Summed, scores: Part, k: int) -> Tensor | None:
    """The lowest score of each group but the first, float64[at most k - 1], by k-means; None where all are equal.

    Args:
        summed: Over the samples of all ranks.
        scores: Of a block, float32[at most b], of those samples that are grouped.
        k: How many groups.
    """
    coarse = summed(lambda index, values: torch.bincount(ordered(scores(index, values)) >> _REST, minlength=BINS)).cpu()
    filled = coarse.nonzero().squeeze(1)
    if len(filled) == 0:
        return torch.empty(0, dtype=torch.float64)
    edges = [(value_of(digit << _REST), value_of(((digit + 1) << _REST) - 1)) for digit in filled.tolist()]
    low, width = edges[0][0], (edges[-1][1] - edges[0][0]) / BINS

    def counts(index: Tensor, values: Tensor) -> Tensor:
        bins = ((scores(index, values).double() - low) / width).long()
        return torch.bincount(bins.clamp_(0, BINS - 1), minlength=BINS)

    equal = summed(counts).cpu()
    places = equal.nonzero().squeeze(1)
    if len(places) == 1 and len(filled) == 1:
        return None
    points, weight = low + (places + 0.5) * width, equal[places].double()
    borders = borders_of_bins(points.double(), weight, k, width)
    if borders is None:
        points, weight = torch.tensor(edges, dtype=torch.float64).mean(dim=1), coarse[filled].double()
        borders = best_borders(points, weight, k)
    # A border lies halfway between the means of the groups on its two sides, as where no step of k-means moves it.
    group = torch.bucketize(torch.arange(len(points)), borders, right=True)
    means = torch.bincount(group, weight * points) / torch.bincount(group, weight)
    return (means[1:] + means[:-1]) / 2
