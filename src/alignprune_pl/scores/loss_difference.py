"""Correlation of loss differences (CLD): does a sample's loss change when the reference's does?"""

from __future__ import annotations

from torch import Tensor

from alignprune_pl.core.contracts import Score
from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.registry import SCORES
from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.scores.arguments import Missing, check_least, check_missing, check_window
from alignprune_pl.scores.correlation import correlate


def loss_difference_score(losses: Tensor, reference: Tensor, min_observed: int = 3) -> Tensor:
    """Pearson correlation of a trajectory's changes from epoch to epoch with the reference's.

    Args:
        losses: float[n, T], NaN where a sample was not observed.
        reference: float[T], the reference set's mean loss in the same epochs; NaN where unknown.
        min_observed: Fewer common changes than this leave the score undefined.

    Returns:
        float32[n] in [-1, 1], high: changes as clean data does; NaN where undefined.

    Raises:
        ValueError: If the shapes do not fit or ``min_observed`` < 2.

    Source: CLD (arXiv 2508.20230), with the mean over the whole reference instead of one a class.

    Example:
        >>> import torch
        >>> losses = torch.tensor([[4.0, 2.0, 1.5, 1.4], [4.0, 3.9, 3.4, 1.4]])
        >>> loss_difference_score(losses, torch.tensor([2.0, 1.0, 0.8, 0.7])).round(decimals=2)
        tensor([ 1.0000, -0.7400])
    """
    return correlate(losses.diff(dim=1), reference.diff(), "pearson", min_observed)


@SCORES.register("loss_difference")
class LossDifferenceScore(Score):
    """CLD: correlation of a sample's loss differences with the reference's; low is suspect.

    Until ``warm_up`` epochs are closed, the last loss is the score.

    Args:
        missing: What stands for an epoch in which a sample was pruned. With ``"carry"`` it is the last observed loss, a
            change of zero. With ``"mask"`` it is nothing: only changes between two observed epochs count.
        warm_up: Closed epochs before the score applies, at most a whole window.
        min_observed: With fewer common changes the score is NaN, and a policy keeps the sample.
        window: How many of the last epochs are looked at; None for all that the store remembers.

    Raises:
        ValueError: If ``missing`` is another word, ``warm_up`` < 3, or ``min_observed`` or ``window`` < 2.

    Source: CLD (arXiv 2508.20230).
    """

    low_is: Orientation = "suspect"
    needs_reference = True
    by_sample: tuple[str, ...] | None = ()

    def __init__(
        self,
        missing: Missing = "carry",
        warm_up: int = 10,
        min_observed: int = 3,
        window: int | None = None,
    ) -> None:
        self.missing = check_missing(missing)
        self.warm_up = check_least("warm_up", warm_up, 3)
        self.min_observed = check_least("min_observed", min_observed, 2)
        self.min_epochs = min_observed + 1
        self.window = check_window(window)

    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n] in [-1, 1], NaN where undefined."""
        reference = store.reference(self.window)
        return store.each(
            lambda losses: loss_difference_score(losses, reference, self.min_observed),
            self.window,
            carry=self.missing == "carry",
        )
