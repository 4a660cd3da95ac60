"""The collectives of an epoch's end, over torch.distributed; without a process group they change nothing."""

from __future__ import annotations

from collections.abc import Sequence

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
