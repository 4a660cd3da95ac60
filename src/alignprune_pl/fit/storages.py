"""The memory of tensors, put back byte by byte after steps that may have written to it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

# Bytes that are copied before a step, on their device. Of more a copy is made just before something is written: that
# costs a multiple of a small network's step, but not of one that large.
_SMALL = 2**28


class Storages:
    """The memory of tensors as it is now.

    It is told by storages, not versions or values: a write by ``.data`` leaves the version as it was, and ``.data = ...``
    the memory.

    Args:
        tensors: Those to put back. Only dense ones are, and the local parts of distributed ones.
        others: Those that are not, nor what shares their memory.
    """

    def __init__(self, tensors: Iterable[Tensor], others: Iterable[Tensor]) -> None:
        apart = {_key(plain) for plain in map(_plain, others) if plain is not None}
        held = [plain for plain in map(_plain, tensors) if plain is not None and _key(plain) not in apart]
        self._before = [(tensor, tensor.detach(), _version(tensor)) for tensor in held]
        self._bytes = {_key(tensor): _bytes(tensor) for tensor in held}
        self._kept: dict[int, Tensor] = {}
        self._is_small = sum(map(len, self._bytes.values())) <= _SMALL
        if self._is_small:
            self._kept = {key: memory.clone() for key, memory in self._bytes.items()}

    def watched(self) -> AbstractContextManager[Any]:
        """Let a step write to them."""
        return nullcontext() if self._is_small else _Watch(self._bytes, self._kept)

    def put_back(self) -> None:
        """Undo what was written, and what ``.data`` was set to."""
        for key, kept in self._kept.items():
            memory = self._bytes[key]
            if memory.untyped_storage().nbytes() != len(kept):
                memory.untyped_storage().resize_(len(kept))
            # What is mapped from a file may not be written to.
            if memory.device.type != "cpu" or not torch.equal(memory, kept):
                memory.copy_(kept)
        unseen = 0
        for tensor, before, version in self._before:
            unseen += _version(tensor) != version and _key(before) not in self._kept
            if _form(tensor) != _form(before):
                tensor.data = before
        if unseen:
            rank_zero_warn(
                f"training_step wrote to {unseen} large tensors for a reference or probe batch where AlignPrune cannot see "
                "it, as in a compiled function, so that they are not put back; write to them in on_train_batch_end, or in a "
                "function with torch.compiler.disable."
            )


class _Watch(TorchDispatchMode):
    """Copies the memory of a tensor just before an operation writes to it."""

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled functions be compiled."""
        return True

    def __init__(self, memory: dict[int, Tensor], kept: dict[int, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory, self._kept = memory, kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for place, name in _written(func):
            given = args[place] if place < len(args) else kwargs.get(name)
            for tensor in given if isinstance(given, list | tuple) else (given,):
                plain = _plain(tensor) if isinstance(tensor, Tensor) else None
                key = None if plain is None else _key(plain)
                if key in self._memory and key not in self._kept:
                    self._kept[key] = self._memory[key].clone()
        return func(*args, **kwargs)


# Batch norm writes to them, but torch does not say so of all its kinds.
_UNTOLD = ("running_mean", "running_var")


@lru_cache(maxsize=4096)
def _written(func: Any) -> list[tuple[int, str]]:
    """Place and name of each argument that an operation writes to."""
    arguments = func._schema.arguments if isinstance(func, torch._ops.OpOverload) else []
    return [
        (place, argument.name)
        for place, argument in enumerate(arguments)
        if (argument.alias_info is not None and argument.alias_info.is_write) or argument.name in _UNTOLD
    ]


def _plain(tensor: Tensor) -> Tensor | None:
    """The tensor that has the memory; None where there is none to be had."""
    if is_lazy(tensor) or tensor.is_nested:
        return None
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        with torch.no_grad():
            tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    is_dense = type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__ and tensor.layout is torch.strided
    return tensor if is_dense and tensor.device.type not in ("meta", "xla") else None


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> Tensor:
    """All of the memory that a tensor may be only a view of, with a version of its own."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return _key(tensor), tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
