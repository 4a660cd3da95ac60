"""The labels as they stand in the data set's files, which may be wrong already."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.noise.base import LabelledData


class Given:
    """Takes the labels as they are: those of a web data set with its own wrong ones, for example."""

    def __call__(self, data: LabelledData, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """The given labels, and where they are wrong if anybody knows; see :class:`~alignprune_pl.noise.Noise`."""
        return data.given.clone(), None if data.clean is None else data.given != data.clean

    def __repr__(self) -> str:
        return "Given()"
