"""The contract of a noise model, and the checks and draws that several share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_count, check_number


@dataclass(frozen=True)
class LabelledData:
    """What a noise model may look at: n samples of C classes, and what is known of their labels.

    Attributes:
        given: int64[n], the labels as they stand in the data set's files.
        num_classes: C.
        clean: int64[n], the true labels; None where nobody knows them.
        class_map: The data set's map of asymmetric noise, class to wrong class; None means pair flip.
        features: int64[b] sample indices to their normalised images, flattened, float32[b, S]; None where there are
            no images to look at.
        annotations: The sets of human labels by name, int64[n] each.
        name: The data set, for messages.

    Raises:
        ValueError: If labels are no int64 classes from 0 to C-1, or there are more of one kind than of another.
    """

    given: Tensor
    num_classes: int
    clean: Tensor | None = None
    class_map: Mapping[int, int] | None = None
    features: Callable[[Tensor], Tensor] | None = None
    annotations: Mapping[str, Tensor] = field(default_factory=dict)
    name: str = "the data set"

    def __post_init__(self) -> None:
        check_labels(self.given, self.num_classes, f"{self.name}'s labels")
        others = {f"human labels {name}": labels for name, labels in self.annotations.items()}
        if self.clean is not None:
            others["clean labels"] = self.clean
        for what, labels in others.items():
            check_labels(labels, self.num_classes, f"{self.name}'s {what}")
            if len(labels) != len(self.given):
                raise ValueError(
                    f"{self.name}'s {what} are {len(labels)}, but {len(self.given)} are expected, one for each label "
                    "that it gives; take those of the same samples."
                )

    @property
    def labels(self) -> Tensor:
        """int64[n], what synthetic noise starts from: the clean labels where they are known, else the given ones."""
        return self.given if self.clean is None else self.clean


class Noise(Protocol):
    """A data set's labels in, noisy labels and the mask of the wrong ones out."""

    def __call__(self, data: LabelledData, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw noisy labels.

        Args:
            data: The labels, and what else a noise model may look at; none of it is changed.
            generator: Where every random choice comes from.

        Returns:
            The noisy labels, int64[n], and the noise mask, bool[n]: where they differ from the clean labels. Where
            those are not known, it is where they differ from the given ones, which this model made wrong. None where
            the model made no label wrong itself and nobody knows which are.
        """
        ...


def check_noise_ratio(ratio: float) -> float:
    """``ratio`` as given, if it is a share of labels to flip.

    Raises:
        ValueError: If it is outside [0, 1).
    """
    return check_number("ratio", ratio, "[0, 1)", "a noise ratio", "0.4 flips 40 % of the labels")


def check_labels(labels: Tensor, num_classes: int, what: str = "labels") -> None:
    """Refuse labels that are not int64 classes from 0 to C-1; ``what`` names them in the message.

    Raises:
        ValueError: If they are not.
    """
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(
            f"{what} are {labels.dtype}{list(labels.shape)}, but int64[n] is expected; convert them first."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"{what} range from {int(labels.min())} to {int(labels.max())}, but classes 0 to {num_classes - 1} are "
            "expected; renumber them."
        )


def check_another_class(num_classes: int) -> None:
    """Refuse a single class, whose labels cannot be wrong.

    Raises:
        ValueError: If there are fewer than two classes.
    """
    check_count("num_classes", num_classes, 2, "a number of classes", "a label needs another class to flip to")


def flip_exactly(among: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Exactly round(ratio * m) of the m indices ``among`` (int64[m]), drawn without replacement."""
    return among[torch.randperm(len(among), generator=generator)[: round(ratio * len(among))]]


def by_class(samples: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """The samples (int64[m], indices into ``labels``) of each class from 0 to C-1, each in the order given.

    Example:
        >>> by_class(torch.tensor([0, 2, 3]), torch.tensor([1, 1, 0, 1]), 3)
        (tensor([2]), tensor([0, 3]), tensor([], dtype=torch.int64))
    """
    classes = labels[samples]
    sizes: list[int] = torch.bincount(classes, minlength=num_classes).tolist()
    return torch.split(samples[classes.argsort(stable=True)], sizes)


def draw_class(probabilities: Tensor, position: Tensor) -> Tensor:
    """Sample by inverting the cumulative distribution; a class of probability zero is never drawn.

    Args:
        probabilities: float64[C], or float64[b, C] with one distribution a row; each sums to 1 within rounding.
        position: float64[m] uniform in [0, 1), or float64[b, m] for each row its own.

    Returns:
        int64[m] or int64[b, m], the classes.

    Example:
        >>> draw_class(torch.tensor([0.0, 0.25, 0.75]).double(), torch.tensor([0.0, 0.2, 0.25, 0.99]).double())
        tensor([1, 1, 2, 2])
    """
    cumulative = probabilities.cumsum(dim=-1)
    # Scaled to the sum as it came out: a position, at most 1 - 2^-53, stays below it, and so falls into some class.
    return torch.searchsorted(cumulative, position * cumulative[..., -1:], right=True)
