"""What a training step says of its samples itself, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignprune_pl.fit.twins import MisconfigurationException


def checked_losses(losses: Any, size: int, how: str) -> Tensor:
    """float[b], one loss for each of ``size`` samples.

    Raises:
        MisconfigurationException: If they are something else; ``how`` says how they were given.
    """
    if not isinstance(losses, Tensor) or losses.shape != (size,):
        raise MisconfigurationException(
            f"training_step {how} {described(losses)}, but one loss for each of the batch's {size} samples is expected; "
            "give a tensor of shape [batch]."
        )
    return losses


def checked_places(given: Any, size: int) -> Tensor:
    """int64[m], the places in a batch of ``size`` samples of those that the step has.

    Args:
        given: The same, or bool[size].
        size: b, as the sampler asked for them.

    Raises:
        MisconfigurationException: If they are not places in such a batch, each once.
    """
    places = torch.as_tensor(given)
    places = places.nonzero().flatten() if places.dtype == torch.bool else places
    is_one_each = places.ndim == 1 and places.dtype == torch.int64 and 0 < len(places) == len(places.unique())
    if not is_one_each or not 0 <= int(places.min()) <= int(places.max()) < size:
        raise MisconfigurationException(
            f"training_step returned samples={described(given)}, but the places of samples in the batch of {size} are "
            "expected, each once; return int64[m]."
        )
    return places


def described(given: Any) -> str:
    """A value in a message: a tensor's shape, or what it is."""
    return f"{tuple(given.shape)}" if isinstance(given, Tensor) else f"{type(given).__name__}"
