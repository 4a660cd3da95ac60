"""What stands between the Trainer and a training step while a batch is under way."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alignprune_pl.fit.terms import Output, Seen


class Armed:
    """Stands for a method of a module while a batch is under way."""

    def __init__(self, original: Callable[..., Any], run: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self._original, self._run = original, run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it as the capture has it."""
        return self._run(self._original, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of the module, as for a moving average, has a step of its own, and no batch under way.
        return deepcopy(self._original, memo)


class Watch(TorchFunctionMode):
    """Keeps what is summed up in a step, which its graph does not hold.

    Attributes:
        seen: By the node that made the tensor and its output. Either a tensor whose first dimension was reduced; or, where
            torch reduces a loss itself, its elements, the share of each, and whether it is a mean.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[Output, Seen] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for made in result if isinstance(result, tuple) else (result,):
            if isinstance(made, Tensor) and made.grad_fn is not None:
                self._note(func, args, kwargs, made)
        return result

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Tensor) -> None:
        signature = _reducing(func)
        if made.ndim == 0 and signature is not None:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            is_averaged = bound.arguments["reduction"] != "sum"
            bound.arguments["reduction"] = "none"
            with torch.no_grad():
                elements = func(*bound.args, **bound.kwargs)
            total = elements.sum()
            if elements.ndim:
                self.seen[made.grad_fn, made.output_nr] = Seen(
                    elements, torch.where(total != 0, made.detach() / total, 0.0), is_averaged
                )
            return
        for given in (*args, *kwargs.values()):
            for tensor in given if isinstance(given, list | tuple) else (given,):
                is_reduced = isinstance(tensor, Tensor) and tensor.ndim > 0 and tensor.shape[:1] != made.shape[:1]
                if is_reduced and tensor.grad_fn is not None:
                    key = (tensor.grad_fn, tensor.output_nr)
                    self.seen[key] = Seen(tensor.detach(), version=tensor._version)


@functools.lru_cache(maxsize=256)
def _reducing(func: Any) -> inspect.Signature | None:
    """The signature of a loss of ``torch.nn.functional`` that reduces, and of which the graph does not tell all."""
    if getattr(func, "__module__", None) != "torch.nn.functional" or func.__name__ in (*_LOSSES, "ctc_loss"):
        return None  # the mean of ctc_loss divides each element by another number
    signature = inspect.signature(func)
    return signature if "reduction" in signature.parameters else None


def force_eager() -> AbstractContextManager[Any]:
    """Run compiled functions as they are written."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def is_compiled(step: Any) -> bool:
    """Whether a method was compiled as a whole."""
    return hasattr(step, "_torchdynamo_orig_callable")


def has_compiled_parts(module: nn.Module) -> bool:
    """Whether a part of a module was compiled."""
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )


@contextmanager
def losses_apart() -> Iterator[None]:
    """Let a compiler end its graph before each loss, which would otherwise not show what it is made of."""
    before = {name: getattr(F, name) for name in _LOSSES}
    try:
        for name in _LOSSES:
            setattr(F, name, _eager(name))
        yield
    finally:
        for name, function in before.items():
            setattr(F, name, function)


_LOSSES = (
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss",
    "smooth_l1_loss", "huber_loss",
)  # fmt: skip
_ORIGINAL = {name: getattr(F, name) for name in _LOSSES}


@functools.cache  # one object serves all steps, as the step would be compiled again for another
def _eager(name: str) -> Callable[..., Any]:
    return torch.compiler.disable(_ORIGINAL[name])  # type: ignore[no-any-return]
