"""The Dynamic Alignment Score (DAS): does a sample learn as the clean reference does?"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from alignprune_pl.trajectory import TrajectoryStore

# Rows scored at once: bounds the temporaries to about 100 MB at N = 10, whatever n is.
_ROWS = 1 << 20


def alignment_score(losses: Tensor, reference: Tensor, min_observed: int = 3) -> Tensor:
    """Pearson correlation of each loss trajectory with the reference's, over the epochs that both have.

    Args:
        losses: float[n, T], NaN where a sample was not observed.
        reference: float[T], the reference set's mean loss in the same epochs; NaN where unknown.
        min_observed: Fewer common epochs than this leave the score undefined (two always correlate by 1).

    Returns:
        float32[n] in [-1, 1], high: learns as clean data does. NaN where undefined: too few common epochs,
        or one of the two constant over them within float32's rounding, so that there is no direction.

    Raises:
        ValueError: If the shapes do not fit or ``min_observed`` < 2.

    Source: AlignPrune (arXiv 2604.07306), the Dynamic Alignment Score.

    Example:
        >>> falling, rising = [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]
        >>> alignment_score(torch.tensor([falling, rising]), torch.tensor([0.9, 0.5, 0.1]))
        tensor([ 1., -1.])
    """
    if losses.ndim != 2 or reference.shape != losses.shape[1:]:
        raise ValueError(
            f"losses of shape {tuple(losses.shape)} and a reference of shape {tuple(reference.shape)} are given, "
            "but (n, T) and (T,) are expected; pass one reference loss an epoch."
        )
    if min_observed < 2:
        raise ValueError(f"min_observed={min_observed} is given, but a correlation needs at least 2 epochs.")
    if len(losses) == 0:
        return losses.new_empty(0, dtype=torch.float32)
    reference = reference.float()
    return torch.cat([_pearson(rows.float(), reference, min_observed) for rows in torch.split(losses, _ROWS)])


def _pearson(x: Tensor, y: Tensor, min_observed: int) -> Tensor:
    seen = x.isfinite() & y.isfinite()
    count = seen.sum(dim=1)
    x, x_is_constant = _centre(x, seen, count)
    y, y_is_constant = _centre(y.expand_as(x), seen, count)
    # Normalised before the product: a product of two small norms would underflow.
    x = x / x.norm(dim=1, keepdim=True)
    y = y / y.norm(dim=1, keepdim=True)
    score = (x * y).sum(dim=1).clamp(-1.0, 1.0)
    return score.masked_fill((count < min_observed) | x_is_constant | y_is_constant, torch.nan)


def _centre(values: Tensor, seen: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Values less their mean over ``seen`` (zero elsewhere), and whether only rounding is left of them."""
    values = torch.where(seen, values, 0.0)
    scale = values.abs().amax(dim=1, keepdim=True)
    mean = values.sum(dim=1, keepdim=True) / count.clamp(min=1).unsqueeze(1)
    centred = torch.where(seen, values - mean, 0.0)
    rounding = 4 * torch.finfo(torch.float32).eps * scale
    return centred, (centred.abs().amax(dim=1, keepdim=True) <= rounding).squeeze(1)


class AlignmentScore:
    """DAS: Pearson correlation of a sample's loss trajectory with the reference's; low is suspect.

    Until ``warm_up`` epochs are closed, the last loss is the score, as in the paper.

    Args:
        missing: What stands for an epoch in which a sample was pruned. ``"carry"`` (the paper's form): its
            last observed loss, which is the value a host framework keeps. ``"mask"``: nothing, only the
            epochs in which it was observed are correlated.
        warm_up: Closed epochs before the score applies; by default a whole window of 10, as in the paper.
        min_observed: With fewer common epochs the score is NaN, and a policy keeps the sample.

    Raises:
        ValueError: If ``missing`` is another word, ``warm_up`` < 2 or ``min_observed`` < 2.

    Source: AlignPrune (arXiv 2604.07306).
    """

    low_is: Literal["easy", "suspect"] = "suspect"
    needs_reference = True

    def __init__(
        self,
        missing: Literal["carry", "mask"] = "carry",
        warm_up: int = 10,
        min_observed: int = 3,
    ) -> None:
        if missing not in ("carry", "mask"):
            raise ValueError(f"missing={missing!r} is given, but 'carry' or 'mask' is expected.")
        for name, value in (("warm_up", warm_up), ("min_observed", min_observed)):
            if value < 2:
                raise ValueError(f"{name}={value} is given, but at least 2 epochs are expected to correlate.")
        self.missing = missing
        self.warm_up = warm_up
        self.min_observed = min_observed

    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n] in [-1, 1], NaN where undefined."""
        losses = store.losses(carry=self.missing == "carry")
        return alignment_score(losses, store.reference(), self.min_observed)

    def __repr__(self) -> str:
        return f"AlignmentScore(missing={self.missing!r}, warm_up={self.warm_up}, min_observed={self.min_observed})"
