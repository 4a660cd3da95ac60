"""The Dynamic Alignment Score (DAS): does a sample learn as the clean reference does?"""

from __future__ import annotations

from torch import Tensor

from alignprune_pl.core.contracts import Score
from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.registry import SCORES
from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.scores.arguments import Missing, check_least, check_missing, check_window
from alignprune_pl.scores.correlation import Correlation, check_correlation, correlate


def alignment_score(
    losses: Tensor, reference: Tensor, min_observed: int = 3, correlation: Correlation = "pearson"
) -> Tensor:
    """Correlation of each loss trajectory with the reference's, over the epochs that both have.

    Args:
        losses: float[n, T], NaN where a sample was not observed.
        reference: float[T], the reference set's mean loss in the same epochs; NaN where unknown.
        min_observed: Fewer common epochs than this leave the score undefined (two always correlate by 1).
        correlation: ``"pearson"``, the paper's; ``"spearman"`` or ``"cosine"`` from its ablation.

    Returns:
        float32[n] in [-1, 1], high: learns as clean data does. NaN where undefined: too few common epochs,
        or one of the two constant over them within float32's rounding (zero, for the cosine), so that there is no
        direction.

    Raises:
        ValueError: If the shapes do not fit, ``min_observed`` < 2 or ``correlation`` is another word.

    Source: AlignPrune (arXiv 2604.07306), the Dynamic Alignment Score.

    Example:
        >>> import torch
        >>> falling, rising = [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]
        >>> alignment_score(torch.tensor([falling, rising]), torch.tensor([0.9, 0.5, 0.1])).round(decimals=4)
        tensor([ 1., -1.])
    """
    return correlate(losses, reference, correlation, min_observed)


@SCORES.register("das")
class AlignmentScore(Score):
    """DAS: correlation of a sample's loss trajectory with the reference's; low is suspect.

    Until ``warm_up`` epochs are closed, the last loss is the score, as in the paper.

    Args:
        missing: What stands for an epoch in which a sample was pruned. ``"carry"`` (the paper's form): its
            last observed loss, which is the value a host framework keeps. ``"mask"``: nothing, only the
            epochs in which it was observed are correlated.
        warm_up: Closed epochs before the score applies, at most a whole window; 10 as in the paper.
        min_observed: With fewer common epochs the score is NaN, and a policy keeps the sample.
        correlation: ``"pearson"``, the paper's best; ``"spearman"`` or ``"cosine"``.
        window: How many of the last epochs are correlated; None for all that the store remembers.

    Raises:
        ValueError: If ``missing`` or ``correlation`` is another word, or ``warm_up``, ``min_observed`` or ``window`` < 2.

    Source: AlignPrune (arXiv 2604.07306).
    """

    low_is: Orientation = "suspect"
    needs_reference = True
    by_sample: tuple[str, ...] | None = ()

    def __init__(
        self,
        missing: Missing = "carry",
        warm_up: int = 10,
        min_observed: int = 3,
        correlation: Correlation = "pearson",
        window: int | None = None,
    ) -> None:
        check_correlation(correlation, min_observed)
        self.missing = check_missing(missing)
        self.warm_up = check_least("warm_up", warm_up, 2)
        self.min_observed = self.min_epochs = min_observed
        self.correlation = correlation
        self.window = check_window(window)

    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n] in [-1, 1], NaN where undefined."""
        reference = store.reference(self.window)
        return store.each(
            lambda losses: alignment_score(losses, reference, self.min_observed, self.correlation),
            self.window,
            carry=self.missing == "carry",
        )
