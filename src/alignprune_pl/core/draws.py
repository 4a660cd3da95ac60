"""What a sampler of the user's own draws for an epoch: asked once, on one rank, and the same on all."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sized
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SubsetRandomSampler, WeightedRandomSampler

from alignprune_pl.core.distributed import broadcast_from_first, has_ranks, is_first_rank
from alignprune_pl.core.plan import EpochPlan

# A sampler without a length that draws more than so many times the data set is taken for one without an end.
_MOST_TIMES = 10


@dataclass(frozen=True, eq=False)
class Draw:
    """The samples of an epoch without pruning, as the user's sampler has drawn them.

    Attributes:
        index: int64[m], the samples in their order, each as often as it is drawn.
        sizes: int64[b], how many of them make each batch; None where they are cut into batches of one size.
        length: The sampler's own length, draws or batches; where it has none, what it has drawn at first.
        can_draw: int64[u], all samples that it can draw, ascending; None where that is not known.
    """

    index: Tensor
    sizes: Tensor | None
    length: int
    can_draw: Tensor | None

    @cached_property
    def samples(self) -> Tensor:
        """The samples that are drawn, each once and ascending: int64[k]."""
        samples: Tensor = self.index.unique()
        return samples

    def weights(self, plan: EpochPlan) -> Tensor:
        """The weight of each draw, float32[m]; NaN where the plan leaves the sample out."""
        n = 1 + max(int(part.max()) for part in (self.index, plan.keep) if len(part))
        weight = torch.full((n,), torch.nan).index_copy_(0, plan.keep, plan.weight)
        return weight.index_select(0, self.index)

    def trained(self, plan: EpochPlan, places: Tensor | None) -> EpochPlan:
        """What of a plan can be trained, its samples being drawn.

        Args:
            plan: The policy's, in the numbers of ``places``.
            places: int64[k], the samples that it was made for; None for all. Others that are drawn are trained too.
        """
        keep, probe = (part if places is None else places[part] for part in (plan.keep, plan.probe))
        samples = self.samples
        is_drawn = torch.isin(keep, samples)
        others = samples[:0] if places is None else samples[~torch.isin(samples, places)]
        weight = torch.cat([plan.weight[is_drawn], torch.ones(len(others))])
        return EpochPlan(torch.cat([keep[is_drawn], others]), weight, probe)

    def state_dict(self) -> dict[str, Any]:
        """All of it by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


def firsts(index: Tensor) -> Tensor:
    """Where each sample of ``index`` (int64[m]) comes for the first time: bool[m].

    Example:
        >>> firsts(torch.tensor([4, 1, 4, 4, 2]))
        tensor([ True,  True, False, False,  True])
    """
    ordered, order = index.sort(stable=True)
    is_new = torch.ones(len(order), dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(is_new).index_copy_(0, order, is_new)


def draw_on_first_rank(
    sampler: Iterable[Any], n: int, epoch: int, in_batches: bool, device: torch.device, before: Draw | None = None
) -> Draw:
    """Ask a sampler for an epoch on the first rank, and give all ranks what it has drawn.

    Args:
        sampler: The user's sampler, or batch sampler.
        n: The size of the data set.
        epoch: The epoch, from 0, which a sampler with ``set_epoch`` is told.
        in_batches: Whether it draws batches.
        device: Where ranks exchange.
        before: An earlier draw of the run. What it says of the sampler holds for the whole run.

    Raises:
        ValueError: On the first rank, if the sampler gives something else than samples of the data set, none, or no end of
            them.
        RuntimeError: On the others, in that case.
    """
    draw: Draw | None = None
    failed: Exception | None = None
    if is_first_rank():
        try:
            draw = _asked(sampler, n, epoch, in_batches)
        except Exception as error:  # the user's code can raise anything, and the other ranks wait
            failed = error
    if has_ranks():
        draw = _shared(draw, in_batches, device)
    if failed is not None:
        raise failed
    if draw is None:
        raise RuntimeError(
            f"The sampler {type(sampler).__name__} could not be asked for epoch {epoch} on the first rank; see its error."
        )
    return draw if before is None else replace(draw, length=before.length, can_draw=before.can_draw)


def _asked(sampler: Any, n: int, epoch: int, in_batches: bool) -> Draw:
    # Lightning tells the sampler within a batch sampler.
    within: Any = getattr(sampler, "sampler", None)
    for told in (sampler, within):
        if callable(getattr(told, "set_epoch", None)):
            told.set_epoch(epoch)
    name = type(sampler).__name__
    length = length_of(sampler)
    drawn = _taken(sampler, length, n, name, in_batches)
    try:
        batches = [array("q", batch) for batch in drawn] if in_batches else [array("q", drawn)]
    except (TypeError, OverflowError) as error:
        raise ValueError(
            f"The sampler {name} drew something else than indices for epoch {epoch} ({error}), but "
            f"{'lists of ints' if in_batches else 'ints'} are expected; let it give the samples' places in the data set."
        ) from error
    index = torch.from_numpy(np.concatenate([np.asarray(batch) for batch in batches] or [np.empty(0, np.int64)]))
    can_draw = _all_that(sampler)
    for part in (index, can_draw):
        if part is not None and len(part) and not (part.min() >= 0 and part.max() < n):
            raise ValueError(
                f"The sampler {name} draws samples {int(part.min())} to {int(part.max())}, but the training set has {n}, "
                "counted from 0; make it for the data set of the loader."
            )
    if len(index) == 0:
        raise ValueError(
            f"The sampler {name} drew no sample for epoch {epoch}; let it begin anew with each iter(), and give it "
            "something to draw."
        )
    sizes = torch.tensor([len(batch) for batch in batches]) if in_batches else None
    return Draw(index, sizes, len(drawn) if length is None else length, can_draw)


def length_of(loads: Any) -> int | None:
    """The length of a sampler or loader; None where it has none."""
    try:
        return len(loads)
    except (TypeError, NotImplementedError):
        return None  # also as a class has it that inherits a length of nothing


def _taken(sampler: Any, length: int | None, n: int, name: str, in_batches: bool) -> list[Any]:
    """What a sampler gives, as far as its length says, which is where the Trainer ends an epoch too."""
    if length is not None:
        return list(islice(sampler, length))
    drawn: list[Any] = []
    count = 0
    for item in sampler:
        drawn.append(item)
        count += len(item) if isinstance(item, Sized) and len(item) else 1
        if count > _MOST_TIMES * n:
            raise ValueError(
                f"The sampler {name} has no length and draws more than {_MOST_TIMES} times the {n} samples of the training "
                "set, but an epoch must end; let it stop, or give it a length."
            )
    return drawn


def _all_that(sampler: Any) -> Tensor | None:
    """All samples that a sampler can ever draw, int64[u] and ascending, where it says so."""
    if type(sampler) is WeightedRandomSampler:
        weights: Tensor = sampler.weights
        return (weights > 0).nonzero().squeeze(1)
    if type(sampler) is SubsetRandomSampler:
        indices: Tensor = torch.as_tensor(sampler.indices, dtype=torch.int64).unique()
        return indices
    return None


def _shared(draw: Draw | None, in_batches: bool, device: torch.device) -> Draw | None:
    """The first rank's draw on every rank; None on all where it has none."""
    header = torch.full((4,), -1, dtype=torch.int64, device=device)
    if draw is not None:
        sizes, can_draw = len(draw.sizes) if draw.sizes is not None else 0, draw.can_draw
        known = -1 if can_draw is None else len(can_draw)
        header = torch.tensor([len(draw.index), sizes, known, draw.length], device=device)
    broadcast_from_first([header])
    drawn, batches, known, length = header.tolist()
    if drawn < 0:
        return None
    parts = [torch.empty(max(0, count), dtype=torch.int64, device=device) for count in (drawn, batches, known)]
    if draw is not None:
        given = (draw.index, draw.sizes, draw.can_draw)
        parts = [part if mine is None else mine.to(device) for part, mine in zip(parts, given, strict=True)]
    broadcast_from_first(parts)
    index, sizes_, can = (part.cpu() for part in parts)
    return Draw(index, sizes_ if in_batches else None, length, can if known >= 0 else None)
