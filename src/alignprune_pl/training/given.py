"""What a user gives to a run's folder, as its files take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.fit.answers import Answers
from alignprune_pl.fit.twins import MisconfigurationException


def whole_numbers(name: str, given: Any) -> Tensor | None:
    """int64[n] of what is given, if it is."""
    if given is None:
        return None
    numbers = torch.as_tensor(given).detach().cpu()
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ValueError(
            f"{name}={numbers.dtype}{list(numbers.shape)} is given, but whole numbers, one for each sample, are expected; "
            "give int64[n]."
        )
    return numbers.long()


def writable(name: str, given: Mapping[str, Any] | None, write: Any) -> dict[str, Any]:
    """A mapping that a file can hold."""
    try:
        entries = dict(given or {})
        write(entries)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name} is given, but numbers, words, lists and mappings of them by name are expected ({reason}); convert what "
            "is something else."
        ) from None
    return entries


def check_places(prune: Answers) -> TrajectoryStore:
    """The trajectories of a run whose samples have places, by which the files of its folder name them.

    Raises:
        MisconfigurationException: If it is over a stream.
    """
    if prune.over_stream:
        raise MisconfigurationException(
            "RunFolder names samples by their places, but those of a stream have none; leave it out, and ask AlignPrune for "
            "its suspects and keys."
        )
    return prune.store


def arrays(tensors: Mapping[str, Tensor | None]) -> dict[str, np.ndarray[Any, Any]]:
    """Those that there are."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items() if tensor is not None}
