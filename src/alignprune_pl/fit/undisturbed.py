"""Eval mode for a while, after which nothing of the module, its metrics and the random states has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from alignprune_pl.core.distributed import broadcast_from_first
from alignprune_pl.fit import loop
from alignprune_pl.fit.contents import Contents


@contextmanager
def undisturbed(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Eval mode without gradient, with rank 0's buffers on all ranks; afterwards the module is as it was.

    The Trainer says that it validates, so that a step or hook that augments while it trains does not.

    Ranks gather batch norm statistics of their own, but a checkpoint holds rank 0's. Training modes, buffers,
    metrics, the module's own attributes and the global random states are put back, and nothing is logged.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    frozen = _frozen(module)
    contents = Contents(module)
    with ExitStack() as stack:
        stack.enter_context(_contents_put_back(contents))
        stack.enter_context(torch.no_grad())
        stack.enter_context(isolate_rng())
        stack.enter_context(loop.validating(trainer))
        stack.enter_context(_metrics_set_aside(contents.metrics))
        stack.enter_context(_not_logging(module))
        try:
            module.eval()
            broadcast_from_first([buffer for buffer, _ in buffers])
            yield
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)
            _put_back(module, frozen)


# By module, the parameters without a gradient that its step writes to, as a moving average of others is.
_written: WeakKeyDictionary[pl.LightningModule, set[int]] = WeakKeyDictionary()


def _frozen(module: pl.LightningModule) -> list[tuple[torch.nn.Parameter, int, Tensor]]:
    """Parameters without a gradient, their versions and values: all in the first pass, then those that were written to."""
    known = _written.get(module)
    parameters = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    kept = [parameter for parameter in parameters if known is None or id(parameter) in known]
    return [(parameter, parameter._version, parameter.detach().to("cpu", copy=True)) for parameter in kept]


def _put_back(module: pl.LightningModule, frozen: list[tuple[torch.nn.Parameter, int, Tensor]]) -> None:
    written = [(parameter, value) for parameter, version, value in frozen if parameter._version != version]
    for parameter, value in written:
        parameter.copy_(value)
    _written.setdefault(module, set()).update(id(parameter) for parameter, _ in written)


@contextmanager
def _contents_put_back(contents: Contents) -> Iterator[None]:
    """Undo what is done to the module's own attributes: its mode, lists appended to, counters, buffers bound anew."""
    tensors = [(value, value.detach().clone()) for value in contents.tensors]
    try:
        yield
    finally:
        contents.put_back()
        for tensor, kept in tensors:
            tensor.detach().copy_(kept)


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
