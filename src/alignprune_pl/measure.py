"""How well a score finds the wrong labels, where they are known."""

from __future__ import annotations

import math

from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision


def noise_auroc(suspicion: Tensor, noise_mask: Tensor) -> float:
    """AUROC of a suspicion (float[n], high is suspect) for finding wrong labels (bool[n]).

    Samples without a score are left out; NaN where what remains is of one kind only.
    """
    ranked = _ranked(suspicion, noise_mask)
    return math.nan if ranked is None else float(binary_auroc(*ranked))


def noise_average_precision(suspicion: Tensor, noise_mask: Tensor) -> float:
    """Average precision of a suspicion for finding wrong labels; as :func:`noise_auroc`, and likewise NaN."""
    ranked = _ranked(suspicion, noise_mask)
    return math.nan if ranked is None else float(binary_average_precision(*ranked))


def _ranked(suspicion: Tensor, noise_mask: Tensor) -> tuple[Tensor, Tensor] | None:
    """The scored samples' ranks in [0, 1) and labels; None where they are of one kind only.

    Ranked because torchmetrics would take numbers outside of [0, 1] through a sigmoid and lose their ties.
    """
    scored = ~suspicion.isnan()
    wrong = noise_mask[scored]
    if len(wrong) == 0 or bool(wrong.all()) or not bool(wrong.any()):
        return None
    rank = suspicion[scored].unique(return_inverse=True)[1].double()
    return rank / (rank.max() + 1), wrong.long()
