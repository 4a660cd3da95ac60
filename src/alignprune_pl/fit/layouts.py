"""Which dimension of a tensor is the batch, told by batches of several sizes where one alone leaves it open.

The last batch of a plan may be as long as a sequence, or as there are classes. Batches before it were of another size.
"""

from __future__ import annotations

from typing import Any

Edge = tuple[Any, int]  # a node, and which of its outputs

_MOST = 10_000  # places; a step whose graph is another each time must not fill the memory


class Layouts:
    """What the batches so far have shown: a dimension that once had another size than the batch is not the batch.

    A tensor is known by its place, which are the functions that stand between it and the loss.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[int, frozenset[int]]] = {}

    def begin(self) -> None:
        """Make room for another graph."""
        if len(self._known) > _MOST:
            self._known.clear()

    def see(self, place: tuple[Any, ...], could_be: frozenset[int]) -> tuple[int, frozenset[int]]:
        """Add what one batch shows.

        Args:
            place: The number of the place above, and what leads on from there.
            could_be: The dimensions that are as long as this batch.

        Returns:
            The place's number, and the dimensions that were as long as the batch in all batches.
        """
        known = self._known.get(place)
        seen = (len(self._known), could_be) if known is None else (known[0], known[1] & could_be)
        self._known[place] = seen
        return seen


class Layout:
    """Which dimensions of one graph's tensors could be the batch.

    Args:
        rows: m, the samples of the batch.
        layouts: What batches before it have shown, to which this one adds.
    """

    def __init__(self, rows: int, layouts: Layouts) -> None:
        self.rows = rows
        self._layouts = layouts
        self._seen: dict[Edge, tuple[int, frozenset[int]]] = {}
        layouts.begin()

    def see(self, edge: Edge, shape: tuple[int, ...], above: Edge | None, *how: Any) -> None:
        """Take in a tensor, and how it is reached from one that was taken in before; the first way to it counts."""
        if edge not in self._seen:
            number = -1 if above is None else self._seen[above][0]
            could_be = frozenset(dim for dim, size in enumerate(shape) if size == self.rows)
            self._seen[edge] = self._layouts.see((number, *how, len(shape)), could_be)

    def has_rows(self, edge: Edge) -> bool:
        """Whether the batch may be its first dimension."""
        return 0 in self._seen[edge][1]

    def is_open(self, edge: Edge) -> bool:
        """Whether either of its first two dimensions may be the batch, which makes no difference to one sample."""
        return self.rows > 1 and self._seen[edge][1] >= {0, 1}
