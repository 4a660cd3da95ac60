"""The collectives of an epoch's end, over torch.distributed; without a process group they change nothing."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum ``tensor`` over all ranks, in place; every rank must call it with the same shape and dtype."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor
