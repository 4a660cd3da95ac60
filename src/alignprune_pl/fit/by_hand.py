"""What a step that optimises by hand does besides handing its losses to ``manual_backward``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from alignprune_pl.fit.graph import has_no_sample


class Unfollowed:
    """Gradients that a backward pass brought to parameters which was not followed, until they are cleared.

    They may be there for several batches, where gradients are accumulated by hand.
    """

    def __init__(self) -> None:
        self._gradients: dict[nn.Parameter, Tensor] = {}
        self._is_inside = False

    @contextmanager
    def watched(self, module: nn.Module) -> Iterator[None]:
        """Take note of what goes back by ``loss.backward()``, which ends in ``torch.autograd.backward``."""
        original = torch.autograd.backward

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            if self._is_inside or _has_no_sample(tensors):
                return original(tensors, *args, **kwargs)
            before = {parameter: _state(parameter) for parameter in module.parameters() if parameter.requires_grad}
            self._is_inside = True  # a checkpoint goes back within it
            try:
                original(tensors, *args, **kwargs)
            finally:
                self._is_inside = False
                self._note(before)

        torch.autograd.backward = backward
        try:
            yield
        finally:
            torch.autograd.backward = original

    @contextmanager
    def followed(self) -> Iterator[None]:
        """A backward pass that is followed, and may add to gradients of one that was not."""
        left = [parameter for parameter in self._gradients if self.has(parameter)]
        self._gradients = {}
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False
            self._gradients = {parameter: parameter.grad for parameter in left if parameter.grad is not None}

    def has(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter's gradient is, or is in part, of a backward pass that was not followed."""
        gradient = self._gradients.get(parameter)
        return gradient is not None and parameter.grad is gradient

    def reaches(self, optimizer: Optimizer) -> bool:
        """Whether an optimiser has such a gradient."""
        return bool(self._gradients) and any(self.has(parameter) for parameter in parameters_of(optimizer))

    def _note(self, before: dict[nn.Parameter, tuple[Tensor | None, int]]) -> None:
        for parameter, (gradient, version) in before.items():
            now, changes = _state(parameter)
            if now is not None and (now is not gradient or changes != version):
                self._gradients[parameter] = now


@contextmanager
def optimizer_steps(before: Callable[[Optimizer], Callable[[Callable[[], Any]], Any]]) -> Iterator[None]:
    """Stand before each step of an optimiser.

    Args:
        before: Is called with the optimiser, and gives what each call of the step's closure is passed through.
    """

    def hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        through = before(optimizer)
        place = 1  # after the optimiser itself
        closure = kwargs.get("closure", args[place] if len(args) > place else None)
        if not callable(closure):
            through(lambda: None)
            return None
        if "closure" in kwargs:
            return args, {**kwargs, "closure": lambda: through(closure)}
        return (*args[:place], lambda: through(closure), *args[place + 1 :]), kwargs

    handle = register_optimizer_step_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def parameters_of(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    """What an optimiser updates."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _state(parameter: nn.Parameter) -> tuple[Tensor | None, int]:
    """A parameter's gradient, and how often that was changed in place."""
    gradient = parameter.grad
    return gradient, 0 if gradient is None else gradient._version


def _has_no_sample(tensors: Any) -> bool:
    found = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    return all(isinstance(tensor, Tensor) and has_no_sample(tensor.grad_fn) for tensor in found)
