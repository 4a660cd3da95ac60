"""Trajectories of a stream's samples, which become more as their keys appear."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.distributed import all_reduce_sum, gathered
from alignprune_pl.core.keys import KeyTable
from alignprune_pl.core.trajectory import Observed, TrajectoryStore

# Of what waits: the names of its parts, each with one entry a sample.
_PARTS = ("numbers", "value", "pair", "seen")


class GrowingStore(TrajectoryStore):
    """A :class:`TrajectoryStore` of no samples at first, that learns of them by their keys.

    What an epoch shows waits until :meth:`settle`. A sample's index is then its place among all that have appeared so far,
    those of one epoch in the order of their numbers: it depends neither on the stream's order nor on the number of ranks.

    Memory besides: 24 bytes a sample, and 29 for each that waits.

    Args:
        window: N, the number of epochs remembered.
        dtype: Storage of the ring.
        pairs: Whether it also holds each sample's label and the class that last rivalled it.

    Attributes:
        keys: The indices of the samples that have appeared.
        trained: int64[k], the samples of the epoch that was settled last, on all ranks, each as often as it was trained.

    Example:
        >>> store = GrowingStore(window=2)
        >>> store.wait(torch.tensor([70, 50]), Observed(torch.tensor([4.0, 1.0])))
        >>> store.settle()
        >>> store.close_epoch(reference_loss=0.5)
        >>> store.keys.numbers, store.last_loss()
        (tensor([50, 70]), tensor([1., 4.]))
    """

    def __init__(self, window: int = 10, dtype: torch.dtype = torch.bfloat16, pairs: bool = False) -> None:
        super().__init__(1, window, dtype, pairs)
        self.keys = KeyTable()
        self.trained = torch.empty(0, dtype=torch.int64)
        self._waiting: list[tuple[Tensor, ...]] = []
        self._waiting_classes = 0
        self._is_settled = False
        self._resize(0)

    def wait(self, numbers: Tensor, observed: Observed) -> None:
        """Take what a batch has shown, on its device.

        Args:
            numbers: int64[b] on the CPU, those of the samples' keys.
            observed: Of each of them.
        """
        value = observed.value.detach().float()
        pair = torch.full_like(value, -1, dtype=torch.int64) if observed.pair is None else observed.pair
        seen = torch.ones_like(value, dtype=torch.bool) if observed.seen is None else observed.seen
        self._waiting.append((numbers, value, pair, seen))
        self._waiting_classes = observed.classes or self._waiting_classes

    def waited(self) -> dict[str, Tensor]:
        """What waits on this rank, on the CPU: ``numbers`` and ``pair`` int64[m], ``value`` float32[m], ``seen`` bool[m]."""
        dtypes = (torch.int64, torch.float32, torch.int64, torch.bool)
        columns = zip(*self._waiting, strict=True) if self._waiting else ([torch.empty(0, dtype=t)] for t in dtypes)
        return {name: torch.cat(list(column)).cpu() for name, column in zip(_PARTS, columns, strict=True)}

    def forget_waiting(self) -> None:
        """As if nothing of the open epoch had been trained."""
        self._waiting.clear()

    def settle(self) -> None:
        """Give all keys that have appeared an index, and record what waits; all ranks must call it."""
        if self._is_settled:  # by the run whose checkpoint this one has, which then failed to close the epoch
            return
        found = self.waited()
        device = self.open_epoch.device
        unknown = found["numbers"][self.keys.index(found["numbers"]) < 0].unique()
        self.keys.add(gathered(unknown.to(device)).cpu())
        self._resize(len(self.keys))
        index = self.keys.index(found["numbers"])
        self.record(index, found["value"], found["pair"], self._waiting_classes, found["seen"])
        times = torch.bincount(index, minlength=self.num_samples)
        times = all_reduce_sum(times.to(device)).cpu()
        self.trained = torch.repeat_interleave(torch.arange(self.num_samples), times)
        self.forget_waiting()
        self._is_settled = True

    def close_epoch(self, reference_loss: float = math.nan, reference: Observed | None = None) -> None:
        """Make the settled epoch the newest one; as its base."""
        super().close_epoch(reference_loss, reference)
        self._is_settled = False

    def _resize(self, n: int) -> None:
        """Have room for ``n`` samples, between two epochs."""
        before, self.num_samples = self.num_samples, n
        extra = n - before
        if extra == 0:
            return
        self._ring = resized(self._ring, n, math.nan)
        self._before, self._last = (resized(part, n, math.nan) for part in (self._before, self._last))
        self._pair = resized(self._pair, n if self.pairs else 0, -1)
        self.open_epoch = self.open_epoch.new_zeros((3 if self.pairs else 2) * n + 1)

    def state_dict(self) -> dict[str, Any]:
        """All state, with what waits on this rank."""
        state = {**super().state_dict(), "keys": self.keys.numbers.clone(), "waiting": self.waited()}
        settled = self.trained if self._is_settled else None
        return {**state, "waiting_classes": self._waiting_classes, "settled": settled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: If it belongs to another window or dtype, or has pairs where this one has none.
        """
        self._resize(state["num_samples"])
        super().load_state_dict(state)
        self.keys = KeyTable()
        self.keys.numbers = state["keys"]
        self.keys.add(state["keys"][:0])
        self._waiting = [tuple(state["waiting"][name] for name in _PARTS)]
        self._waiting_classes = state["waiting_classes"]
        self._is_settled = state["settled"] is not None
        self.trained = state["settled"] if self._is_settled else self.trained


def resized(part: Tensor, n: int, fill: float) -> Tensor:
    """A tensor with ``n`` entries along its last dimension: those that it has, and ``fill`` after them."""
    made = part.new_full((*part.shape[:-1], n), fill)
    both = min(n, part.shape[-1])
    made[..., :both] = part[..., :both]
    return made
