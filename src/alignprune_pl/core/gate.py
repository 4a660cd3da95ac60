"""Which samples of a stream are left out, asked wherever they are read: in a stage of the stream, in a worker."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignprune_pl.core.keys import NoKeyError, number_of

Key = Callable[[Any], Any] | str
"""What a sample is known by: a function of the sample, or the name of its field."""


@dataclass
class _Open:
    """What a process knows of a gate.

    Attributes:
        numbers: int64[m], ascending: the samples of which the plan says something.
        inverts: Whether it lets these alone pass, and not all others.
        left_out: How many samples have not passed since that was last asked.
        is_read: Whether the pruned stream is being read just now.
    """

    numbers: Any = field(default_factory=lambda: np.empty(0, np.int64))
    inverts: bool = False
    left_out: int = 0
    is_read: bool = False


# By the gate's name: a library may have copied the gate that stands in its pipeline, and all copies are one.
_OPEN: dict[str, _Open] = {}
_END = object()


class Gate:
    """True for a sample that passes, False for one that the plan leaves out; a stage of a stream can filter by it.

    The plan comes to other processes in a file, which each of them maps into its memory when it begins to read the
    stream: workers that persist get it too, and no sample is sent.

    Args:
        key: What a sample is known by; None for the fields that a library has for that.
    """

    def __init__(self, key: Key | None = None) -> None:
        self.key = key
        self._name = uuid.uuid4().hex
        self._folder: str | None = None
        self._plans = 0

    def number(self, sample: Any) -> int:
        """The number of a sample's key.

        Raises:
            NoKeyError: If it has none.
        """
        return number_of(self._key_of(sample))

    def _key_of(self, sample: Any) -> Any:
        if callable(self.key):
            return self.key(sample)
        fields = sample if isinstance(sample, Mapping) else {}
        if self.key is not None:
            if self.key not in fields:
                raise NoKeyError(
                    f"key={self.key!r} is given, but a sample is {_described(sample)}; name a field of the samples, or pass "
                    "a function, AlignPrune(key=lambda sample: ...)."
                )
            return fields[self.key]
        if "__key__" not in fields:
            raise NoKeyError(
                f"The training set is a stream whose samples have no keys: one is {_described(sample)}; pass what a sample "
                "is known by in every epoch, AlignPrune(key=lambda sample: ...)."
            )
        # Of a webdataset: unique within its shard.
        return f"{_shard(str(fields.get('__url__', '')))}/{fields['__key__']}"

    def __call__(self, sample: Any) -> bool:
        """Whether a sample passes; all do where nothing is trained, or something else reads the same stream."""
        opened = _OPEN.get(self._name)
        return opened is None or not opened.is_read or self.passes(self.number(sample))

    def passes(self, number: int) -> bool:
        """Whether the sample with this number does."""
        opened = _OPEN[self._name]
        at = int(opened.numbers.searchsorted(number))
        is_in = at < len(opened.numbers) and int(opened.numbers[at]) == number
        opened.left_out += is_in != opened.inverts
        return is_in == opened.inverts

    def open(self) -> None:
        """Let samples pass by the newest plan in this process."""
        opened = _OPEN[self._name] = _Open()
        if self._folder is not None:
            newest = Path(self._folder, "newest").read_text()
            plan = np.load(Path(self._folder, newest), mmap_mode="r")
            opened.inverts, opened.numbers = bool(plan[0]), plan[1:]

    def reading(self, stream: Iterable[Any]) -> Iterator[Any]:
        """The samples of a stream that is to be pruned, within which the gate is asked."""
        opened, samples = _OPEN[self._name], iter(stream)
        while True:
            opened.is_read = True
            try:
                sample = next(samples, _END)
            finally:
                opened.is_read = False
            if sample is _END:
                return
            yield sample

    @property
    def prunes(self) -> bool:
        """Whether the plan that this process goes by leaves samples out."""
        return len(_OPEN[self._name].numbers) > 0

    def take_left_out(self) -> int:
        """How many samples have not passed in this process since it was last asked."""
        opened = _OPEN[self._name]
        count, opened.left_out = opened.left_out, 0
        return count

    def publish(self, numbers: Tensor, inverts: bool = False) -> None:
        """Let all processes know a plan, which they go by from when they next begin to read.

        Args:
            numbers: int64[m], the samples that do not pass, in any order, some perhaps twice.
            inverts: Whether these alone pass.
        """
        self._folder = self._folder or tempfile.mkdtemp(prefix="alignprune-")
        self._plans += 1
        name = f"{self._plans}.npy"
        np.save(Path(self._folder, name), torch.cat([torch.tensor([int(inverts)]), numbers.unique()]).numpy())
        Path(self._folder, "next").write_text(name)
        os.replace(Path(self._folder, "next"), Path(self._folder, "newest"))
        Path(self._folder, f"{self._plans - 1}.npy").unlink(missing_ok=True)

    @contextmanager
    def wide_open(self) -> Iterator[None]:
        """Let all samples pass whoever begins to read meanwhile, and then publish the plan again."""
        plan = torch.from_numpy(np.load(Path(str(self._folder), Path(str(self._folder), "newest").read_text())))
        self.publish(plan[:0])
        try:
            yield
        finally:
            self.publish(plan[1:], bool(plan[0]))

    def close(self) -> None:
        """Let all samples pass again, and leave nothing behind."""
        _OPEN.pop(self._name, None)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None


def _shard(url: str) -> str:
    """What a shard is known by, which may be read from elsewhere the next time: its name and its folder's."""
    if url.startswith("pipe:"):
        return url  # a command is no path: what it ends with may be the same for all shards
    return "/".join(Path(url.partition("?")[0]).parts[-2:])  # what is asked besides may be a signature that runs out


def _described(sample: Any) -> str:
    if isinstance(sample, Mapping):
        return f"a {type(sample).__name__} of {', '.join(map(repr, sample))}"
    return f"a {type(sample).__name__}"
