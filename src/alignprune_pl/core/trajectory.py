"""The losses of every training sample over the last epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_count, refused

Observable = Literal["loss", "batch_loss", "el2n", "margin", "rival"]
"""What a trajectory is of, sample by sample:

- ``"loss"``: the loss.
- ``"batch_loss"``: the mean loss of the batch that the sample was in.
- ``"el2n"``: the length of the error vector, |softmax(logits) - label|.
- ``"margin"``: the label's logit less the largest other one.
- ``"rival"``: log(1 + exp(-margin)), the loss of the label against that class alone, and which class it was.

The last three read the logits. Where a loss has none, they are that loss."""

# Trajectories that are handed to a function at once.
_BLOCK = 1 << 16
# Numbers of pairs up to the square of it are exact in float32, in which ranks add up what they have seen.
MOST_CLASSES = 4095


@dataclass(frozen=True)
class Observed:
    """What has been observed of some samples.

    Attributes:
        value: float[b], what the trajectories are of.
        pair: int64[b], where label and rival were seen, ``label * classes + rival``, or -1; None where they are not of
            interest.
        classes: C, 0 where it is not known.
        seen: bool[b], whether the step had anything of a sample, as one whose targets are all masked has not; None for
            all.
    """

    value: Tensor
    pair: Tensor | None = None
    classes: int = 0
    seen: Tensor | None = None

    def as_list(self) -> list[Any]:
        """The attributes, as a checkpoint has them."""
        return [self.value, self.pair, self.classes, self.seen]

    def pair_or_unknown(self) -> Tensor:
        """int64[b], ``pair``, or -1 for all."""
        return torch.full((len(self.value),), -1) if self.pair is None else self.pair


def lead(value: Tensor) -> Tensor:
    """The rival's lead m over the label, in log odds, of losses log(1 + exp(m)): float[n] of the same kind.

    Example:
        >>> lead(torch.tensor([0.5, 3.0])).round(decimals=2)
        tensor([-0.4300,  2.9500])
    """
    value = value.clamp(min=1e-30)  # of a loss that has underflown m is low, not minus infinity
    return value + torch.log(-torch.expm1(-value))


class TrajectoryStore:
    """A ring of the last N losses of each sample (or another observable), and of the reference set's mean loss.

    During an epoch, :meth:`record` adds losses on the device where they are, without waiting for it.
    :meth:`close_epoch` then makes the epoch the newest column. "Not observed" is NaN, never a number. A loss
    that is not finite counts as not observed, so that it spoils no other sample; ``nonfinite`` counts them.

    Memory, and size of the state: ``n * window * itemsize(dtype)`` bytes for the ring, and 16 bytes a sample besides, or
    24 with pairs.

    Args:
        num_samples: n, the size of the training set.
        window: N, the number of epochs remembered (the paper's best is 10). At least 2.
        dtype: Storage of the ring, ``torch.bfloat16`` (a loss within 0.4 %) or ``torch.float32``. The last loss of
            each sample, which the host frameworks compare, is always float32.
        pairs: Whether it also holds each sample's label and the class that last rivalled it.

    Attributes:
        epochs: The number of closed epochs.
        nonfinite: How many losses of closed epochs were NaN or infinite.
        classes: C, of the pairs; 0 before any was seen.
        newest_reference: What the last closed epoch has shown of each reference sample; empty without a reference.
        repeats: Whether an epoch may have a sample more than once, of which the first time alone is recorded with a pair.
        open_epoch: float32[2n + 1], what the open epoch has seen: the sum of each sample's losses, how many they
            are, and how many losses were not finite. Ranks add theirs up by one collective over it. With pairs
            float32[3n + 1], which has also the sum of each sample's pairs, counted from 1.

    Raises:
        ValueError: If ``num_samples`` < 1, ``window`` < 2, or ``dtype`` is another one.

    Example:
        >>> store = TrajectoryStore(num_samples=3, window=2)
        >>> store.record(torch.tensor([0, 2]), torch.tensor([1.0, 4.0]))
        >>> store.close_epoch(reference_loss=0.5)
        >>> store.losses()
        tensor([[1.],
                [nan],
                [4.]])
    """

    def __init__(
        self, num_samples: int, window: int = 10, dtype: torch.dtype = torch.bfloat16, pairs: bool = False
    ) -> None:
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(refused("dtype", dtype, "torch.float32 or torch.bfloat16"))
        self.num_samples = check_count("num_samples", num_samples, 1, "a data set's size")
        self.window = check_count("window", window, 2, "a number of epochs", "the paper's is 10")
        self.dtype = dtype
        self.epochs = 0
        self.nonfinite = 0
        self._ring = torch.full((window, num_samples), math.nan, dtype=dtype)
        self._reference = torch.full((window,), math.nan, dtype=torch.float32)
        # The last loss that has left the window: it lets a carried trajectory start from a value.
        self._before = torch.full((num_samples,), math.nan, dtype=torch.float32)
        # The last observed loss, unrounded: what is stored in bfloat16 would tie samples that differ.
        self._last = torch.full((num_samples,), math.nan, dtype=torch.float32)
        self.open_epoch = torch.zeros((3 if pairs else 2) * num_samples + 1, dtype=torch.float32)
        self.pairs = pairs
        self.repeats = False
        self.classes = 0
        # The pair of each sample when it was last observed; -1 for none.
        self._pair = torch.full((num_samples if pairs else 0,), -1, dtype=torch.int32)
        self.newest_reference = Observed(torch.empty(0))

    def to(self, device: torch.device) -> TrajectoryStore:
        """Move everything to ``device``, where the losses of the next epoch will be."""
        for name in ("_ring", "_reference", "_before", "_last", "_pair", "open_epoch"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def record(
        self, index: Tensor, loss: Tensor, pair: Tensor | None = None, classes: int = 0, seen: Tensor | None = None
    ) -> None:
        """Add the losses of one batch to the open epoch; several losses of one sample are averaged.

        Args:
            index: int64[b], the samples.
            loss: float[b], their losses.
            pair: int64[b], their labels and rivals, as :class:`Observed` has them; of interest to a store with pairs.
            classes: C, of the pairs.
            seen: bool[b], where there is a loss; by default everywhere.

        Raises:
            ValueError: If ``index`` is not int64 or the shapes differ.
        """
        check_recorded(index, loss)
        loss = loss.detach().to(self.open_epoch)
        counted = loss.nan_to_num(0.0, 0.0, 0.0)
        finite = counted == loss
        update = torch.stack([counted, finite.to(loss.dtype)])
        index = index.to(self.open_epoch.device)
        self._sum_and_count().index_add_(1, index, update)
        self.open_epoch[2 * self.num_samples] += (~finite if seen is None else seen.to(finite.device) > finite).sum()
        if self.pairs and pair is not None and 0 < classes <= MOST_CLASSES:
            if classes != self.classes:
                self._pair.fill_(-1)  # they count by another number
            self.classes = classes
            counted = ((pair.to(index.device) + 1) * finite).to(loss.dtype)
            self.open_epoch[2 * self.num_samples + 1 :].index_add_(0, index, counted)

    def _sum_and_count(self) -> Tensor:
        """The open epoch's losses, float32[2, n]: their sum and how many."""
        return self.open_epoch[: 2 * self.num_samples].view(2, self.num_samples)

    def record_unseen(self, index: Tensor, observed: Observed) -> None:
        """Add what samples have shown that were passed forward only, where the open epoch has nothing of them.

        Args:
            index: int64[p], the samples, each once.
            observed: Their p losses.
        """
        if len(index):
            index = index.to(self.open_epoch.device)
            unseen = self._sum_and_count()[1][index] == 0
            loss, pair = (part.to(index.device)[unseen] for part in (observed.value, observed.pair_or_unknown()))
            self.record(index[unseen], loss, pair, observed.classes)

    def close_epoch(self, reference_loss: float = math.nan, reference: Observed | None = None) -> None:
        """Make the open epoch the newest column of the ring.

        Args:
            reference_loss: The reference set's mean loss after this epoch; NaN where there is none.
            reference: What each of its samples has shown; by default there are none.
        """
        slot = self.epochs % self.window
        leaving = self._ring[slot].float()
        self._before = torch.where(leaving.isnan(), self._before, leaving)
        total, count = self._sum_and_count()
        # 0 / 0 is NaN, which is what "not observed" is; a sum that has overflowed is no observation either.
        mean = total / count
        seen = mean.isfinite()
        self._ring[slot] = torch.where(seen, mean, math.nan).to(self.dtype)
        self._last = torch.where(seen, mean, self._last)
        self._reference[slot] = reference_loss
        self.newest_reference = Observed(torch.empty(0)) if reference is None else reference
        self.classes = self.classes or self.newest_reference.classes
        if self.pairs:
            # Of a sample that was observed twice, or in a batch without labels, it is not known.
            has_one = (count > 0) if self.repeats else (count == 1)
            pair = torch.where(has_one, self.open_epoch[2 * self.num_samples + 1 :], 0.0).to(torch.int32) - 1
            self._pair = torch.where(seen, pair, self._pair)
        self.epochs += 1
        self.nonfinite += int(self.open_epoch[2 * self.num_samples])
        self.open_epoch = torch.zeros_like(self.open_epoch)  # a new one, so that what was in it can come back

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Open the epoch again that a block closes, if the block ends with an error: nothing is half done."""
        slot, before = self.epochs % self.window, dict(vars(self))
        # What is written in place.
        losses, reference = self._ring[slot].clone(), self._reference[slot].clone()
        open_epoch = self.open_epoch.clone()
        try:
            yield
        except BaseException:
            vars(self).update(before, open_epoch=open_epoch)
            self._ring[slot], self._reference[slot] = losses, reference
            raise

    def _slots(self, window: int | None) -> list[int]:
        """Places in the ring from the oldest epoch to the newest: min(epochs, N, window) of them."""
        remembered = min(self.epochs, self.window, self.window if window is None else window)
        return [epoch % self.window for epoch in range(self.epochs - remembered, self.epochs)]

    def losses(self, window: int | None = None, *, carry: bool = False) -> Tensor:
        """Trajectories, oldest epoch first.

        Args:
            window: How many of the last epochs; all that are remembered by default.
            carry: Fill an epoch in which a sample was not observed with its last observed loss, the value
                that a host framework would have kept. A sample never observed so far stays NaN.

        Returns:
            float32[n, min(epochs, N, window)], NaN where not observed.
        """
        return self._block(slice(None), window, carry)

    def each(self, function: Callable[[Tensor], Tensor], window: int | None = None, *, carry: bool = False) -> Tensor:
        """What a function says of each trajectory, asked for some thousands at a time.

        The result is that of ``function(store.losses(...))``, but there is never a copy of all trajectories, and what is
        in hand stays in the processor's cache.

        Args:
            function: Trajectories float32[m, T] to one number each, float32[m].
            window: As in :meth:`losses`.
            carry: As in :meth:`losses`.

        Returns:
            float32[n].
        """
        result = torch.empty(self.num_samples, dtype=torch.float32, device=self._ring.device)
        for start in range(0, self.num_samples, _BLOCK):
            block = slice(start, min(start + _BLOCK, self.num_samples))
            result[block] = function(self._block(block, window, carry))
        return result

    def _block(self, block: slice, window: int | None, carry: bool) -> Tensor:
        """The trajectories of some samples, as :meth:`losses` has them."""
        # What precedes the first epoch asked for may be in the ring.
        slots = self._slots(None if carry else window)
        last = self._before[block]
        rows = torch.empty(len(slots), len(last), dtype=torch.float32, device=self._ring.device)
        for row, slot in zip(rows, slots, strict=True):
            row.copy_(self._ring[slot, block])
            if carry:
                last = torch.where(row.isnan(), last, row, out=row)
        return rows[-window if window else 0 :].T

    def reference(self, window: int | None = None) -> Tensor:
        """The reference set's mean loss in the same epochs, float32[min(epochs, N, window)]."""
        return self._reference[self._slots(window)]

    def last_loss(self) -> Tensor:
        """The last observed loss of each sample, float32[n]; NaN where never observed."""
        return self._last.clone()

    def newest(self) -> Tensor:
        """The losses of the last closed epoch, float32[n] and not rounded to the ring's dtype; NaN where not observed."""
        if self.epochs == 0:
            return torch.full_like(self._last, math.nan)
        return torch.where(self._ring[(self.epochs - 1) % self.window].isnan(), math.nan, self._last)

    def last_pair(self) -> Tensor:
        """``label * classes + rival`` of each sample when it was last observed: int64[n], -1 where not known."""
        return self._pair.long() if self.pairs else torch.full((self.num_samples,), -1, device=self._last.device)

    def labels(self) -> Tensor:
        """Each sample's label: int64[n], -1 where not known; empty where the store has no pairs."""
        pair = self._pair.long()
        return torch.where(pair >= 0, pair // max(1, self.classes), -1)

    def rivals(self) -> Tensor:
        """The strongest other class when each sample was last observed; as :meth:`labels`."""
        pair = self._pair.long()
        return torch.where(pair >= 0, pair % max(1, self.classes), -1)

    def state_dict(self) -> dict[str, Any]:
        """All state, the open epoch included; tensors are copies on the CPU."""
        return {
            "num_samples": self.num_samples,
            "window": self.window,
            "epochs": self.epochs,
            "nonfinite": self.nonfinite,
            "ring": self._ring.detach().cpu().clone(),
            "reference": self._reference.cpu().clone(),
            "before": self._before.cpu().clone(),
            "last": self._last.cpu().clone(),
            "open_epoch": self.open_epoch.cpu().clone(),
            "pairs": self.pairs,
            "pair": self._pair.cpu().clone(),
            "classes": self.classes,
            "newest_reference": self.newest_reference.as_list(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: If it belongs to another data set size, window or dtype, or has pairs where this one has none.
        """
        here = (self.num_samples, self.window, self.dtype, self.pairs)
        there = (state["num_samples"], state["window"], state["ring"].dtype, state["pairs"])
        if here != there:
            raise ValueError(
                f"The checkpoint's trajectories are for (samples, window, dtype, pairs) = {there}, but this run has {here}; "
                "resume with the settings and data set of the run that wrote it."
            )
        device = self._ring.device
        self.epochs = state["epochs"]
        self.nonfinite = state["nonfinite"]
        self._ring = state["ring"].clone().to(device)
        self._reference = state["reference"].clone().to(device)
        self._before = state["before"].clone().to(device)
        self._last = state["last"].clone().to(device)
        self.open_epoch = state["open_epoch"].clone().to(device)
        self._pair, self.classes = state["pair"].clone().to(device), state["classes"]
        self.newest_reference = Observed(*state["newest_reference"])


def check_recorded(index: Tensor, loss: Tensor) -> None:
    """Refuse what is no batch's losses.

    Raises:
        ValueError: If ``index`` is not int64[b] or the shapes differ.
    """
    if index.dtype != torch.int64 or index.ndim != 1 or index.shape != loss.shape:
        raise ValueError(
            f"record got index {index.dtype}{list(index.shape)} and loss {list(loss.shape)}, but int64[b] and "
            "float[b] are expected; pass one loss a sample."
        )
