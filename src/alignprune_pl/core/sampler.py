"""An epoch's plan as a sampler, and the way back from a batch's number to its samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from alignprune_pl.core.draws import Draw, firsts
from alignprune_pl.core.plan import EpochPlan

Item = TypeVar("Item", int, list[int])


@dataclass(frozen=True)
class BatchSamples:
    """The samples of one batch on this rank.

    Attributes:
        index: int64[b], indices into the training data set.
        weight: float32[b], what each sample's loss is multiplied by; zero for padding.
        real: How many come first that are no padding, which is repeated only so that all ranks have equally many samples
            and is not to be recorded.
        is_first: bool[b], whether the epoch has a sample for the first time, over all ranks; None where it has each once.
    """

    index: Tensor
    weight: Tensor
    real: int
    is_first: Tensor | None = None

    def __getitem__(self, part: slice) -> BatchSamples:
        index = self.index[part]
        is_first = None if self.is_first is None else self.is_first[part]
        return BatchSamples(index, self.weight[part], min(len(index), max(0, self.real - part.start)), is_first)

    def to(self, device: torch.device) -> BatchSamples:
        """The same on another device."""
        is_first = None if self.is_first is None else self.is_first.to(device)
        return BatchSamples(self.index.to(device), self.weight.to(device), self.real, is_first)


class EpochSampler(DistributedSampler[Item]):
    """Serves this rank's share of an epoch.

    It is a ``DistributedSampler`` because Lightning leaves such a one in place; it works in one process too.

    Attributes:
        announces_full_epoch: Whether ``len`` is that of an epoch without pruning. Lengths that a run fixes once,
            such as the steps of a schedule, are asked for before the first epoch and must not be those of its plan.
        batch_size: Samples a batch on each rank; of batches of the user's own a usual one's.
        cut: Samples that the loader makes each batch of; 0 where it is served whole batches.
        full: How many samples or whole batches an epoch without pruning has on all ranks.
        announced: The same as it is announced, which is the first epoch's.
        mine: The samples of this rank in their order.
        is_weighted: Whether any weight is not one. All ranks agree.

    Args:
        num_samples: n, the size of the training set.
        num_replicas: The number of ranks.
        rank: This rank.
    """

    batch_size: int
    cut: int

    def __init__(self, num_samples: int, num_replicas: int, rank: int) -> None:
        super().__init__(range(num_samples), num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.full = self.announced = num_samples
        self.announces_full_epoch = False
        self.mine = self._here = BatchSamples(torch.empty(0, dtype=torch.int64), torch.empty(0), 0)
        self.is_weighted = False
        self._device = torch.device("cpu")
        self._skip_batches = 0

    @abstractmethod
    def set_plan(self, plan: EpochPlan, draw: Draw | None = None, epoch: int = 0) -> None:
        """Serve ``plan`` from the next iterator on.

        Args:
            plan: What is trained, and with which weights.
            draw: What the user's sampler has drawn for the epoch, where it has one that draws: it is served in its order,
                less what the plan leaves out.
            epoch: By which it changes where samples wait for another one; 0 has the last ones wait.

        Raises:
            ValueError: If nothing is left, or the plan keeps a sample outside the data set.
        """

    @abstractmethod
    def batch(self, number: int) -> BatchSamples:
        """The samples of batch ``number`` (from 0) of the current epoch; loaders keep the sampler's order."""

    @abstractmethod
    def trained(self, batches: int) -> Tensor:
        """The samples in the first ``batches`` batches of all ranks together, int64[k]."""

    @abstractmethod
    def in_full(self, count: int) -> int:
        """How many samples the first ``count`` samples or whole batches have in an epoch without pruning."""

    @abstractmethod
    def batches(self, drops_last: bool) -> int:
        """How many batches of the plan are this rank's, on two conditions: the last one is whole, or may be smaller."""

    def to(self, device: torch.device) -> EpochSampler[Item]:
        """Have :meth:`batch` answer on ``device``: copied there once an epoch, not once a step."""
        if device != self._device:
            self._device = device
            self._place()
        return self

    def _serve(self, mine: BatchSamples, is_weighted: bool) -> None:
        self.mine, self.is_weighted = mine, is_weighted
        self._skip_batches = 0
        self._place()

    def _place(self) -> None:
        self._here = self.mine.to(self._device)

    def skip_batches_once(self, batches: int) -> None:
        """Leave out the first ``batches`` of the next iterator: an interrupted epoch has trained on them."""
        self._skip_batches = batches


class PruningSampler(EpochSampler[int]):
    """Serves samples, which the loader makes batches of.

    Rank r takes every world-size-th sample, so the first b samples of the plan are the first batches of all
    ranks together, whatever their number. Where the ranks would differ by one sample, the plan's first
    samples are repeated with weight zero: every rank has the same number of batches, and no sample counts twice.

    A pruned epoch never ends with a batch of one sample, on which batch norm would fail. Nor does it with one that is
    smaller than both a quarter of the others and the last one of a full epoch: a step by so few samples goes anywhere. A
    plan's length is not the user's choice, so as many samples wait for another epoch.

    Args:
        num_samples: n, the size of the training set.
        plan: The plan of the first epoch.
        batch_size: Samples a batch on each rank.
        num_replicas: The number of ranks.
        rank: This rank.
        draw: What the user's sampler has drawn for the first epoch, where it has one that draws.
        epoch: As :meth:`set_plan` has it.
    """

    def __init__(
        self,
        num_samples: int,
        plan: EpochPlan,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        draw: Draw | None = None,
        epoch: int = 0,
    ) -> None:
        super().__init__(num_samples, num_replicas, rank)
        self.batch_size = self.cut = batch_size
        self.set_plan(plan, draw, epoch)

    def set_plan(self, plan: EpochPlan, draw: Draw | None = None, epoch: int = 0) -> None:
        """Serve ``plan`` from the next iterator on; see :class:`EpochSampler`."""
        n = len(self.dataset)  # type: ignore[arg-type]
        check_plan(plan, n)
        samples, weights = plan.keep, plan.weight
        if draw is not None:
            self.full, self.announced = len(draw.index), draw.length
            _, samples, weights = left_of(draw, plan)
        kept = len(samples)
        rest = kept % (self.batch_size * self.num_replicas)
        if self.batch_size > 1 and 0 < rest < kept < self.full and rest < self._least():
            stays = all_but(kept, rest, epoch)
            samples, weights, kept = samples[stays], weights[stays], kept - rest
        is_first = None if draw is None else firsts(samples)
        per_rank = -(-kept // self.num_replicas)
        self._served = samples
        position = torch.arange(per_rank) * self.num_replicas + self.rank
        is_padding = position >= kept
        position = position % kept
        weight = weights[position].masked_fill(is_padding, 0.0)
        real = per_rank - int(is_padding.sum())
        mine = BatchSamples(samples[position], weight, real, None if is_first is None else is_first[position])
        # A rank with padding must weigh its samples even where the plan's weights are all one.
        self._serve(mine, bool((weights != 1).any()) or kept % self.num_replicas != 0)

    def _least(self) -> int:
        """How many samples the last batches of a pruned epoch must have, those of all ranks together."""
        batch = self.batch_size * self.num_replicas
        last = self.full % batch or batch
        return max(self.num_replicas + 1, min(last, batch // 4))

    def batch(self, number: int) -> BatchSamples:
        """The samples of batch ``number`` (from 0) of the current epoch; loaders keep the sampler's order."""
        start = number * self.batch_size
        return self._here[start : start + self.batch_size]

    def trained(self, batches: int) -> Tensor:
        """The samples in the first ``batches`` batches of all ranks together, int64[k]."""
        return self._served[: batches * self.batch_size * self.num_replicas]

    def in_full(self, count: int) -> int:
        """As many."""
        return count

    def batches(self, drops_last: bool) -> int:
        """How many batches of the plan are this rank's."""
        count = len(self.mine.index)
        return count // self.batch_size if drops_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[int]:
        skip, self._skip_batches = self._skip_batches, 0
        return iter(self.mine.index[skip * self.batch_size :].tolist())

    def __len__(self) -> int:
        if self.announces_full_epoch:
            return -(-self.announced // self.num_replicas)
        return len(self.mine.index)


class PruningBatchSampler(EpochSampler[list[int]]):
    """Serves the batches of a batch sampler of the user's own, less what the plan leaves out of each.

    Batch b is rank (b mod world size)'s. Where the last ones are too few for all ranks, a rank repeats a batch with weight
    zero. A batch of which nothing is left is left out; so is one of which one sample is left, unless the user's own is that
    small or there is no other: batch norm would fail on it. That sample waits for another epoch.

    Args:
        num_samples: n, the size of the training set.
        plan: The plan of the first epoch.
        draw: The batches that the user's sampler has drawn for it.
        merges: Whether neighbouring batches become one as long as that is not larger than the largest of the draw.
        num_replicas: The number of ranks.
        rank: This rank.
    """

    cut = 0

    def __init__(
        self, num_samples: int, plan: EpochPlan, draw: Draw, merges: bool = False, num_replicas: int = 1, rank: int = 0
    ) -> None:
        super().__init__(num_samples, num_replicas, rank)
        self.merges = merges
        self.set_plan(plan, draw)

    def set_plan(self, plan: EpochPlan, draw: Draw | None = None, epoch: int = 0) -> None:
        """Serve ``plan`` from the next iterator on; see :class:`EpochSampler`."""
        assert draw is not None, "batches of the user's own are always drawn"
        assert draw.sizes is not None, "in batches"
        check_plan(plan, len(self.dataset))  # type: ignore[arg-type]
        self._sizes, self.full, self.announced = draw.sizes, len(draw.sizes), draw.length
        self.batch_size = max(1, int(draw.sizes.median()))
        sizes, samples, weights = self._left(draw, plan)
        ends, batches = sizes.cumsum(0), len(sizes)
        self._served, self._ends = samples, ends
        number = torch.arange(-(-batches // self.num_replicas)) * self.num_replicas + self.rank
        is_padding = bool(number[-1] >= batches)
        number = number % batches
        starts, stops = (ends - sizes)[number], ends[number]
        place = torch.cat([torch.arange(a, b) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)])
        weight = weights[place]
        real = len(place) - (int(sizes[number[-1]]) if is_padding else 0)
        weight[real:] = 0.0
        self._bounds = [0, *sizes[number].cumsum(0).tolist()]
        is_weighted = bool((weights != 1).any()) or batches % self.num_replicas != 0
        self._serve(BatchSamples(samples[place], weight, real, firsts(samples)[place]), is_weighted)

    def _left(self, draw: Draw, plan: EpochPlan) -> tuple[Tensor, Tensor, Tensor]:
        """The size of each batch that is served, int64[b]; and their samples and weights, int64[k] and float32[k]."""
        is_kept, samples, weights = left_of(draw, plan)
        drawn = self._sizes
        batch_of = torch.repeat_interleave(torch.arange(len(drawn)), drawn)[is_kept]
        left = torch.bincount(batch_of, minlength=len(drawn))
        into = torch.tensor(self._merged(left.tolist(), int(drawn.max()))) if self.merges else torch.arange(len(drawn))
        sizes = torch.zeros_like(left).index_add_(0, into, left)
        whole = torch.zeros_like(left).index_add_(0, into, drawn * (left > 0))
        is_served = (sizes > 1) | ((sizes == 1) & (whole == 1))
        if not bool(is_served.any()):
            is_served = sizes > 0
        stays = is_served[into[batch_of]]
        return sizes[is_served], samples[stays], weights[stays]

    @staticmethod
    def _merged(left: list[int], most: int) -> list[int]:
        """Into which batch each goes: the first of its neighbours that has room for it."""
        into, first, count = [], 0, 0
        for number, size in enumerate(left):
            if count + size > most:
                first, count = number, 0
            count += size
            into.append(first)
        return into

    def batch(self, number: int) -> BatchSamples:
        """The samples of batch ``number`` (from 0) of the current epoch; loaders keep the sampler's order."""
        return self._here[self._bounds[number] : self._bounds[number + 1]]

    def trained(self, batches: int) -> Tensor:
        """The samples in the first ``batches`` batches of all ranks together, int64[k]."""
        last = min(batches * self.num_replicas, len(self._ends))
        return self._served[: int(self._ends[last - 1]) if last else 0]

    def in_full(self, count: int) -> int:
        """Those of so many batches."""
        return int(self._sizes[:count].sum())

    def batches(self, drops_last: bool) -> int:
        """How many batches of the plan are this rank's."""
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[list[int]]:
        skip, self._skip_batches = self._skip_batches, 0
        index = self.mine.index.tolist()
        bounds = self._bounds[skip:]
        return iter([index[start:end] for start, end in pairwise(bounds)])

    def __len__(self) -> int:
        if self.announces_full_epoch:
            return -(-self.announced // self.num_replicas)
        return len(self._bounds) - 1


def all_but(count: int, rest: int, epoch: int) -> Tensor:
    """Places below ``count`` without ``rest`` of them, int64[count - rest]: the last ones in epoch 0, others in each."""
    place = torch.arange(count)
    return place[(place - (epoch - 1) * rest) % max(1, count) >= rest]


def check_plan(plan: EpochPlan, n: int) -> None:
    """Refuse a plan that cannot be served.

    Raises:
        ValueError: If it keeps no sample, or one outside the data set of ``n``.
    """
    if len(plan.keep) == 0:
        raise ValueError("The policy kept no sample for the next epoch; lower its pruning ratio.")
    if plan.keep.min() < 0 or plan.keep.max() >= n:
        raise ValueError(
            f"The plan keeps samples {int(plan.keep.min())} to {int(plan.keep.max())}, but the training set "
            f"has {n}; plan for the data set that the loader serves."
        )


def left_of(draw: Draw, plan: EpochPlan) -> tuple[Tensor, Tensor, Tensor]:
    """What a plan leaves of a draw.

    Returns:
        Whether each draw is left, bool[m]; and of those that are, in their order, samples int64[k] and weights float32[k].

    Raises:
        ValueError: If nothing is left.
    """
    weights = draw.weights(plan)
    is_kept = ~weights.isnan()
    if not bool(is_kept.any()):
        raise ValueError(
            f"The plan keeps {len(plan.keep)} samples, but none of those that the sampler has drawn for the epoch; lower "
            "the pruning ratio."
        )
    return is_kept, draw.index[is_kept], weights[is_kept]
