"""Pair flip: every class is mistaken for the next one."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.noise.asymmetric import asymmetric_noise, pair_flip_map
from alignprune_pl.noise.base import LabelledData, check_noise_ratio


class PairFlip:
    """Makes exactly round(ratio * m) of the m labels of each class c the class c + 1, modulo C.

    (Co-teaching: Han et al., NeurIPS 2018, arXiv 1804.06872.) It is asymmetric noise by :func:`pair_flip_map`,
    whatever class map the data set has.

    Args:
        ratio: The share to flip within each class, in [0, 1). From 0.5 on the wrong class is the more frequent one.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1).
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = check_noise_ratio(ratio)

    def __call__(self, data: LabelledData, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noisy labels; see :class:`~alignprune_pl.noise.Noise`."""
        flips = pair_flip_map(data.num_classes)
        return asymmetric_noise(data.labels, self.ratio, flips, data.num_classes, generator)

    def __repr__(self) -> str:
        return f"PairFlip(ratio={self.ratio})"
