"""RS2: random subsets without replacement across epochs, so that all samples are used equally often."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.growing import resized
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.policies.subsets import check_ratio, indices, kept_count, members, random_subset


def rs2_draw(unused: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``size`` samples of those not used yet, and once all are used, go on with a new pass over the others.

    Args:
        unused: bool[n], the samples that the running pass has not used.
        size: How many to draw, at most n.
        generator: Draws them.

    Returns:
        The drawn samples and those that are unused afterwards, both bool[n].

    Source: RS2 without replacement (Okanovic et al., ICLR 2024, arXiv 2305.18424).
    """
    left = indices(unused)
    if size < len(left):
        drawn = members(len(unused), random_subset(left, size, generator))
        return drawn, unused & ~drawn
    # The rest of this pass, and of the next one as many as are missing: none of them twice in an epoch.
    first = members(len(unused), random_subset(indices(~unused), size - len(left), generator))
    return unused | first, ~first


@POLICIES.register("rs2")
class RS2(Policy):
    """A random subset of floor((1 - ratio) * n) samples each epoch, without replacement until all have been used.

    After any epoch, no sample has been planned more than once more often than another. Reads no score; weights are one.

    Args:
        ratio: The pruning ratio r in [0, 1).

    Raises:
        ValueError: If ``ratio`` is outside [0, 1).

    Source: RS2 (Okanovic et al., ICLR 2024, arXiv 2305.18424).
    """

    reads_score = False
    by_place = True

    def __init__(self, ratio: float = 0.3) -> None:
        self.ratio = check_ratio(ratio)
        self.reset()

    def reset(self) -> None:
        """Begin with a new pass."""
        self._epoch: int | None = None
        self._before = self._unused = torch.empty(0, dtype=torch.bool)

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        n = len(scores)
        if len(self._unused) != n:
            self._epoch, self._unused = None, torch.ones(n, dtype=torch.bool)
        if ask.epoch != self._epoch:
            self._epoch, self._before = ask.epoch, self._unused
        drawn, self._unused = rs2_draw(self._before, kept_count(n, self.ratio), ask.generator)
        return EpochPlan.of(indices(drawn))

    def grow(self, num_samples: int) -> None:
        """The pass has not used the new samples yet."""
        self._before, self._unused = (resized(part, num_samples, True) for part in (self._before, self._unused))

    def state_dict(self) -> dict[str, Any]:
        """The epoch planned last, and what its pass had not used before and has not used after it: bool[n] each."""
        return {"epoch": self._epoch, "before": self._before, "unused": self._unused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self._epoch, self._before, self._unused = state["epoch"], state["before"], state["unused"]
