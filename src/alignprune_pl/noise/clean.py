"""No noise."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.noise.base import LabelledData


class Clean:
    """Takes the clean labels, whatever stands in the data set's files."""

    def __call__(self, data: LabelledData, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The clean labels and an empty mask; see :class:`~alignprune_pl.noise.Noise`.

        Raises:
            ValueError: If nobody knows the clean labels.
        """
        if data.clean is None:
            raise ValueError(f"{data.name}'s clean labels are not known; noise=given trains on its labels as they are.")
        return data.clean.clone(), torch.zeros(len(data.clean), dtype=torch.bool)

    def __repr__(self) -> str:
        return "Clean()"
