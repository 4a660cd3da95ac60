"""What stands between a training step and the losses that it calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from alignprune_pl.fit.losses import LOSSES


class ArmedStep:
    """Stands for a module's ``training_step`` while a batch is under way."""

    def __init__(self, original: Callable[..., Any], run: Callable[[Callable[[], Any]], Any]) -> None:
        functools.update_wrapper(self, original)
        self._original, self._run = original, run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it as the capture has it."""
        return self._run(functools.partial(self._original, *args, **kwargs))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of the module, as for a moving average, has a step of its own, and no batch under way.
        return deepcopy(self._original, memo)


def force_eager() -> AbstractContextManager[Any]:
    """Run compiled functions as they are written; torch before 2.6 has no such switch."""
    return torch.compiler.set_stance("force_eager") if hasattr(torch.compiler, "set_stance") else nullcontext()


class LossMode(TorchFunctionMode):
    """Hands calls of known losses to ``handle``, and leaves all else alone."""

    def __init__(self, handle: Callable[..., Any]) -> None:
        super().__init__()
        self._handle_loss = handle

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        # While a name is replaced, a loss hands over its replacement instead of itself.
        if name in LOSSES and (func is LOSSES[name] or func is getattr(F, name)):
            return self._handle_loss(name, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
