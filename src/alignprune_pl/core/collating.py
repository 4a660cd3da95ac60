"""Whether a loader's ``collate_fn`` leaves the samples of a batch in their order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

ORDER_IS_LOST = (
    "The loader's collate_fn puts the samples of a batch in an order of its own, but losses and weights go to samples by "
    "their place in the batch; let it keep the order (pack_padded_sequence has enforce_sorted=False)."
)


class OrderIsLost:
    """A ``collate_fn`` that tells of another one whether it :func:`loses_order`."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> bool:
        """Of these samples."""
        return loses_order(self.collate, items)


def loses_order(collate: Callable[[list[Any]], Any], items: list[Any]) -> bool:
    """Whether a batch is the same when its samples come the other way round, as of a ``collate_fn`` that sorts.

    What cannot be told is not said to be so: of samples that are alike, or where each call draws at random. The global
    random states are left as they are.

    Args:
        collate: The ``collate_fn``.
        items: What the data set has given.

    Example:
        >>> loses_order(torch.stack, [torch.tensor([2.0]), torch.tensor([1.0])])
        False
        >>> loses_order(lambda items: torch.stack(sorted(items)), [torch.tensor([2.0]), torch.tensor([1.0])])
        True
    """
    try:
        with _random_states_put_back():
            there = list(_parts(collate(deepcopy(items))))  # which it may change in place
        with _random_states_put_back():
            back = list(_parts(collate(deepcopy(items)[::-1])))
    except Exception:  # in training it will say so itself
        return False
    # Such as all ones are alike from both ends, and tell nothing.
    tells = any(part.shape[:1] == (len(items),) and not _same(part, part.flip(0)) for part in there)
    return tells and len(there) == len(back) and all(map(_same, there, back))


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one, other, equal_nan=True) if one.is_floating_point() else torch.equal(one, other)


def _parts(batch: Any) -> Iterator[Tensor]:
    """The tensors of a batch; an array is one, and so is a list of numbers."""
    if isinstance(batch, Tensor):
        yield batch.detach()
    elif isinstance(batch, np.ndarray) and batch.dtype.kind in "biuf":
        yield torch.from_numpy(np.ascontiguousarray(batch))
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _parts(value)
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        if len(batch) and all(isinstance(value, int | float) for value in batch):
            yield torch.tensor(batch)
        else:
            for value in batch:
                yield from _parts(value)


@contextmanager
def _random_states_put_back() -> Iterator[None]:
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
