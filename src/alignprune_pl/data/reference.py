"""The clean reference set, split off the training data before any label is made wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.noise.base import by_class, check_labels


def reference_split(
    labels: Tensor, share: float, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split off a stratified share of max(1, round(share * n)) samples.

    A class gets its exact quota rounded down, and the classes with the largest remainders one more.

    Args:
        labels: int64[n], the clean labels.
        share: Of the samples, in (0, 1); the paper's is about 0.01.
        num_classes: C.
        generator: Draws the samples.

    Returns:
        The indices that remain for training and those of the reference, both int64 and ascending.

    Raises:
        ValueError: If ``share`` is outside (0, 1) or leaves nothing to train on, or a label is out of range.

    Example:
        >>> train, reference = reference_split(torch.arange(100) % 4, 0.08, 4, torch.Generator())
        >>> len(train), torch.bincount(torch.arange(100)[reference] % 4).tolist()
        (92, [2, 2, 2, 2])
    """
    if not 0 < share < 1:
        raise ValueError(f"reference share={share} is given, but a share in (0, 1) is expected; the paper uses 0.01.")
    check_labels(labels, num_classes)
    size = max(1, round(share * len(labels)))
    if size >= len(labels):
        raise ValueError(
            f"reference share={share} of {len(labels)} samples is given, but that leaves nothing to train on; "
            "use a smaller share or more data."
        )
    quota = torch.bincount(labels, minlength=num_classes).double() * size / len(labels)
    count = quota.floor().long()
    missing = size - int(count.sum())
    count[(quota - count).argsort(descending=True, stable=True)[:missing]] += 1
    is_reference = torch.zeros(len(labels), dtype=torch.bool)
    for members, wanted in zip(by_class(torch.arange(len(labels)), labels, num_classes), count.tolist(), strict=True):
        is_reference[members[torch.randperm(len(members), generator=generator)[:wanted]]] = True
    return (~is_reference).nonzero().squeeze(1), is_reference.nonzero().squeeze(1)
