"""Eval mode for a while, after which nothing of the module, its metrics and the random states has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from alignprune_pl.core.distributed import broadcast_from_first
from alignprune_pl.fit import loop
from alignprune_pl.fit.contents import Contents
from alignprune_pl.fit.storages import Storages

Watched = Callable[[], AbstractContextManager[Any]]


@contextmanager
def undisturbed(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Watched]:
    """Eval mode without gradient, with rank 0's buffers on all ranks; afterwards the module is as it was.

    The Trainer says that it validates, so that a step or hook that augments while it trains does not.

    Ranks gather batch norm statistics of their own, but a checkpoint holds rank 0's. Training modes, buffers,
    metrics, the module's own attributes, what they hold, parameters that the step writes to and the global random
    states are put back, and nothing is logged.

    Yields:
        A context that each step has to run in.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    contents = Contents(module)
    # The trained ones too: a step may write to any. A wrapper that shards them moves them about itself.
    parameters = module.parameters() if loop.has_whole_parameters(trainer, module) else ()
    storages = Storages([*contents.tensors, *parameters], [buffer for buffer, _ in buffers])
    with ExitStack() as stack:
        stack.callback(storages.put_back)
        stack.callback(contents.put_back)
        stack.enter_context(torch.no_grad())
        stack.enter_context(isolate_rng())
        stack.enter_context(loop.validating(trainer))
        stack.enter_context(_metrics_set_aside(contents.metrics))
        stack.enter_context(_not_logging(module))
        try:
            module.eval()
            broadcast_from_first([buffer for buffer, _ in buffers])
            yield storages.watched
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def _metrics_set_aside(metrics: list[Metric | MetricCollection]) -> Iterator[None]:
    """Let the step update metrics with a state of their own, and then have their state back.

    A metric is not copied: one that was called with a graph holds tensors that cannot be.
    """
    before: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
        (metric, dict(vars(metric)), dict(metric._modules)) for metric in metrics
    ]
    clones: dict[int, Any] = {}  # metrics of a collection may share their states
    try:
        for metric, attributes, _ in before:
            vars(metric).update({name: _apart(value, clones) for name, value in attributes.items()})
        yield
    finally:
        for metric, attributes, parts in before:
            vars(metric).clear()
            vars(metric).update(attributes)
            metric._modules.clear()
            metric._modules.update(parts)


def _apart(value: Any, clones: dict[int, Any]) -> Any:
    """A value that may be changed in place without the original's being so."""
    if isinstance(value, Tensor):
        return clones.setdefault(id(value), value.detach().clone())
    if isinstance(value, list):
        return clones.setdefault(id(value), [_apart(item, clones) for item in value])
    if type(value) is dict and not any(isinstance(item, torch.nn.Module) for item in value.values()):
        return {name: _apart(item, clones) for name, item in value.items()}
    return value


@contextmanager
def _not_logging(module: pl.LightningModule) -> Iterator[None]:
    names = ("log", "log_dict")
    before = {name: module.__dict__[name] for name in names if name in module.__dict__}
    try:
        for name in names:
            module.__dict__[name] = lambda *args, **kwargs: None
        yield
    finally:
        for name in names:
            module.__dict__.pop(name, None)
        module.__dict__.update(before)
