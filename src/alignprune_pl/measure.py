"""How well a score finds the wrong labels, where they are known."""

from __future__ import annotations

import math

from torch import Tensor
from torchmetrics.functional.classification import binary_auroc


def noise_auroc(suspicion: Tensor, noise_mask: Tensor) -> float:
    """AUROC of a suspicion (float[n], high is suspect) for finding wrong labels (bool[n]).

    Samples without a score are left out; NaN where what remains is of one kind only.
    """
    scored = ~suspicion.isnan()
    wrong = noise_mask[scored]
    if len(wrong) == 0 or bool(wrong.all()) or not bool(wrong.any()):
        return math.nan
    # Ranked to (0, 1), or torchmetrics would take numbers outside of it through a sigmoid and lose their ties.
    rank = suspicion[scored].unique(return_inverse=True)[1].double()
    return float(binary_auroc(rank / (rank.max() + 1), wrong.long()))
