"""SeTa: a window of difficulty groups that slides from easy to hard over a random subset."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_count, check_number
from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.orientation import End, check_end
from alignprune_pl.core.plan import EpochPlan, permutation
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.core.sharded import Shard
from alignprune_pl.policies.kmeans import kmeans_1d
from alignprune_pl.policies.seta_on_shards import seta_on_shards
from alignprune_pl.policies.subsets import (
    anneals,
    check_delta,
    check_ratio,
    indices,
    kept_count,
    members,
    window_of_groups,
)


def seta_groups(scores: Tensor, groups: int) -> Tensor:
    """SeTa's difficulty groups: 1-D k-means, or equal chunks in the order given where all scores are equal.

    Args:
        scores: float[n], finite.
        groups: K, how many.

    Returns:
        Integers[n], from 0 (low) without gaps; fewer than K where there are fewer distinct scores.
    """
    if len(scores) and scores.min() == scores.max():
        return torch.arange(len(scores)) * min(groups, len(scores)) // len(scores)
    return kmeans_1d(scores, groups)


def seta_window(scores: Tensor, epoch: int, groups: int, window_scale: float) -> Tensor:
    """Whether each score lies in the epoch's window of round(K * scale) groups, bool[n].

    The window starts at group ``epoch mod (K - W + 1)``. A NaN has no group and lies in every window. Where
    fewer groups come out than were asked for, K is their number.
    """
    unscored = scores.isnan()
    if unscored.all():
        return unscored
    group = seta_groups(scores[~unscored] if unscored.any() else scores, groups)
    window = window_of_groups(int(group.max()) + 1, epoch, window_scale)
    return unscored.masked_scatter(~unscored, (group >= window.start) & (group < window.stop))


@POLICIES.register("seta")
class SeTa(Policy):
    """Keeps a random subset of (1 - r) n samples, and of it a sliding window of difficulty groups.

    Epoch 0 keeps all groups, the last (1 - delta) E epochs a random subset of (1 - r) n. Weights are one. A sample
    without a score is in the random subset or not like any other, and then in every window.
    With a score where low is suspect, such as DAS, the default is AlignPrune's plain substitution: the window slides
    from suspect to well aligned.

    Args:
        ratio: The pruning ratio r in [0, 1) of the random subset (0.1 on CIFAR).
        groups: K, the number of difficulty groups (5 on CIFAR, 10 elsewhere).
        window_scale: W = round(K * window_scale) groups are kept (0.9 on CIFAR), a half rounded to the even number as
            in the authors' code; the paper's text rounds up.
        delta: The share of the epochs with the window.
        slides_from: The end of the score at which the window starts: ``"low"``, whatever it means; ``"easy"`` or
            ``"suspect"``.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1), ``groups`` < 1, ``window_scale`` outside (0, 1],
            ``delta`` outside [0, 1], or ``slides_from`` another word.

    Source: SeTa (arXiv 2503.13385).
    """

    def __init__(
        self,
        ratio: float = 0.1,
        groups: int = 5,
        window_scale: float = 0.9,
        delta: float = 0.875,
        slides_from: End = "low",
    ) -> None:
        self.ratio = check_ratio(ratio)
        self.groups = check_count("groups", groups, 1, "a number of groups", "the paper uses 5 or 10")
        self.window_scale = check_number("window_scale", window_scale, "(0, 1]", "a share", "the paper uses 0.9")
        self.delta = check_delta(delta)
        self.slides_from = check_end("slides_from", slides_from)

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        n = len(scores)
        keep = permutation(n, ask.generator)[: kept_count(n, self.ratio)]
        if ask.epoch > 0 and not anneals(ask, self.delta):
            drawn = scores.of(keep).turned(self.slides_from)
            keep = keep[seta_window(drawn, ask.epoch, self.groups, self.window_scale)]
        return EpochPlan.of(indices(members(n, keep)))

    def plan_on_shards(self, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
        """Plan one epoch of a shard; see :class:`~alignprune_pl.Policy`."""
        return seta_on_shards(self, scores, ask, shard)
