"""The trajectories of the samples that a rank trains itself, and how a checkpoint has those of all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.distributed import gather_on_first
from alignprune_pl.core.sharded import Shard
from alignprune_pl.core.trajectory import TrajectoryStore

# Samples of each rank that are sent at once.
_BLOCK = 1 << 18


class ShardTrajectories(TrajectoryStore):
    """A :class:`~alignprune_pl.core.trajectory.TrajectoryStore` of a shard, where each rank trains the samples that it owns.

    Nothing is sent, unlike in a :class:`~alignprune_pl.core.sharded.ShardedStore`. Samples are recorded by their indices in
    the data set; all that it says of them is by their places in the shard.

    Args:
        shard: The samples.
        window: N, the number of epochs remembered.
        dtype: Storage of the trajectories.

    Attributes:
        shard: The samples; ``store.shard.samples(place)`` are indices in the data set.

    Example:
        >>> store = ShardTrajectories(Shard(5, world_size=2, rank=1), window=2)
        >>> store.record(torch.tensor([3]), torch.tensor([0.5]))
        >>> store.close_epoch()
        >>> store.shard.samples(torch.arange(store.num_samples)), store.last_loss()
        (tensor([1, 3]), tensor([   nan, 0.5000]))
    """

    def __init__(self, shard: Shard, window: int = 10, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__(shard.size, window, dtype)
        self.shard = shard

    def record(
        self, index: Tensor, loss: Tensor, pair: Tensor | None = None, classes: int = 0, seen: Tensor | None = None
    ) -> None:
        """Add the losses of one batch of own samples to the open epoch; see its base."""
        super().record(index // self.shard.world_size, loss, pair, classes, seen)

    def state_of_ranks(self) -> dict[str, Any]:
        """The state that a store of all samples would have, on the first rank; all ranks must ask together."""
        of_samples, device = self.open_epoch[:-1].view(2, self.num_samples), self.open_epoch.device
        counts = torch.tensor([self.nonfinite, int(self.open_epoch[-1])], device=device)
        nonfinite, left_out = torch.stack(gather_on_first(counts) or [counts]).sum(dim=0).tolist()
        open_epoch = of_all_ranks(of_samples, self.shard, device).flatten()
        return {
            "num_samples": self.shard.num_samples,
            "window": self.window,
            "epochs": self.epochs,
            "nonfinite": nonfinite,
            "ring": of_all_ranks(self._ring, self.shard, device),
            "reference": self._reference.cpu().clone(),
            "before": of_all_ranks(self._before, self.shard, device),
            "last": of_all_ranks(self._last, self.shard, device),
            "open_epoch": torch.cat([open_epoch, torch.tensor([float(left_out)])]),
            "pairs": False,
            "pair": torch.empty(0, dtype=torch.int32),
            "classes": 0,
            "newest_reference": self.newest_reference.as_list(),
        }

    def load_state_of_ranks(self, state: dict[str, Any]) -> None:
        """Take over the own part of what :meth:`state_of_ranks` gave, on as many ranks or others.

        Raises:
            ValueError: If it is of another data set size, window or dtype.
        """
        n = self.shard.num_samples
        if state["num_samples"] != n:
            raise ValueError(
                f"The checkpoint's trajectories are of {state['num_samples']} samples, but this run has {n}; resume with "
                "the data set of the run that wrote it."
            )
        own = {name: own_part(state[name], self.shard) for name in ("ring", "before", "last")}
        open_epoch = own_part(state["open_epoch"][:-1].view(2, n), self.shard).flatten()
        # What is of no sample is the first rank's to hold.
        is_first = self.shard.rank == 0
        left_out = state["open_epoch"][-1:] * is_first
        nonfinite = state["nonfinite"] * is_first
        self.load_state_dict(
            {
                **state,
                **own,
                "num_samples": self.num_samples,
                "nonfinite": nonfinite,
                "open_epoch": torch.cat([open_epoch, left_out]),
            }
        )


def own_part(whole: Tensor, shard: Shard) -> Tensor:
    """Of all samples, in the last dimension, those of the shard: a copy, so that the rest is not held by it."""
    return whole[..., shard.rank :: shard.world_size].clone()


def of_all_ranks(own: Tensor, shard: Shard, device: torch.device) -> Tensor:
    """What all ranks have of their samples, in the data set's order, on the first rank's CPU; empty on the others.

    The samples are the last dimension. Other ranks hold no more than their part, and what is sent of it at once.

    Args:
        own: [..., m]; m may be zero, on all ranks, and then there is nothing.
        shard: Whose samples they are.
        device: Where ranks exchange.
    """
    if own.shape[-1] == 0:
        return own
    is_first = shard.rank == 0
    whole = torch.empty(*own.shape[:-1], shard.num_samples if is_first else 0, dtype=own.dtype)
    most = -(-shard.num_samples // shard.world_size)
    for place in range(own[..., 0].numel()):
        row = own.reshape(-1, own.shape[-1])[place]
        into = whole.view(-1, whole.shape[-1])[place] if is_first else whole.flatten()
        gather_into([into[rank :: shard.world_size] for rank in range(shard.world_size)], row, most, device)
    return whole


def gather_into(targets: list[Tensor], own: Tensor, most: int, device: torch.device) -> None:
    """Fill the first rank's ``targets``, one for each rank, with what these have.

    Args:
        targets: Of each rank as long as what it has; not looked at on other ranks.
        own: What this rank has, one dimension.
        most: The length of the longest.
        device: Where ranks exchange.
    """
    for start in range(0, most, _BLOCK):
        block = slice(start, min(start + _BLOCK, most))
        mine = own[block]
        sent = torch.zeros(block.stop - start, dtype=own.dtype, device=device)
        sent[: len(mine)] = mine
        # As bytes, which every backend can send.
        for target, part in zip(targets, gather_on_first(sent.view(torch.uint8)), strict=False):
            into = target[block]
            into.copy_(part.view(own.dtype)[: len(into)])
