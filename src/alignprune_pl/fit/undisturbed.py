"""Eval mode for a while, after which nothing of the module, its metrics and the random states has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torchmetrics import Metric, MetricCollection

from alignprune_pl.core.distributed import broadcast_from_first


@contextmanager
def undisturbed(module: pl.LightningModule) -> Iterator[None]:
    """Eval mode without gradient, with rank 0's buffers on all ranks; afterwards the module is as it was.

    Ranks gather batch norm statistics of their own, but a checkpoint holds rank 0's. Training modes, buffers,
    metrics, the module's own attributes and the global random states are put back, and nothing is logged.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    with ExitStack() as stack:
        stack.enter_context(_attributes_put_back(module))
        stack.enter_context(torch.no_grad())
        stack.enter_context(isolate_rng())
        stack.enter_context(_metrics_set_aside(module))
        stack.enter_context(_not_logging(module))
        try:
            module.eval()
            broadcast_from_first([buffer for buffer, _ in buffers])
            yield
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def _attributes_put_back(module: pl.LightningModule) -> Iterator[None]:
    """Undo what is done to the module's own attributes: its mode, lists appended to, counters, buffers bound anew."""
    before = [
        (child, {name: value for name, value in vars(child).items() if not name.startswith("_")}, dict(child._buffers))
        for child in module.modules()
    ]
    contents = [
        (value, copy(value)) for _, names, _ in before for value in names.values() if type(value) in (list, dict, set)
    ]
    try:
        yield
    finally:
        for value, content in contents:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)
        for child, names, bound in before:
            for name in [name for name in vars(child) if not name.startswith("_") and name not in names]:
                del vars(child)[name]
            vars(child).update(names)
            child._buffers.clear()
            child._buffers.update(bound)


@contextmanager
def _metrics_set_aside(module: pl.LightningModule) -> Iterator[None]:
    """Let the step update copies of the module's metrics."""
    replaced = []
    for parent in list(module.modules()):
        if isinstance(parent, Metric | MetricCollection):
            continue  # copied whole, with its own parts
        for name, child in list(parent._modules.items()):
            if isinstance(child, Metric | MetricCollection):
                replaced.append((parent, name, child))
                parent._modules[name] = deepcopy(child)
    try:
        yield
    finally:
        for parent, name, metric in replaced:
            parent._modules[name] = metric


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
