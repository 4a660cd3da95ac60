"""A callback whose copy has run: in a process that the Trainer has started, or in place of the user's object.

The strategies ``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook`` train in processes of their own, to which the callback is
copied. What the copy of rank 0 has found comes back in a file that Lightning's results name, and is taken over as they are
unpickled. Some libraries deep-copy the callbacks that they are given; then the one that was given tells where to ask.
"""

from __future__ import annotations

import os
import pickle
import weakref
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import uuid4

import lightning.pytorch as pl
from lightning_utilities.core.rank_zero import rank_zero_warn

from alignprune_pl.fit import loop
from alignprune_pl.fit.twins import MisconfigurationException

# A process that was copied has its parent's token, but another number of its own.
_TOKEN = uuid4().hex
_NUMBERS = count()
# All that are in use in this process, by number.
_LIVING: weakref.WeakValueDictionary[int, Copied] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Address:
    """Where an object is.

    Attributes:
        process: The number of its process.
        token: What tells that process from all others, on other machines too, but for those that were copied from it.
        number: The object's in its process.
    """

    process: int
    token: str
    number: int


class Copied:
    """Base of a callback that is asked after a run what it has found."""

    _carried: tuple[str, ...] = ()  # attributes that come back from another process
    _own: tuple[str, ...] = ()  # attributes that a copy has none of

    _address: Address
    _source: Address | None  # of what it is a copy of
    _copied_from: tuple[int, ...]  # the numbers of all that it is a copy of in this process
    _ran_as: weakref.ref[Copied] | None
    _has_run: bool
    _lost: str | None  # why what another process has found did not come back

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Number it; a copy is numbered too."""
        self = super().__new__(cls)
        self._address = Address(os.getpid(), _TOKEN, next(_NUMBERS))
        self._source = self._ran_as = self._lost = None
        self._copied_from = ()
        self._has_run = False
        _LIVING[self._address.number] = self
        return self

    def __getstate__(self) -> dict[str, Any]:
        """All but what only this object knows."""
        return {**vars(self), **dict.fromkeys(("_ran_as", *self._own))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a copy of the object whose state it is."""
        address = self._address
        vars(self).update(state)
        self._source, self._address = self._address, address
        is_of_this_process = self._source.token == _TOKEN
        self._copied_from = (*self._copied_from, self._source.number) if is_of_this_process else ()

    def _set_out(self, trainer: pl.Trainer) -> None:
        """A run begins with this one, of which nothing is lost yet."""
        self._lost = None
        self._is_told_of_run(self)
        if not loop.returns_results(trainer):
            return
        # A process that was copied has the object itself; to another one the object was sent.
        home = self._address if self._address.process != os.getpid() else self._source
        if home is not None:
            _pickled(self._found())  # raises now what it would raise at the end
            loop.send_home(trainer, lambda: _Letter(home, self._found()))

    def _is_told_of_run(self, ran: Copied) -> None:
        self._has_run = True
        for original in filter(None, map(_LIVING.get, self._copied_from)):
            original._ran_as = weakref.ref(ran)

    def _found(self) -> dict[str, Any]:
        """What another process takes over."""
        return {name: vars(self)[name] for name in self._carried}

    def _take_over(self, found: dict[str, Any]) -> None:
        """Have what another process has found."""
        vars(self).update(found)

    def _check_ran_itself(self) -> None:
        if self._lost is not None:
            raise RuntimeError(
                f"{type(self).__name__} ran in another process, from which what it has found did not come back "
                f"({self._lost})."
            )
        if self._ran_as is not None and not self._has_run:
            raise RuntimeError(
                f"{type(self).__name__} has not run itself, but a copy of it, as some libraries copy the callbacks that "
                "they are given; ask the one in trainer.callbacks."
            )


class _Letter:
    """What a callback's copy in another process has found; read where it is unpickled.

    It is in a file, as Lightning's own results are: the queue that they are sent through holds 64 KiB, and nobody reads it
    before the processes have ended. As bytes, since a queue would share the memory of tensors with a process that ends.
    """

    def __init__(self, home: Address, found: dict[str, Any]) -> None:
        self.home, self.path, self.lost = home, "", None
        try:
            with NamedTemporaryFile(prefix="alignprune-", delete=False) as file:
                self.path = file.name
                file.write(_pickled(found))
        except Exception as error:  # the weights still come back
            self.lost = str(error)

    def __reduce__(self) -> tuple[Any, ...]:
        return _deliver, (self.home, self.path, self.lost)


def _pickled(found: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(found)
    except Exception as error:  # what is not picklable can raise nearly anything
        raise MisconfigurationException(
            f"What AlignPrune finds could not be sent back from the processes that the strategy starts ({error}); "
            "define policy and score at the top of a module, or use strategy='ddp'."
        ) from error


def _deliver(home: Address, path: str, lost: str | None) -> None:
    receiver = _LIVING.get(home.number) if home.token == _TOKEN else None
    try:
        if receiver is not None:
            receiver._lost = lost
            receiver._is_told_of_run(receiver)
            if lost is None:
                receiver._take_over(pickle.loads(Path(path).read_bytes()))
    except Exception as error:  # what is unpickled can raise nearly anything
        receiver._lost = str(error)  # type: ignore[union-attr]
    finally:
        if path:
            Path(path).unlink(missing_ok=True)
    if receiver is not None and receiver._lost is not None:
        rank_zero_warn(f"What {type(receiver).__name__} has found did not come back from its process: {receiver._lost}")
