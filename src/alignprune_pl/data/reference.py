"""The clean reference set, split off the training data before any label is made wrong."""

from __future__ import annotations

import torch
from torch import Tensor


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
        ValueError: If ``share`` is outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"reference share={share} is given, but a share in (0, 1) is expected; the paper uses 0.01.")
    size = max(1, round(share * len(labels)))
    quota = torch.bincount(labels, minlength=num_classes).double() * size / len(labels)
    count = quota.floor().long()
    missing = size - int(count.sum())
    count[(quota - count).argsort(descending=True, stable=True)[:missing]] += 1
    is_reference = torch.zeros(len(labels), dtype=torch.bool)
    for label, wanted in enumerate(count.tolist()):
        members = (labels == label).nonzero().squeeze(1)
        is_reference[members[torch.randperm(len(members), generator=generator)[:wanted]]] = True
    return (~is_reference).nonzero().squeeze(1), is_reference.nonzero().squeeze(1)
