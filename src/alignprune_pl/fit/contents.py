"""What a module holds besides its parameters and buffers, however deep it lies, and how that is put back."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

# What a module has before its own attributes; its mode is put back with those.
_LIGHTNINGS = frozenset(vars(pl.LightningModule())) - {"training"}
# Objects that are looked into, nearest first: a replay buffer of millions shall not be walked through.
_MOST = 100_000
# Bytes of numpy arrays that are copied: what a module has of its data set is not.
_MOST_BYTES = 2**28
_NONE = object()
# Objects that hold no others.
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type, type(len), type(lambda: None)})
_STATES = {
    torch.Generator: ("get_state", "set_state"),
    random.Random: ("getstate", "setstate"),
    np.random.RandomState: ("get_state", "set_state"),
}
_NAMESPACES = frozenset({SimpleNamespace, UserDict, UserList})
_PLAIN_BASES = frozenset({"abc", "builtins", "collections", "typing"})
_OTHERS = frozenset({"alignprune_pl", "lightning", "lightning_fabric", "pytorch_lightning", "torch"})


class Contents:
    """What is reachable from a module: by its attributes, and those of its parts, through what they hold in turn.

    Lists, dictionaries, sets, deques and tuples are looked into, and objects of the user's own classes. An object stays
    what it is, as others may hold it too: its contents are put back.

    Args:
        module: The module.

    Attributes:
        tensors: All that were found, parameters and buffers too of modules that are no part of it, as those in a list.
        metrics: All that were found, with their parts; their states are not among the tensors.
    """

    def __init__(self, module: nn.Module) -> None:
        self.tensors: list[Tensor] = []
        self.metrics: list[Metric | MetricCollection] = []
        self._parts = list(module.modules())
        self._seen: dict[int, Any] = {}  # keeps them alive, so that no other gets the number
        self._undo: list[Callable[[], None]] = []
        self._bytes_left = _MOST_BYTES
        self._owners = {_home(cls) for cls in type(module).__mro__} - _OTHERS - sys.stdlib_module_names
        self._walk()

    def put_back(self) -> None:
        """Undo what has been done to them, tensors and metrics apart."""
        for undo in self._undo:
            undo()

    def _walk(self) -> None:
        waiting: deque[Any] = deque()
        self._seen.update((id(part), part) for part in self._parts)
        for part in self._parts:
            waiting.extend(self._of_module(part))
        while waiting and len(self._seen) < _MOST:
            value = waiting.popleft()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                waiting.extend(item for item in self._look_into(value) if type(item) not in _PLAIN)

    def _look_into(self, value: Any) -> Iterable[Any]:
        """What a value holds; how it is put back is noted."""
        kind = type(value)  # not isinstance, which asks the value: it may be a stand-in for something else
        if issubclass(kind, Tensor):
            self.tensors.append(value)
            return ()
        if issubclass(kind, nn.Module):
            return chain(
                value._parameters.values(), value._buffers.values(), value._modules.values(), self._of_module(value)
            )
        if kind is np.ndarray:
            self._copy_array(value)
            return ()
        if kind is np.random.Generator:
            self._undo.append(partial(setattr, value.bit_generator, "state", value.bit_generator.state))
        elif kind in _STATES:
            name, put_back = _STATES[kind]
            self._undo.append(partial(getattr(value, put_back), getattr(value, name)()))
        return chain(self._of_container(value), self._of_object(value))

    def _of_module(self, module: nn.Module) -> Iterable[Any]:
        self._undo.append(partial(_put_items_back, dict, module._buffers, list(module._buffers.items())))
        if isinstance(module, Metric | MetricCollection):
            self.metrics.append(module)
            return _not_set_aside(module)
        attributes = {name: value for name, value in vars(module).items() if name not in _LIGHTNINGS}
        self._undo.append(partial(_put_attributes_back, module, attributes))
        return attributes.values()

    def _of_container(self, value: Any) -> Iterable[Any]:
        base: Any
        for base in (OrderedDict, dict, list, deque, set, tuple, frozenset):
            if issubclass(type(value), base):
                break
        else:
            return ()
        if issubclass(base, dict):
            items = list(base.items(value))
            self._undo.append(partial(_put_items_back, base, value, items))
            return chain.from_iterable(items)
        content = list(base.__iter__(value))
        if base not in (tuple, frozenset):
            self._undo.append(partial(_put_content_back, base, value, content))
        return content

    def _of_object(self, value: Any) -> Iterable[Any]:
        if not (type(value) in _NAMESPACES or self._is_own(type(value))):
            return ()
        try:
            attributes = object.__getattribute__(value, "__dict__")
        except Exception:  # of __slots__ alone, or a property of the class's own
            return ()
        return (attributes,) if type(attributes) is dict else ()

    def _is_own(self, cls: type) -> bool:
        """Whether a class is the user's, and so are all that it derives from."""
        home = _home(cls)
        if home in _OTHERS or home in sys.stdlib_module_names:
            return False
        is_own = home in {"__main__", *self._owners} or not _is_installed(cls)
        return is_own and all(_home(base) in _PLAIN_BASES or self._is_own(base) for base in cls.__bases__)

    def _copy_array(self, array: np.ndarray[Any, Any]) -> None:
        if array.flags.writeable and array.nbytes <= self._bytes_left:
            self._bytes_left -= array.nbytes
            self._undo.append(partial(np.copyto, array, array.copy()))


def _not_set_aside(metric: Metric | MetricCollection) -> Iterable[Any]:
    """What a metric holds of which ``undisturbed`` makes no copy."""
    yield from metric._modules.values()
    for name, value in vars(metric).items():
        if type(value) is dict or isinstance(value, list):
            items = list(value.values()) if isinstance(value, dict) else value
            yield from (item for item in items if isinstance(item, nn.Module))
        elif name not in _LIGHTNINGS and not isinstance(value, Tensor):
            yield value


def _put_attributes_back(module: nn.Module, attributes: dict[str, Any]) -> None:
    for name in [name for name in vars(module) if name not in _LIGHTNINGS and name not in attributes]:
        del vars(module)[name]
    vars(module).update(attributes)


# A class of the user's may do more in its methods than its base does. What nothing has changed is left alone.


def _put_items_back(base: Any, value: Any, items: list[tuple[Any, Any]]) -> None:
    now = list(base.items(value))  # at once, as another thread may add to it
    if not _are_same(chain.from_iterable(now), chain.from_iterable(items)):
        base.clear(value)
        for name, item in items:
            base.__setitem__(value, name, item)


def _put_content_back(base: Any, value: Any, content: list[Any]) -> None:
    if not _are_same(list(base.__iter__(value)), content):
        base.clear(value)
        (base.update if base is set else base.extend)(value, content)


def _are_same(now: Iterable[Any], then: Iterable[Any]) -> bool:
    return all(a is b for a, b in zip_longest(now, then, fillvalue=_NONE))


def _home(cls: type) -> str:
    """The package that a class is of."""
    return str(cls.__module__).partition(".")[0]


def _is_installed(cls: type) -> bool:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)
