"""The contract of a noise model, and the checks that all share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """Clean labels in, noisy labels and the mask of the wrong ones out."""

    def __call__(
        self, labels: Tensor, num_classes: int, class_map: Mapping[int, int] | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw noisy labels.

        Args:
            labels: int64[n], the clean labels.
            num_classes: C.
            class_map: The data set's map of asymmetric noise, class to wrong class; None where it has none.
            generator: Where every random choice comes from.

        Returns:
            The noisy labels, int64[n], and the noise mask, bool[n].
        """
        ...


def check_noise_ratio(ratio: float) -> float:
    """``ratio`` as given, if it is a share of labels to flip.

    Raises:
        ValueError: If it is outside [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ValueError(
            f"ratio={ratio} is given, but a noise ratio in [0, 1) is expected; 0.4 flips 40 % of the labels."
        )
    return ratio


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels that are not int64 classes from 0 to C-1.

    Raises:
        ValueError: If they are not.
    """
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(
            f"labels are {labels.dtype}{list(labels.shape)}, but int64[n] is expected; convert them first."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels range from {int(labels.min())} to {int(labels.max())}, but classes 0 to {num_classes - 1} are "
            "expected; renumber them."
        )


def flip_exactly(among: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Exactly round(ratio * m) of the m indices ``among`` (int64[m]), drawn without replacement."""
    return among[torch.randperm(len(among), generator=generator)[: round(ratio * len(among))]]
