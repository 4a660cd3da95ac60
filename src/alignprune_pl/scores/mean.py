"""Means over a trajectory's window: of the loss, of EL2N and of the margin."""

from __future__ import annotations

from torch import Tensor

from alignprune_pl.core.contracts import Score
from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.registry import SCORES
from alignprune_pl.core.trajectory import Observable, TrajectoryStore
from alignprune_pl.scores.arguments import check_window


def mean_loss(losses: Tensor) -> Tensor:
    """The mean of each trajectory's observed epochs.

    Args:
        losses: float[n, T], NaN where not observed.

    Returns:
        float32[n], NaN where never observed.

    Example:
        >>> import torch
        >>> mean_loss(torch.tensor([[1.0, torch.nan, 2.0], [torch.nan] * 3]))
        tensor([1.5000,    nan])
    """
    losses = losses.float()
    # One where observed and zero elsewhere, as zero times NaN is NaN: several times as fast as a boolean mask.
    seen = (losses * 0).add_(1).nan_to_num_(0.0)
    return losses.nan_to_num(0.0, 0.0, 0.0).sum(dim=1) / seen.sum(dim=1)  # 0 / 0 is NaN


@SCORES.register("mean_loss")
class MeanLossScore(Score):
    """The mean of the losses observed in the window; low is easy.

    Slower to change than the last loss, and a wrong label's stays high for as long as the network has not memorised it.

    Args:
        window: How many of the last epochs; None for all that the store remembers.

    Raises:
        ValueError: If ``window`` < 2.
    """

    observes: Observable = "loss"
    by_sample: tuple[str, ...] | None = ()

    def __init__(self, window: int | None = None) -> None:
        self.window = check_window(window)

    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n], NaN where it was not observed in the window."""
        return store.each(mean_loss, self.window)


@SCORES.register("el2n")
class EL2NScore(MeanLossScore):
    """The length of the error vector |softmax(logits) - label|, averaged over the window; low is easy.

    Read from the logits of the loss in ``training_step``, ``cross_entropy`` or ``nll_loss``.

    Args:
        window: How many of the last epochs; None for all that the store remembers.

    Raises:
        ValueError: If ``window`` < 2.

    Source: EL2N (Paul et al., NeurIPS 2021, arXiv 2107.07075), whose mean over networks is one over epochs here.
    """

    observes: Observable = "el2n"


@SCORES.register("margin")
class MarginScore(MeanLossScore):
    """The margin of the label's logit over the largest other one, averaged over the window; low is suspect.

    Read from the logits of the loss in ``training_step``, ``cross_entropy`` or ``nll_loss``.

    Args:
        window: How many of the last epochs; None for all that the store remembers.

    Raises:
        ValueError: If ``window`` < 2.

    Source: the area under the margin, AUM (Pleiss et al., NeurIPS 2020, arXiv 2001.10528).
    """

    low_is: Orientation = "suspect"
    observes: Observable = "margin"
