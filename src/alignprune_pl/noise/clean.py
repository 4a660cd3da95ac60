"""No noise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Clean:
    """Leaves every label as it is."""

    def __call__(
        self, labels: Tensor, num_classes: int, class_map: Mapping[int, int] | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The labels themselves and an empty mask; see :class:`~alignprune_pl.noise.Noise`."""
        return labels.clone(), torch.zeros(len(labels), dtype=torch.bool)

    def __repr__(self) -> str:
        return "Clean()"
