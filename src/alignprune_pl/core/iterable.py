"""A stream less what a plan leaves out, and whose samples its batches are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from alignprune_pl.core.collating import ORDER_IS_LOST, loses_order
from alignprune_pl.core.distributed import Agreement
from alignprune_pl.core.gate import Gate
from alignprune_pl.core.keys import NoKeyError

_LEFT_OUT = object()
_END = object()


class PrunedStream(IterableDataset[tuple[Any, Any]]):
    """Gives the samples of a stream that pass a gate, each with the number of its key; at the end a mark.

    It answers as the stream itself, whose attributes a ``worker_init_fn`` may set.

    Args:
        data: The stream.
        gate: What passes.
    """

    def __init__(self, data: IterableDataset[Any], gate: Gate) -> None:
        vars(self).update(_data=data, _gate=gate)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_data"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._data, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return PrunedStream, (self._data, self._gate)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        self._gate.open()
        yield from _by_index(self._data, self._gate) if knows_its_index(self._data, self._gate) else self._by_key()
        # What has been left out since the last sample is told too.
        yield _END, None

    def _by_key(self) -> Iterator[tuple[Any, Any]]:
        for sample in self._gate.reading(self._data):
            try:
                number = self._gate.number(sample)
            except NoKeyError as error:
                yield str(error), None
                return
            if self._gate.passes(number):
                yield number, sample


def knows_its_index(data: Any, gate: Gate) -> bool:
    """Whether samples need no key, as the stream reads each by an index of its own: that of litdata does."""
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}": kind for kind in type(data).__mro__}
    litdatas: Any = kinds.get("litdata.StreamingDataset")
    # A class that changes what it is given would be given the mark of a sample that is left out.
    return gate.key is None and litdatas is not None and type(data).__next__ is litdatas.__next__


def _by_index(data: Any, gate: Gate) -> Iterator[tuple[Any, Any]]:
    """Leaves samples out before they are read."""
    read, number = data.__getitem__, 0

    def read_if_it_passes(index: Any) -> Any:
        nonlocal number
        number = int(index.index)
        passes = gate.passes(number)
        # With a chunk's first sample the reader fetches the chunk and lets go of the one before; the last one ends it.
        is_at_edge = data.consumed_sample_count_in_curr_chunk == 0 or index.is_last_index
        sample = read(index) if passes or is_at_edge else None
        return sample if passes else _LEFT_OUT

    vars(data)["__getitem__"] = read_if_it_passes  # which it calls by that name
    try:
        for sample in gate.reading(data):
            if sample is not _LEFT_OUT:
                yield number, sample
    finally:
        del vars(data)["__getitem__"]


class KeyedBatch(NamedTuple):
    """A batch as it comes from where it was made.

    Attributes:
        batch: The user's; None where there is none.
        numbers: int64[b], those of its samples' keys.
        left_out: How many samples have been left out since the batch before.
        refused: Why it is none; "" where it is.
    """

    batch: Any
    numbers: Any
    left_out: int
    refused: str


class KeyedCollate:
    """Makes the user's batch of the samples alone, and keeps their numbers beside it.

    Args:
        collate: The user's.
        gate: Counts what it leaves out.
        least: A batch of fewer samples is dropped.
        least_pruned: Likewise, where a plan leaves samples out.

    Attributes:
        users: The user's.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], gate: Gate, least: int, least_pruned: int) -> None:
        self.users, self._gate = collate, gate
        self._least, self._least_pruned = least, least_pruned
        self._has_looked = False

    def __call__(self, items: list[tuple[Any, Any]]) -> KeyedBatch:
        """The batch of what :class:`PrunedStream` has given."""
        left_out = self._gate.take_left_out()
        refused = next((number for number, _ in items if isinstance(number, str)), "")
        kept = [] if refused else [(number, sample) for number, sample in items if number is not _END]
        if len(kept) < (self._least_pruned if self._gate.prunes else self._least):
            # Of an epoch without pruning they were dropped too, or they wait for another one.
            waits = len(kept) if len(kept) >= self._least else 0
            return KeyedBatch(None, torch.empty(0, dtype=torch.int64), left_out + waits, refused)
        samples = [sample for _, sample in kept]
        batch = self.users(samples)
        if not self._has_looked:  # once in each process
            self._has_looked = True
            refused = ORDER_IS_LOST if loses_order(self.users, samples) else ""
        return KeyedBatch(batch, torch.tensor([number for number, _ in kept]), left_out, refused)


class StreamSamples(NamedTuple):
    """The samples of one batch on this rank.

    Attributes:
        numbers: int64[b], those of their keys.
        is_real: Whether the batch counts. One that does not is repeated only so that all ranks have equally many.
    """

    numbers: Tensor
    is_real: bool


class Serving:
    """The batches of an epoch on this rank, as many as every other rank has; and whose samples they are.

    A rank whose part of the stream has fewer repeats its last one, which does not count.

    Args:
        batch_size: Samples a batch.
        length: The length of the user's loader; None where it has none.
        agreement: Tells whether another rank goes on.
        any_batch: Gives one to repeat, where the rank has had none; None if the stream has none for it.

    Attributes:
        announces_full_epoch: Whether the loader tells the length of an epoch without pruning, before the first epoch.
        left_out: How many samples the running epoch has left out on this rank; None before the first is read.
    """

    def __init__(
        self,
        batch_size: int,
        length: int | None,
        agreement: Agreement,
        any_batch: Callable[[], KeyedBatch | None],
    ) -> None:
        self.batch_size, self.length = batch_size, length
        self._any_batch = any_batch
        self.announces_full_epoch = False
        self.left_out: int | None = None
        self._agreement = agreement
        self._has_looked = False
        self._first = 0
        self._limit: int | None = None
        self._served: dict[int, StreamSamples] = {}
        self._spare: KeyedBatch | None = None

    def start_at(self, first: int, limit: int | None) -> None:
        """Have the next epoch's first batch be number ``first``, and end it before number ``limit``."""
        self._first, self._limit = first, limit

    def samples(self, number: int) -> StreamSamples:
        """Those of batch ``number`` of the running epoch; what comes before it is forgotten."""
        for before in [served for served in self._served if served < number]:
            del self._served[before]
        return self._served[number]

    def epoch(self, batches: Callable[[], Iterator[KeyedBatch]]) -> Iterator[Any]:
        """The user's batches.

        Raises:
            ValueError: If samples have no keys, or a rank has no sample.
        """
        self._served, self.left_out = {}, 0
        number, self._first = self._first, 0
        for keyed, is_real in islice(
            self._on_all_ranks(batches()), None if self._limit is None else max(0, self._limit - number)
        ):
            self._served[number] = StreamSamples(keyed.numbers, is_real)
            number += 1
            yield keyed.batch

    def _on_all_ranks(self, batches: Iterator[KeyedBatch]) -> Iterator[tuple[KeyedBatch, bool]]:
        filled = self._filled(batches)
        if not self._agreement.is_needed:
            yield from ((keyed, True) for keyed in filled)
            return
        # One is read ahead, so that no rank waits for the others' answer.
        coming = deque[tuple[KeyedBatch | None, Callable[[], list[int]]]]()

        def read() -> None:
            keyed = next(filled, None)
            self._spare = keyed or self._spare or self._any_batch()
            coming.append((keyed, self._agreement.ask(keyed is not None, self._spare is None)))

        try:
            read()
            while True:
                spare = self._spare
                keyed, answer = coming[0]
                goes_on, has_none = answer()
                if not goes_on:
                    return
                if has_none:
                    raise ValueError(
                        "A rank has no sample of the training stream, while others have; split the stream so that each "
                        "has some."
                    )
                coming.popleft()
                read()
                yield keyed or spare, keyed is not None  # type: ignore[misc]
        finally:
            for _, answer in coming:
                answer()

    def _filled(self, batches: Iterator[KeyedBatch]) -> Iterator[KeyedBatch]:
        """Those that have samples."""
        for keyed in batches:
            if keyed.refused:
                raise ValueError(keyed.refused)
            self.left_out = (self.left_out or 0) + keyed.left_out
            if len(keyed.numbers):
                if not self._has_looked:
                    _check_differ(keyed.numbers)
                    self._has_looked = True
                yield keyed


def _check_differ(numbers: Tensor) -> None:
    """Refuse keys that are not the samples' own, as labels are not."""
    kinds = len(numbers.unique())
    if 2 * kinds < len(numbers):
        raise ValueError(
            f"The {len(numbers)} samples of the stream's first batch have {kinds} different keys, but each sample needs one "
            "of its own; let key give what tells it from all others."
        )


class _Served:
    """In front of the user's class of loaders."""

    serving: Serving

    def __iter__(self) -> Iterator[Any]:
        return self.serving.epoch(super().__iter__)  # type: ignore[misc]

    def __len__(self) -> int:
        if self.serving.length is None or not self.serving.announces_full_epoch:
            raise TypeError("The length of a pruned stream is not known.")
        return self.serving.length


def served(loader: DataLoader[Any], gate: Gate, serving: Serving, again: bool = False) -> DataLoader[Any]:
    """A loader like the user's, of what passes a gate.

    Args:
        loader: The user's, which stays as it is.
        gate: What passes.
        serving: Takes note of the samples.
        again: Whether the stream is read once more beside an epoch, which then must not move on by that.
    """
    of_ours = type(type(loader).__name__, (_Served, type(loader)), {})
    made: DataLoader[Any] = object.__new__(of_ours)
    size = loader.batch_size or 1
    # In workers it is a copy anyway.
    data: Any = copy(loader.dataset) if again and loader.num_workers == 0 else loader.dataset
    least = size if loader.drop_last and not again else 1
    # On a single sample batch norm would fail, where the user's own batches are larger.
    least_pruned = least if again else max(least, min(2, size))
    # Not made anew, as a class of the user's may take other arguments.
    vars(made).update(
        vars(loader),
        dataset=PrunedStream(data, gate),
        collate_fn=KeyedCollate(loader.collate_fn, gate, least, least_pruned),
        drop_last=False,  # the last batch, which is looked at there, may have a mark beside its samples
        persistent_workers=loader.persistent_workers and not again,
        serving=serving,
        _iterator=None,
    )
    return made


def first_batch(loader: DataLoader[Any]) -> KeyedBatch | None:
    """The first batch with samples of a loader that :func:`served` has made, which nobody takes note of."""
    return next((keyed for keyed in DataLoader.__iter__(loader) if len(keyed.numbers)), None)
