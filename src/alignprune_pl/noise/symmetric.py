"""Symmetric noise: a wrong label is any other class with the same probability."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from alignprune_pl.noise.base import check_labels, check_noise_ratio, flip_exactly


def symmetric_noise(
    labels: Tensor, ratio: float, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Give exactly round(ratio * n) samples one of the other C-1 classes, uniformly.

    The ratio is the true share of wrong labels. (The other convention in the field draws from all C classes,
    so that a share of (C-1)/C of the ratio is wrong.)

    Args:
        labels: int64[n], the clean labels.
        ratio: The share to flip, in [0, 1).
        num_classes: C, at least 2.
        generator: Draws the samples and their classes.

    Returns:
        The noisy labels, int64[n], and the noise mask, bool[n].

    Raises:
        ValueError: If the ratio or a label is out of range, or there is no other class.

    Example:
        >>> noisy, mask = symmetric_noise(torch.zeros(10, dtype=torch.int64), 0.4, 3, torch.Generator())
        >>> int(mask.sum()), bool((noisy[mask] != 0).all())
        (4, True)
    """
    check_noise_ratio(ratio)
    check_labels(labels, num_classes)
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes} is given, but symmetric noise needs another class to flip to.")
    chosen = flip_exactly(torch.arange(len(labels)), ratio, generator)
    shift = torch.randint(1, num_classes, (len(chosen),), generator=generator)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shift) % num_classes
    return noisy, noisy != labels


class Symmetric:
    """Symmetric noise of one ratio; see :func:`symmetric_noise`.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1).
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = check_noise_ratio(ratio)

    def __call__(
        self, labels: Tensor, num_classes: int, class_map: Mapping[int, int] | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw noisy labels; the class map is not used. See :class:`~alignprune_pl.noise.Noise`."""
        return symmetric_noise(labels, self.ratio, num_classes, generator)

    def __repr__(self) -> str:
        return f"Symmetric(ratio={self.ratio})"
