"""The collectives of an epoch's end, over torch.distributed; without a process group they change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def has_ranks() -> bool:
    """Whether there is a process group, and so others to agree with."""
    return dist.is_available() and dist.is_initialized()


def is_first_rank() -> bool:
    """Whether this process is the one that asks and tells for all."""
    return not has_ranks() or dist.get_rank() == 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum ``tensor`` over all ranks, in place; every rank must call it with the same shape and dtype."""
    if has_ranks():
        dist.all_reduce(tensor)
    return tensor


def gather_on_first(tensor: Tensor) -> list[Tensor]:
    """The ``tensor`` of each rank, on the first one; none on the others. All have the same shape and dtype."""
    if not has_ranks():
        return [tensor]
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())] if is_first_rank() else None
    dist.gather(tensor, parts, dst=0)
    return parts or []


def broadcast_from_first(tensors: Sequence[Tensor]) -> None:
    """Give all ranks the first one's ``tensors``, in place, by one collective for each dtype among them."""
    if not has_ranks():
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in alike])
        dist.broadcast(flat, src=0)
        for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(part.view_as(tensor))


def same_on_all_ranks(value: int, device: torch.device) -> bool:
    """Whether every rank has the same ``value`` (below 2^63); all of them must ask, and all get the same answer."""
    if not has_ranks():
        return True
    largest = torch.tensor([value, -value], dtype=torch.int64, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return bool(largest[0] == -largest[1])


class Agreement:
    """The largest of each of a few numbers over all ranks, told while they go on with something else.

    It goes between processors, whatever the ranks exchange their gradients by, so that no device waits for it. All ranks
    must make one together, and ask it equally often.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo") if has_ranks() and dist.get_world_size() > 1 else None

    @property
    def is_needed(self) -> bool:
        """Whether there are other ranks."""
        return self._group is not None

    def ask(self, *numbers: int) -> Callable[[], list[int]]:
        """Begin to ask; the result waits for the other ranks."""
        told = torch.tensor(numbers)
        work = None if self._group is None else dist.all_reduce(told, dist.ReduceOp.MAX, self._group, async_op=True)

        def answer() -> list[int]:
            if work is not None:
                work.wait()
            largest: list[int] = told.tolist()
            return largest

        return answer


def gathered(tensor: Tensor) -> Tensor:
    """The rows of ``tensor`` of all ranks, one rank's after the other's; every rank may have another number of them."""
    if not has_ranks():
        return tensor
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=tensor.device)
    counts[dist.get_rank()] = len(tensor)
    dist.all_reduce(counts)
    sizes = counts.tolist()
    # Padded, as not every backend gathers tensors of different sizes.
    mine = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    mine[: len(tensor)] = tensor
    all_of_them = [torch.empty_like(mine) for _ in sizes]
    dist.all_gather(all_of_them, mine)
    return torch.cat([part[:size] for part, size in zip(all_of_them, sizes, strict=True)])
