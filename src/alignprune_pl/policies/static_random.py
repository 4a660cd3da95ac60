"""One random subset for the whole run: what a smaller data set would have done."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.growing import resized
from alignprune_pl.core.plan import EpochPlan, permutation
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.policies.subsets import check_ratio, indices, kept_count, members


@POLICIES.register("static_random")
class StaticRandom(Policy):
    """The same random subset of floor((1 - ratio) * n) samples in every epoch; reads no score, weights are one.

    Args:
        ratio: The pruning ratio r in [0, 1).

    Raises:
        ValueError: If ``ratio`` is outside [0, 1).
    """

    reads_score = False
    by_place = True

    def __init__(self, ratio: float = 0.3) -> None:
        self.ratio = check_ratio(ratio)
        self.reset()

    def reset(self) -> None:
        """Let the next plan draw the subset."""
        self._subset: Tensor | None = None
        self._first_new: int | None = None

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        n = len(scores)
        # Drawn in every epoch, so that what is drawn next does not depend on how often an epoch is planned.
        drawn = permutation(n, ask.generator)[: kept_count(n, self.ratio)]
        if self._subset is None or len(self._subset) != n:
            self._subset = members(n, drawn)
        elif self._first_new is not None:
            self._subset[self._first_new :] = members(n, drawn)[self._first_new :]
        self._first_new = None
        return EpochPlan.of(indices(self._subset))

    def grow(self, num_samples: int) -> None:
        """Leave the subset as it is, and draw of the new samples as large a share."""
        if self._subset is not None:
            self._first_new = len(self._subset)
            self._subset = resized(self._subset, num_samples, False)

    def state_dict(self) -> dict[str, Any]:
        """The subset: bool[n]."""
        return {"subset": self._subset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a subset."""
        self._subset = state["subset"]
