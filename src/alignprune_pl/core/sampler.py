"""An epoch's plan as a sampler, and the way back from a batch's number to its samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from alignprune_pl.core.plan import EpochPlan


@dataclass(frozen=True)
class BatchSamples:
    """The samples of one batch on this rank.

    Attributes:
        index: int64[b], indices into the training data set.
        weight: float32[b], what each sample's loss is multiplied by; zero for padding.
        real: How many come first that are no padding, which is repeated only so that all ranks have equally many samples
            and is not to be recorded.
    """

    index: Tensor
    weight: Tensor
    real: int


class PruningSampler(DistributedSampler[int]):
    """Serves this rank's share of the current plan.

    Rank r takes every world-size-th sample, so the first b samples of the plan are the first batches of all
    ranks together, whatever their number. Where the ranks would differ by one sample, the plan's first
    samples are repeated with weight zero: every rank has the same number of batches, and no sample counts twice.

    A pruned epoch never ends with a batch of one sample, on which batch norm would fail. Nor does it with one that is
    smaller than both a quarter of the others and the last one of a full epoch: a step by so few samples goes anywhere. A
    plan's length is not the user's choice, so such last samples wait for another epoch.

    It is a ``DistributedSampler`` because Lightning leaves such a one in place; it works in one process too.

    Attributes:
        announces_full_epoch: Whether ``len`` is that of an epoch without pruning. Lengths that a run fixes once,
            such as the steps of a schedule, are asked for before the first epoch and must not be those of its plan.

    Args:
        num_samples: n, the size of the training set.
        plan: The plan of the first epoch.
        batch_size: Samples a batch on each rank.
        num_replicas: The number of ranks.
        rank: This rank.
    """

    def __init__(
        self, num_samples: int, plan: EpochPlan, batch_size: int, num_replicas: int = 1, rank: int = 0
    ) -> None:
        super().__init__(range(num_samples), num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.announces_full_epoch = False
        self._device = torch.device("cpu")
        self.set_plan(plan)

    def set_plan(self, plan: EpochPlan) -> None:
        """Serve ``plan`` from the next iterator on.

        Raises:
            ValueError: If it keeps no sample, or one outside the data set.
        """
        kept = len(plan.keep)
        if kept == 0:
            raise ValueError("The policy kept no sample for the next epoch; lower its pruning ratio.")
        n = len(self.dataset)  # type: ignore[arg-type]
        if plan.keep.min() < 0 or plan.keep.max() >= n:
            raise ValueError(
                f"The plan keeps samples {int(plan.keep.min())} to {int(plan.keep.max())}, but the training set "
                f"has {n}; plan for the data set that the loader serves."
            )
        rest = kept % (self.batch_size * self.num_replicas)
        if self.batch_size > 1 and rest < kept < n and rest < self._least():
            kept -= rest
        per_rank = -(-kept // self.num_replicas)
        self._served = plan.keep[:kept]
        position = torch.arange(per_rank) * self.num_replicas + self.rank
        is_padding = position >= kept
        position = position % kept
        weight = plan.weight[position].masked_fill(is_padding, 0.0)
        self.mine = BatchSamples(plan.keep[position], weight, per_rank - int(is_padding.sum()))
        self._place()
        # A rank with padding must weigh its samples even where the plan's weights are all one. All ranks agree.
        self.is_weighted = bool((plan.weight != 1).any()) or kept % self.num_replicas != 0
        self._skip_batches = 0

    def _least(self) -> int:
        """How many samples the last batches of a pruned epoch must have, those of all ranks together."""
        batch = self.batch_size * self.num_replicas
        last = len(self.dataset) % batch or batch  # type: ignore[arg-type]
        return max(self.num_replicas + 1, min(last, batch // 4))

    def to(self, device: torch.device) -> PruningSampler:
        """Have :meth:`batch` answer on ``device``: copied there once an epoch, not once a step."""
        if device != self._device:
            self._device = device
            self._place()
        return self

    def _place(self) -> None:
        self._index, self._weight = self.mine.index.to(self._device), self.mine.weight.to(self._device)

    def skip_batches_once(self, batches: int) -> None:
        """Leave out the first ``batches`` of the next iterator: an interrupted epoch has trained on them."""
        self._skip_batches = batches

    def batch(self, number: int) -> BatchSamples:
        """The samples of batch ``number`` (from 0) of the current epoch; loaders keep the sampler's order."""
        start = number * self.batch_size
        index = self._index[start : start + self.batch_size]
        weight = self._weight[start : start + self.batch_size]
        return BatchSamples(index, weight, min(len(index), max(0, self.mine.real - start)))

    def trained(self, batches: int) -> Tensor:
        """The samples in the first ``batches`` batches of all ranks together, int64[k]."""
        return self._served[: batches * self.batch_size * self.num_replicas]

    def __iter__(self) -> Iterator[int]:
        skip, self._skip_batches = self._skip_batches, 0
        return iter(self.mine.index[skip * self.batch_size :].tolist())

    def __len__(self) -> int:
        if self.announces_full_epoch:
            return -(-len(self.dataset) // self.num_replicas)  # type: ignore[arg-type]
        return len(self.mine.index)
