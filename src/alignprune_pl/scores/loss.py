"""The last loss, the score of InfoBatch and SeTa."""

from __future__ import annotations

from torch import Tensor

from alignprune_pl.core.contracts import Score
from alignprune_pl.core.registry import SCORES
from alignprune_pl.core.trajectory import TrajectoryStore


@SCORES.register("loss")
class LossScore(Score):
    """The last observed loss of each sample; low is easy.

    A pruned sample keeps the loss of the epoch in which it was last trained. NaN before the first one.

    Source: InfoBatch (arXiv 2303.04947) and SeTa (arXiv 2503.13385).
    """

    by_sample: tuple[str, ...] | None = ()

    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n], NaN where never observed."""
        return store.last_loss()
