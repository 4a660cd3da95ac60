"""Epsilon-greedy: the highest scores, and a few others at random."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_number
from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.orientation import End, check_end
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.policies.subsets import check_ratio, highest, indices, kept_count, random_subset, share_count


def epsilon_greedy_mask(scores: Tensor, size: int, epsilon: float, generator: torch.Generator) -> Tensor:
    """The size - floor(epsilon * size) highest scores, and floor(epsilon * size) of the others at random: bool[n].

    Args:
        scores: float[n]; NaN, which is no score, counts as the highest.
        size: How many to keep; more where more have no score.
        epsilon: Their share that is drawn at random, in [0, 1].
        generator: Draws them, and decides among equal scores at the border.
    """
    explored = share_count(size, epsilon)
    keep = highest(scores, size - explored, generator)
    room = max(0, min(explored, size - int(keep.sum())))
    return keep.index_fill_(0, random_subset(indices(~keep), room, generator), True)


@POLICIES.register("epsilon_greedy")
class EpsilonGreedy(Policy):
    """Keeps floor((1 - ratio) * n) samples: those with the highest scores, and a share epsilon drawn from the others.

    What is drawn gets a fresh score, and so a way back. Samples without a score are kept before all others; weights
    are one.

    Args:
        ratio: The pruning ratio r in [0, 1).
        epsilon: Share of the kept samples that is drawn at random.
        prunes: The end of the score that is pruned: ``"low"`` as in the original, whatever it means; ``"easy"`` or
            ``"suspect"``.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1), ``epsilon`` outside [0, 1], or ``prunes`` another word.

    Source: Raju, Daruwalla and Lipasti 2021 (arXiv 2111.12621); by their score, the exponential mean of the losses,
    with ``score=EmaLossScore()``.
    """

    def __init__(self, ratio: float = 0.3, epsilon: float = 0.1, prunes: End = "low") -> None:
        self.ratio = check_ratio(ratio)
        self.epsilon = check_number("epsilon", epsilon, "[0, 1]", "a share", "0.1 draws a tenth of the kept samples")
        self.prunes = check_end("prunes", prunes)

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        size = kept_count(len(scores), self.ratio)
        return EpochPlan.of(indices(epsilon_greedy_mask(scores.turned(self.prunes), size, self.epsilon, ask.generator)))
