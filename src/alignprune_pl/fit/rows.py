"""Which sample each row of a tensor on the loss's side is of."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.fit.graph import Cut
from alignprune_pl.fit.nodes import (
    ALONG,
    ELEMENTWISE,
    VIEWS,
    Node,
    children,
    dimensions_of,
    keeps_first,
    kind_of,
    shape_of,
    signed,
)


def samples_of(node: Node, output: int, at: Cut, rows: int) -> Tensor | bool | None:
    """Which sample each row is of: int64[m], None where row i is of sample i, False if it cannot be told.

    A step that flattens tokens into the batch, or picks some elements, does so by functions whose nodes know how.

    Args:
        node: What made the rows, on the loss's side.
        output: Which of its outputs they are.
        at: What separates the loss from the network, where the rows are the samples'.
        rows: The samples of the batch.
    """
    if rows == 1:
        return None
    path: list[tuple[Node, tuple[int, ...], tuple[int, ...]]] = []
    while node not in at.beyond:
        below = [(child, number) for child, number in children(node) if child not in at.aside]
        if not below:
            return False
        path.append((node, shape_of(node, output), shape_of(*below[0])))
        node, output = below[0]
    index: Tensor | None = None
    for node, shape, given in reversed(path):
        step = _rows_through(node, shape, given, index, rows)
        if step is False:
            return False
        index = step  # type: ignore[assignment]
    return index


def _rows_through(
    node: Node, shape: tuple[int, ...], given: tuple[int, ...], index: Tensor | None, rows: int
) -> Tensor | bool | None:
    """The samples of what a function has made, from those of what it was given."""
    kind = kind_of(node)
    if kind == "Index":
        return _rows_picked(node._saved_indices[0], given, index)
    if kind == "IndexSelect" and dimensions_of(node, len(given)) == {0}:
        return _rows_picked(node._saved_index, given, index)
    if kind == "Slice" and dimensions_of(node, len(given)) == {0}:
        start, step = signed(node._saved_start), signed(node._saved_step)
        return _rows(index, given[0])[start if start >= 0 else start + given[0] :: step][: shape[0]]
    if kind == "MaskedSelect":
        mask = node._saved_mask
        if mask.ndim > len(given):
            return False
        of = _rows(index, given[0], mask.device)
        return of.view(-1, *[1] * (len(given) - 1)).expand(given)[mask.expand(given)]
    if len(shape) == 0 or not given:
        return index if kind in ELEMENTWISE or kind in ("NllLoss", "NllLoss2D", "Sum", "Mean") else False
    if kind in VIEWS and shape[0] > given[0] and shape[0] % given[0] == 0:
        return _rows(index, given[0]).repeat_interleave(shape[0] // given[0])
    keeps = kind in ELEMENTWISE or (kind in ALONG and keeps_first(node, len(given)))
    return index if keeps and shape[0] == given[0] else False


def _rows_picked(picked: Tensor | None, given: tuple[int, ...], index: Tensor | None) -> Tensor | bool | None:
    if picked is None:
        return index
    of = _rows(index, given[0], picked.device)
    if picked.dtype in (torch.bool, torch.uint8):
        return of.view(-1, *[1] * (picked.ndim - 1)).expand(picked.shape)[picked.bool()]
    return of[picked] if picked.ndim == 1 else False


def _rows(index: Tensor | None, rows: int, device: torch.device | None = None) -> Tensor:
    return torch.arange(rows, device=device) if index is None else index.to(device or index.device)
