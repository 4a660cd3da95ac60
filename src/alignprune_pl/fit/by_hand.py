"""What a step that optimises by hand does besides handing its losses to ``manual_backward``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook


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
