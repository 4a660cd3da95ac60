"""Hosts on data that no rank has as a whole: each plans its own samples, and the plans together are one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignprune_pl.core.contracts import Ask, Scores
from alignprune_pl.core.over_ranks import (
    NUMBER_BITS,
    VALUE_BITS,
    Border,
    Numbers,
    Summed,
    exact_mean,
    ordered,
    smallest,
)
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.sharded import Rule, Shard, ShardScores
from alignprune_pl.policies.subsets import anneals, kept_count

if TYPE_CHECKING:  # they plan by what is here
    from alignprune_pl.policies.infobatch import InfoBatch
    from alignprune_pl.policies.random import Random
    from alignprune_pl.policies.small_loss import SmallLoss


def infobatch_on_shards(policy: InfoBatch, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
    """InfoBatch's plan of a shard; all ranks must make theirs.

    Together they keep as many samples as ``policy.plan`` would on all scores, of the same well-learned ones, and with the
    same weights. Which of these are kept is drawn by their indices.

    Args:
        policy: The host with its settings.
        scores: Of the own samples.
        ask: With the same generator on all ranks, in the same state.
        shard: Whose samples they are.

    Returns:
        The plan, whose ``keep`` are places in the shard.
    """
    if anneals(ask, policy.delta):
        return EpochPlan.of(torch.arange(len(scores)))
    own = ShardScores(shard, scores.turned(policy.prunes))
    numbers = Numbers.drawn(ask.generator)
    return own.plan(infobatch_rule(own.summed, exact_mean(own.summed), policy.ratio, numbers, rescale=policy.rescale))


def small_loss_on_shards(policy: SmallLoss, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
    """Small-loss selection's plan of a shard; all ranks must make theirs.

    Together they keep the samples that ``policy.plan`` would on all scores. Of equal scores at the border as many are kept,
    drawn by their indices.

    Args:
        policy: The host with its settings.
        scores: Of the own samples.
        ask: With the same generator on all ranks, in the same state.
        shard: Whose samples they are.

    Returns:
        The plan, whose ``keep`` are places in the shard.
    """
    own = ShardScores(shard, scores.suspicion)
    size = kept_count(shard.num_samples, policy.ratio)
    return own.plan(smallest_rule(own.summed, shard.num_samples, size, Numbers.drawn(ask.generator)))


def random_on_shards(policy: Random, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
    """Random pruning's plan of a shard; all ranks must make theirs.

    Together they keep as many samples as ``policy.plan`` would, drawn by their indices.

    Args:
        policy: The host with its settings.
        scores: Of the own samples, not read.
        ask: With the same generator on all ranks, in the same state.
        shard: Whose samples they are.

    Returns:
        The plan, whose ``keep`` are places in the shard.
    """
    own = ShardScores(shard, scores.values)
    return own.plan(random_rule(own.summed, policy.ratio, Numbers.drawn(ask.generator)))


def infobatch_rule(summed: Summed, mean: float, ratio: float, numbers: Numbers, *, rescale: bool = True) -> Rule:
    """Keeps floor((1 - r) * m) of the m samples that score below the mean of all, those with the lowest numbers.

    Args:
        summed: Over the scores of all ranks; a NaN is none, and its sample is kept with weight one.
        mean: Of all scores; NaN where there are none.
        ratio: The pruning ratio r in [0, 1); above 0.9 it acts as 0.9.
        numbers: Of each sample.
        rescale: Whether those that are kept weigh 1 / (1 - r).
    """
    ratio = min(ratio, 0.9)
    border = smallest(
        summed,
        lambda index, values: numbers(index[values.double() < mean]),
        NUMBER_BITS,
        lambda well_learned: kept_count(well_learned, ratio),
    )

    scale = 1 / (1 - ratio) if rescale else 1.0

    def weights(index: Tensor, values: Tensor) -> Tensor:
        well_learned = values.double() < mean
        kept = (numbers(index[well_learned]) < border.at).float()
        return torch.ones_like(values).masked_scatter_(well_learned, kept * scale)

    return weights


def smallest_rule(summed: Summed, num_samples: int, size: int, numbers: Numbers) -> Rule:
    """Keeps the ``size`` samples with the smallest values, with weight one; samples without a value come first.

    Args:
        summed: Over the values of all ranks; NaN where a sample has none.
        num_samples: n, of all ranks together.
        size: How many to keep; more where more have no value.
        numbers: Of each sample; of equal values at the border, those with the lowest numbers are kept.
    """
    border = smallest(
        summed,
        lambda _, values: ordered(values[~values.isnan()]),
        VALUE_BITS,
        lambda valued: size - (num_samples - valued),
    )
    # At the border there are often no others, and then there is nothing to draw.
    drawn = Border(0)
    if border.room:
        drawn = smallest(
            summed,
            lambda index, values: numbers(index[ordered(values) == border.at]),
            NUMBER_BITS,
            lambda _: border.room,
        )

    def weights(index: Tensor, values: Tensor) -> Tensor:
        keys = ordered(values)  # no value has the key of a NaN
        at = keys == border.at
        kept = values.isnan() | (keys < border.at)
        return kept.masked_scatter_(at, numbers(index[at]) < drawn.at).float()

    return weights


def random_rule(summed: Summed, ratio: float, numbers: Numbers) -> Rule:
    """Keeps the floor((1 - r) * n) samples with the lowest numbers, with weight one.

    Args:
        summed: Over the samples of all ranks.
        ratio: The pruning ratio r in [0, 1).
        numbers: Of each sample.
    """
    border = smallest(summed, lambda index, _: numbers(index), NUMBER_BITS, lambda size: kept_count(size, ratio))
    return lambda index, _: (numbers(index) < border.at).float()
