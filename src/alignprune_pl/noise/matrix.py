"""Noise by a transition matrix, and the transition matrix of labels that are there already."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from alignprune_pl.noise.base import LabelledData, by_class, check_labels, draw_class

# How far a row's sum may be from 1.
_TOLERANCE = 1e-6


def matrix_noise(labels: Tensor, matrix: Tensor, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw each noisy label from its class's row of a transition matrix (Patrini et al., CVPR 2017, arXiv 1609.03683).

    Args:
        labels: int64[n], the clean labels.
        matrix: float[C, C]; in row y, column k is the probability that a label y becomes k.
        num_classes: C.
        generator: Draws the labels, each independently.

    Returns:
        The noisy labels, int64[n], and the noise mask, bool[n].

    Raises:
        ValueError: If a label is out of range, or the matrix is not C x C or its rows are no distributions.

    Example:
        >>> matrix = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
        >>> matrix_noise(torch.tensor([0, 1, 0]), matrix, 2, torch.Generator())
        (tensor([1, 1, 1]), tensor([ True, False,  True]))
    """
    check_labels(labels, num_classes)
    check_matrix(matrix)
    if len(matrix) != num_classes:
        raise ValueError(
            f"the transition matrix has {len(matrix)} rows, but {num_classes} are expected, one for each class; "
            "take the matrix of this data set."
        )
    position = torch.rand(len(labels), dtype=torch.float64, generator=generator)
    noisy = labels.clone()
    for row, members in zip(matrix.double(), by_class(torch.arange(len(labels)), labels, num_classes), strict=True):
        noisy[members] = draw_class(row, position[members])
    return noisy, noisy != labels


def transition_matrix(clean: Tensor, noisy: Tensor, num_classes: int) -> Tensor:
    """How often each class's labels became each class.

    Args:
        clean: int64[n].
        noisy: int64[n].
        num_classes: C.

    Returns:
        float64[C, C]; in row y, column k is the share of the samples of class y that are labelled k. The row of a
        class without samples is NaN.

    Raises:
        ValueError: If a label is out of range, or there are more labels of one kind than of the other.

    Example:
        >>> transition_matrix(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
        tensor([[0.5000, 0.5000], [0.0000, 1.0000]], dtype=torch.float64)
    """
    check_labels(clean, num_classes, "clean labels")
    check_labels(noisy, num_classes, "noisy labels")
    if len(clean) != len(noisy):
        raise ValueError(
            f"{len(clean)} clean and {len(noisy)} noisy labels are given, but one of each a sample is expected; "
            "take those of the same samples."
        )
    counts = torch.bincount(num_classes * clean + noisy, minlength=num_classes**2).view(num_classes, num_classes)
    return counts.double() / counts.sum(dim=1, keepdim=True)  # 0 / 0 is NaN


def check_matrix(matrix: Tensor) -> None:
    """Refuse a matrix that is not square or has a row that is no distribution.

    Raises:
        ValueError: If it is.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.is_floating_point():
        raise ValueError(
            f"the transition matrix is {matrix.dtype}{list(matrix.shape)}, but float[C, C] is expected; give one row "
            "and one column for each class."
        )
    for y, row in enumerate(matrix.double()):
        outside = row[~((row >= 0) & (row <= 1))]
        if len(outside):
            raise ValueError(
                f"row {y} (counted from 0) of the transition matrix has the entry {float(outside[0])}, but "
                "probabilities from 0 to 1 are expected; correct it."
            )
        if abs(float(row.sum()) - 1) > _TOLERANCE:
            raise ValueError(
                f"row {y} (counted from 0) of the transition matrix sums to {float(row.sum()):.9g}, but 1 is expected; "
                f"divide it by its sum, or transpose the matrix if column {y} says where class {y} goes."
            )


class TransitionMatrix:
    """Noise by a transition matrix; see :func:`matrix_noise`.

    Args:
        matrix: C rows of C probabilities. In row y, column k is the probability that a label y becomes k. It is a nested
            sequence, a tensor, or the path of a text file: a row a line, numbers separated by commas or white space.

    Attributes:
        probabilities: float64[C, C].

    Raises:
        ValueError: If the file cannot be read, or the matrix is not square or has a row that is no distribution.
    """

    def __init__(self, matrix: Sequence[Sequence[float]] | Tensor | str | os.PathLike[str]) -> None:
        self.matrix = matrix
        rows = _read(Path(matrix)) if isinstance(matrix, str | os.PathLike) else _numbers(matrix)
        for y, row in enumerate(rows):
            if len(row) != len(rows):
                raise ValueError(
                    f"row {y} (counted from 0) of the transition matrix has {len(row)} entries, but {len(rows)} are "
                    "expected, one for each row; give one row and one column for each class."
                )
        self.probabilities = torch.tensor(rows, dtype=torch.float64)
        check_matrix(self.probabilities)

    def __call__(self, data: LabelledData, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noisy labels; see :class:`~alignprune_pl.noise.Noise`.

        Raises:
            ValueError: If the matrix is not C x C.
        """
        return matrix_noise(data.labels, self.probabilities, data.num_classes, generator)

    def __repr__(self) -> str:
        shown = os.fspath(self.matrix) if isinstance(self.matrix, str | os.PathLike) else self.probabilities.tolist()
        return f"TransitionMatrix(matrix={shown!r})"


def _numbers(matrix: Sequence[Sequence[float]] | Tensor) -> list[list[float]]:
    try:
        if any(isinstance(row, str) for row in matrix):  # else its characters would pass for numbers
            raise TypeError
        return [[float(entry) for entry in row] for row in matrix]
    except (TypeError, ValueError):
        raise ValueError(
            f"matrix={matrix!r} is given, but C rows of C numbers, or the path of a file with them, are expected; "
            "write [[0.9, 0.1], [0.2, 0.8]] for two classes."
        ) from None


def _read(path: Path) -> list[list[float]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"matrix={str(path)!r} is given, but that file cannot be read as text ({error}); give the path of a file "
            "with a line of numbers for each class."
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append([float(entry) for entry in re.split(r"\s*,\s*|\s+", line.strip())])
            except ValueError:
                raise ValueError(
                    f"line {number} of {path} is {line.strip()[:60]!r}, but numbers separated by commas or white space "
                    "are expected; correct it."
                ) from None
    return rows
