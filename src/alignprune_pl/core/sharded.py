"""Trajectories of more samples than one rank has room for: each rank owns a part of them, and plans that part."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from alignprune_pl.core.checking import check_count, refused
from alignprune_pl.core.distributed import all_reduce_sum, has_ranks
from alignprune_pl.core.over_ranks import Part
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.trajectory import TrajectoryStore, check_recorded

PAIR_BYTES = 8
"""Of a loss on its way to the rank that owns its sample: the sample's place there, int32, and the loss, float32."""

Rule = Callable[[Tensor, Tensor], Tensor]
"""The weight of each sample of a block, float32[b], zero for one that is left out, given their indices and scores."""

# Samples that are handled at once, so that what is computed of them stays in the processor's cache.
_BLOCK = 1 << 18
_MOST_OWNED = (1 << 31) - 1  # places are sent as int32


@dataclass(frozen=True)
class Shard:
    """The samples of one rank: those whose index modulo the number of ranks is its own.

    Attributes:
        num_samples: n, of all ranks together; at least one a rank.
        world_size: The number of ranks.
        rank: From 0.

    Raises:
        ValueError: If a rank would own no sample, or more than 2^31 - 1.

    Example:
        >>> shard = Shard(10, world_size=4, rank=1)
        >>> shard.size, shard.samples(torch.arange(3))
        (3, tensor([1, 5, 9]))
    """

    num_samples: int
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        check_count("world_size", self.world_size, 1, "a number of ranks")
        check_count("num_samples", self.num_samples, self.world_size, "a data set's size", "each rank owns a sample")
        if self.rank not in range(self.world_size):
            raise ValueError(refused("rank", self.rank, f"a rank of {self.world_size}, from 0"))
        if self.size > _MOST_OWNED:
            raise ValueError(
                f"A rank would own {self.size:,} of {self.num_samples:,} samples, but at most {_MOST_OWNED:,} are "
                "expected; share them out over more ranks."
            )

    @property
    def size(self) -> int:
        """How many samples it has: n / world size, rounded up for the first ranks."""
        return -((self.rank - self.num_samples) // self.world_size)

    def samples(self, place: Tensor) -> Tensor:
        """The indices of the samples at places of this shard: int64[k] of int64[k]."""
        return place * self.world_size + self.rank


class ShardedStore:
    """A :class:`~alignprune_pl.core.trajectory.TrajectoryStore` of a rank's own samples, fed by all ranks.

    A rank may train on any samples. Their losses wait until :meth:`exchange`, where each goes to the rank that owns its
    sample. Scores that look at one sample at a time are computed of ``own``: the loss, DAS, the trajectory.

    Memory on a rank with m = ceil(n / world size) samples: ``m * (window * itemsize(dtype) + 16)`` bytes, and 12 for each
    loss that waits. A rank sends 8 bytes for each loss of another's sample, and 8 to each rank at each exchange.

    Args:
        shard: The samples that are this rank's own.
        window: N, the number of epochs remembered.
        dtype: Storage of the trajectories, ``torch.bfloat16`` or ``torch.float32``.

    Attributes:
        own: The trajectories of the own samples, by their places in the shard.

    Raises:
        ValueError: If ``window`` < 2, or ``dtype`` is another one.

    Example:
        >>> store = ShardedStore(Shard(3), window=2)
        >>> store.record(torch.tensor([0, 2]), torch.tensor([1.0, 4.0]))
        >>> store.close_epoch(reference_loss=0.5)
        >>> store.own.losses().T
        tensor([[1., nan, 4.]])
    """

    def __init__(self, shard: Shard, window: int = 10, dtype: torch.dtype = torch.bfloat16) -> None:
        self.shard = shard
        self.own = TrajectoryStore(shard.size, window, dtype)
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def record(self, index: Tensor, loss: Tensor) -> None:
        """Add the losses of one batch, of samples that any rank may own.

        Args:
            index: int64[b], the samples.
            loss: float[b], their losses.

        Raises:
            ValueError: If ``index`` is not int64 or the shapes differ.
        """
        check_recorded(index, loss)
        device = self.own.open_epoch.device
        self._waiting.append((index.to(device), loss.detach().to(device, torch.float32)))

    def leaving(self) -> list[Tensor]:
        """The losses that wait, which they do no longer, for each rank: int32[m, 2] of places and the bits of losses.

        Raises:
            ValueError: If one is of no sample of the data set.
        """
        index, loss = self._waited()
        self._waiting.clear()
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.shard.num_samples:
            raise ValueError(
                f"Losses of samples {int(index.min())} to {int(index.max())} were recorded, but the data set has "
                f"{self.shard.num_samples}; record the index that a sample has in it."
            )
        world = self.shard.world_size
        owner = (index % world).to(torch.int16 if world < 1 << 15 else torch.int64)
        pairs = torch.stack([(index // world).int(), loss.view(torch.int32)], dim=1)
        if world == 1:
            return [pairs]
        sizes = torch.bincount(owner, minlength=world).tolist()
        return list(pairs.index_select(0, owner.argsort(stable=True)).split(sizes))

    def receive(self, pairs: Tensor) -> None:
        """Add losses of own samples, as :meth:`leaving` has them, to the open epoch."""
        place, loss = pairs.unbind(1)
        self.own.record(place.long(), loss.contiguous().view(torch.float32))

    def exchange(self) -> None:
        """Send each loss that waits to the rank that owns its sample; all ranks must call it.

        The end of the epoch does so too. Called before it, fewer losses wait.

        Raises:
            RuntimeError: If there are other ranks, but no process group.
        """
        leaving = self.leaving()
        if self.shard.world_size == 1:
            self.receive(leaving[0])
            return
        if not has_ranks() or dist.get_world_size() != self.shard.world_size:
            raise RuntimeError(
                f"The samples are shared out over {self.shard.world_size} ranks, but "
                f"{dist.get_world_size() if has_ranks() else 'no'} processes work together; start that many, and "
                "torch.distributed in each of them."
            )
        sizes = torch.tensor([len(pairs) for pairs in leaving], device=leaving[0].device)
        coming = torch.empty_like(sizes)
        dist.all_to_all_single(coming, sizes)
        arrived = torch.empty(int(coming.sum()), 2, dtype=torch.int32, device=sizes.device)
        dist.all_to_all_single(arrived, torch.cat(leaving), coming.tolist(), sizes.tolist())
        self.receive(arrived)

    def close_epoch(self, reference_loss: float = math.nan) -> None:
        """Make the open epoch the newest one of all own samples, after an exchange; all ranks must call it.

        Args:
            reference_loss: The reference set's mean loss after this epoch, the same on all ranks; NaN where there is none.
        """
        self.exchange()
        self.own.close_epoch(reference_loss)

    def _waited(self) -> tuple[Tensor, Tensor]:
        """All that waits: int64[m] and float32[m]."""
        if not self._waiting:
            device = self.own.open_epoch.device
            return torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, device=device)
        index, loss = zip(*self._waiting, strict=True)
        return torch.cat(index), torch.cat(loss)

    def state_dict(self) -> dict[str, Any]:
        """All state of this rank, the losses that wait included; tensors are copies on the CPU."""
        index, loss = self._waited()
        return {
            "shard": (self.shard.num_samples, self.shard.world_size, self.shard.rank),
            "own": self.own.state_dict(),
            "index": index.cpu().clone(),
            "loss": loss.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: If it is of another shard, window or dtype.
        """
        here, there = (self.shard.num_samples, self.shard.world_size, self.shard.rank), tuple(state["shard"])
        if here != there:
            raise ValueError(
                f"The checkpoint's trajectories are for (samples, ranks, rank) = {there}, but this one has {here}; resume "
                "each rank with its own state, on as many ranks."
            )
        self.own.load_state_dict(state["own"])
        self._waiting = []
        self.record(state["index"], state["loss"].clone())


@dataclass(frozen=True, eq=False)
class ShardScores:
    """One number for each sample of a shard.

    Attributes:
        shard: Whose they are.
        values: float32[m], finite, or NaN where a sample has none.
    """

    shard: Shard
    values: Tensor

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Of each block of samples their places, their indices, int64[b], and their values, float32[b]."""
        for start in range(0, len(self.values), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(self.values)))
            place = torch.arange(block.start, block.stop, device=self.values.device)
            yield block, self.shard.samples(place), self.values[block]

    def summed(self, part: Part) -> Tensor:
        """What ``part`` says of all samples of all ranks, added up; all ranks must ask for the same."""
        return all_reduce_sum(functools.reduce(torch.add, (part(*block) for _, *block in self.blocks())))

    def plan(self, rule: Rule) -> EpochPlan:
        """The plan of this shard, whose ``keep`` are places in it, in ascending order."""
        weight = torch.empty(len(self.values))
        for block, index, values in self.blocks():
            weight[block] = rule(index, values)
        keep = weight.nonzero().squeeze(1)
        return EpochPlan(keep, weight[keep])
