"""Symmetric noise: a wrong label is any other class with the same probability."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_word
from alignprune_pl.noise.base import LabelledData, check_another_class, check_labels, check_noise_ratio, flip_exactly

Over = Literal["others", "all"]


def symmetric_noise(
    labels: Tensor, ratio: float, num_classes: int, generator: torch.Generator, over: Over = "others"
) -> tuple[Tensor, Tensor]:
    """Choose exactly round(ratio * n) samples, and give each a class drawn uniformly.

    The field has two conventions, and a paper's 40 % may mean either. Over the ``"others"``, the C-1 classes that are
    wrong, the ratio is the true share of wrong labels. Over ``"all"`` C classes a chosen sample may get its own again
    (DivideMix: Li et al., ICLR 2020, arXiv 2002.07394). The expected share of wrong labels is then ratio * (C-1) / C.

    Args:
        labels: int64[n], the clean labels.
        ratio: The share to choose, in [0, 1).
        num_classes: C, at least 2.
        generator: Draws the samples and their classes.
        over: ``"others"`` or ``"all"``.

    Returns:
        The noisy labels, int64[n], and the noise mask, bool[n].

    Raises:
        ValueError: If the ratio or a label is out of range, there is no other class, or ``over`` is another word.

    Example:
        >>> noisy, mask = symmetric_noise(torch.zeros(10, dtype=torch.int64), 0.4, 3, torch.Generator())
        >>> int(mask.sum()), bool((noisy[mask] != 0).all())
        (4, True)
    """
    check_noise_ratio(ratio)
    check_labels(labels, num_classes)
    check_another_class(num_classes)
    check_over(over)
    chosen = flip_exactly(torch.arange(len(labels)), ratio, generator)
    shift = torch.randint(1 if over == "others" else 0, num_classes, (len(chosen),), generator=generator)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shift) % num_classes
    return noisy, noisy != labels


def check_over(over: Over) -> Over:
    """``over`` as given, if it is one of the two conventions.

    Raises:
        ValueError: If it is another word.
    """
    return check_word("over", over, ("others", "all"), "'others' makes the ratio the true share of wrong labels")


class Symmetric:
    """Symmetric noise of one ratio, in either convention; see :func:`symmetric_noise`.

    Args:
        ratio: The share of samples to choose, in [0, 1).
        over: ``"others"`` draws from the C-1 wrong classes, ``"all"`` from all C.

    Raises:
        ValueError: If ``ratio`` is outside [0, 1) or ``over`` is another word.
    """

    def __init__(self, ratio: float, over: Over = "others") -> None:
        self.ratio = check_noise_ratio(ratio)
        self.over = check_over(over)

    def __call__(self, data: LabelledData, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noisy labels; see :class:`~alignprune_pl.noise.Noise`."""
        return symmetric_noise(data.labels, self.ratio, data.num_classes, generator, self.over)

    def __repr__(self) -> str:
        return f"Symmetric(ratio={self.ratio}, over={self.over!r})"
