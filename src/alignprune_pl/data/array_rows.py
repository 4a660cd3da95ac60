"""Rows of a NumPy array that stays where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

_BLOCK = 1 << 20  # numbers: 8 MB in float64
# What torch calculates with is read as it is, and other numbers as the next that hold them all.
_READ_AS = {"bool": "int8", "uint16": "int32", "uint32": "int64", "uint64": "float64", "longdouble": "float64"}


def as_stored(rows: Array) -> Array:
    """The rows as they are."""
    return rows


def with_one_channel(rows: Array) -> Array:
    """Images [b, H, W] as [b, 1, H, W], and numbers [b] as [b, 1]."""
    return rows[:, None]


def channels_first(rows: Array) -> Array:
    """Images [b, H, W, C] as [b, C, H, W]."""
    return np.moveaxis(rows, -1, 1)


class ArrayRows:
    """Rows of an array, read when they are asked for: those of a mapped file stay on disk until then.

    Args:
        array: Numbers [n, ...]. Of a ``numpy.memmap`` worker processes get the place in its file, and no copy.
        layout: From rows as they are stored to rows as they are served.
        at: int64[k], the rows that there are, in their order; None for all.

    Attributes:
        shape: As they are served.
        dtype: Likewise.

    Example:
        >>> rows = ArrayRows(np.arange(6, dtype=np.float32).reshape(3, 2))
        >>> rows.subset(torch.tensor([2, 0]))[torch.tensor([0])]
        tensor([[4., 5.]])
    """

    def __init__(self, array: Array, layout: Callable[[Array], Array] = as_stored, at: Array | None = None) -> None:
        self._array = array
        self._layout = layout
        self._at = at
        name = "longdouble" if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.name
        self._dtype = np.dtype(_READ_AS.get(name, name))  # in the byte order of this machine
        self.shape: tuple[int, ...] = (len(self), *layout(array[:0]).shape[1:])
        self.dtype: torch.dtype = torch.from_numpy(np.empty(0, self._dtype)).dtype

    def __len__(self) -> int:
        return len(self._array if self._at is None else self._at)

    def __getitem__(self, index: int | Tensor) -> Tensor:
        """One row, or those of int64[b] by one indexing, as a copy of their own."""
        if not isinstance(index, Tensor):
            return self[torch.tensor([index])][0]
        at = index.numpy() if self._at is None else self._at[index.numpy()]
        return torch.from_numpy(np.ascontiguousarray(self._read(self._array[at])))

    def subset(self, indices: Tensor) -> ArrayRows:
        """The rows ``indices`` (int64[k]), in their order; none is read."""
        at = indices.numpy()
        return ArrayRows(self._array, self._layout, at if self._at is None else self._at[at])

    def stacked(self) -> Tensor:
        """All rows, in memory."""
        return self[torch.arange(len(self))]

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """All rows, some at a time, each block with the place of its first row."""
        size = max(1, _BLOCK // max(1, int(np.prod(self.shape[1:]))))
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield start, self._read(self._array[part if self._at is None else self._at[part]])

    def _read(self, rows: Array) -> Array:
        return self._layout(np.asarray(rows).astype(self._dtype, copy=False))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if isinstance(self._array, np.memmap):
            mapped = state.pop("_array")
            state["_place"] = (mapped.filename, mapped.dtype, "r", mapped.offset, mapped.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_place" in state:
            state["_array"] = np.memmap(*state.pop("_place"))
        vars(self).update(state)
