"""Asymmetric noise: a class is mistaken for one particular other class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from alignprune_pl.noise.base import (
    LabelledData,
    by_class,
    check_another_class,
    check_labels,
    check_noise_ratio,
    flip_exactly,
)


def pair_flip_map(num_classes: int) -> dict[int, int]:
    """Each class mistaken for the next, the last for the first.

    Raises:
        ValueError: If there are fewer than two classes.

    Example:
        >>> pair_flip_map(3)
        {0: 1, 1: 2, 2: 0}
    """
    check_another_class(num_classes)
    return {c: (c + 1) % num_classes for c in range(num_classes)}


def asymmetric_noise(
    labels: Tensor, ratio: float, class_map: Mapping[int, int], num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Flip exactly round(ratio * m) of the m samples of each mapped class to the class that it maps to.

    (Patrini et al., CVPR 2017, arXiv 1609.03683, who mistake CIFAR-10's truck for an automobile and cats for dogs.)
    All flips start from the clean labels, so that two classes that map to each other do not compound.

    Args:
        labels: int64[n], the clean labels.
        ratio: The share to flip within each affected class, in [0, 1).
        class_map: Class to wrong class; classes that are not in it stay clean.
        num_classes: C.
        generator: Draws the samples.

    Returns:
        The noisy labels, int64[n], and the noise mask, bool[n].

    Raises:
        ValueError: If the ratio, a label or the map is out of range.

    Example:
        >>> noisy, mask = asymmetric_noise(torch.tensor([0, 0, 1, 1, 2]), 0.5, {0: 2}, 3, torch.Generator())
        >>> noisy.sort().values, int(mask.sum())
        (tensor([0, 1, 1, 2, 2]), 1)
    """
    check_noise_ratio(ratio)
    check_labels(labels, num_classes)
    outside = [f"{a}->{b}" for a, b in class_map.items() if not (0 <= a < num_classes and 0 <= b < num_classes)]
    if outside:
        raise ValueError(
            f"class_map has {', '.join(outside)}, but classes 0 to {num_classes - 1} are expected; renumber them."
        )
    noisy = labels.clone()
    members = by_class(torch.arange(len(labels)), labels, num_classes)
    for source, target in sorted(class_map.items()):
        noisy[flip_exactly(members[source], ratio, generator)] = target
    return noisy, noisy != labels


class Asymmetric:
    """Asymmetric noise by the data set's class map, or by pair flip where it has none.

    Args:
        ratio: The share to flip within each affected class, in [0, 1).

    Raises:
        ValueError: If ``ratio`` is outside [0, 1).
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = check_noise_ratio(ratio)

    def __call__(self, data: LabelledData, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noisy labels; see :class:`~alignprune_pl.noise.Noise`."""
        flips = pair_flip_map(data.num_classes) if data.class_map is None else data.class_map
        return asymmetric_noise(data.labels, self.ratio, flips, data.num_classes, generator)

    def __repr__(self) -> str:
        return f"Asymmetric(ratio={self.ratio})"
