"""A callback whose copy has run: in a process that the Trainer has started, or in place of the user's object.

The strategies ``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook`` train in processes of their own, to which the callback is
copied. What the copy of rank 0 has found comes back with the results that Lightning sends, and is taken over as it is
unpickled. Some libraries deep-copy the callbacks that they are given; then the one that was given tells where to ask.
"""

from __future__ import annotations

import os
import pickle
import weakref
from itertools import count
from typing import Any

import lightning.pytorch as pl

from alignprune_pl.fit import loop
from alignprune_pl.fit.twins import MisconfigurationException

_NUMBERS = count()
# All that are in use in this process, by number.
_LIVING: weakref.WeakValueDictionary[int, Copied] = weakref.WeakValueDictionary()


class Copied:
    """Base of a callback that is asked after a run what it has found."""

    _carried: tuple[str, ...] = ()  # attributes that come back from another process
    _own: tuple[str, ...] = ()  # attributes that a copy has none of

    _address: tuple[int, int]
    _copied_from: tuple[int, ...]
    _ran_as: weakref.ref[Copied] | None
    _has_run: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Number it; a copy is numbered too."""
        self = super().__new__(cls)
        self._address = (os.getpid(), next(_NUMBERS))
        self._copied_from = ()
        self._ran_as = None
        self._has_run = False
        _LIVING[self._address[1]] = self
        return self

    def __getstate__(self) -> dict[str, Any]:
        """All but what only this object knows."""
        return {**vars(self), **dict.fromkeys(("_ran_as", *self._own))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be the same in another process, and a copy in this one."""
        address = self._address
        vars(self).update(state)
        home, number = self._address
        if home == address[0]:
            self._address, self._copied_from = address, (*self._copied_from, number)

    def _set_out(self, trainer: pl.Trainer) -> None:
        """A run begins with this one."""
        self._has_run = True
        for original in filter(None, map(_LIVING.get, self._copied_from)):
            original._ran_as = weakref.ref(self)
        if self._address[0] != os.getpid() and loop.returns_results(trainer):
            _Letter(self._address, self._found())  # raises now what it would raise at the end
            loop.send_home(trainer, lambda: _Letter(self._address, self._found()))

    def _found(self) -> dict[str, Any]:
        """What another process takes over."""
        return {name: vars(self)[name] for name in self._carried}

    def _take_over(self, found: dict[str, Any]) -> None:
        """Have what another process has found."""
        vars(self).update(found)

    def _check_ran_itself(self) -> None:
        if self._ran_as is not None and not self._has_run:
            raise RuntimeError(
                f"{type(self).__name__} has not run itself, but a copy of it, as some libraries copy the callbacks that "
                "they are given; ask the one in trainer.callbacks."
            )


class _Letter:
    """What a callback's copy in another process has found; read where it is unpickled."""

    def __init__(self, address: tuple[int, int], found: dict[str, Any]) -> None:
        self.address = address
        try:
            # As bytes: Lightning's queue would share the memory of tensors with a process that ends.
            self.content = pickle.dumps(found)
        except Exception as error:  # what is not picklable can raise nearly anything
            raise MisconfigurationException(
                f"What AlignPrune finds could not be sent back from the processes that the strategy starts ({error}); "
                "define policy and score at the top of a module, or use strategy='ddp'."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _deliver, (self.address, self.content)


def _deliver(address: tuple[int, int], content: bytes) -> None:
    receiver = _LIVING.get(address[1]) if address[0] == os.getpid() else None
    if receiver is not None:
        receiver._has_run = True
        receiver._take_over(pickle.loads(content))
