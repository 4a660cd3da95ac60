"""The clean reference set: its mean loss after each epoch, with nothing of the run disturbed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric, MetricCollection

from alignprune_pl import _loop
from alignprune_pl.capture import LossCapture
from alignprune_pl.distributed import all_reduce_sum

LossFunction = Callable[[pl.LightningModule, Any], Tensor]


class Reference:
    """Evaluates the loss of a reference set in eval mode and without gradient.

    Args:
        data: A ``DataLoader`` or data set whose batches have the training batches' form.
        loss_fn: ``loss_fn(module, batch) -> float[b]``; by default the losses are captured from ``training_step``.

    Raises:
        ValueError: If ``data`` is neither, or empty.
    """

    def __init__(self, data: DataLoader[Any] | Dataset[Any], loss_fn: LossFunction | None = None) -> None:
        if not hasattr(data, "__len__") or not (isinstance(data, DataLoader) or hasattr(data, "__getitem__")):
            raise ValueError(
                f"reference={type(data).__name__} is given, but a DataLoader or a data set with a length is expected; "
                "pass a few clean samples in the training set's form."
            )
        if len(data) == 0:
            raise ValueError("reference is empty, but at least one clean sample is expected; pass some.")
        self.data = data
        self.loss_fn = loss_fn

    def mean_loss(self, trainer: pl.Trainer, module: pl.LightningModule, capture: LossCapture) -> float:
        """The mean loss over the whole reference set; each rank evaluates its share of the samples."""
        total = torch.zeros(2, dtype=torch.float64)
        with undisturbed(module):
            for number, batch in enumerate(self._loader(trainer)):
                batch = _loop.batch_on_device(trainer, module, batch)
                with trainer.precision_plugin.train_step_context():
                    losses = self._losses(module, batch, number, capture)
                total += torch.stack([losses.double().sum().cpu(), torch.tensor(float(len(losses)))])
        total = all_reduce_sum(total.float().to(module.device))
        return float(total[0] / total[1])

    def _losses(self, module: pl.LightningModule, batch: Any, number: int, capture: LossCapture) -> Tensor:
        if self.loss_fn is None:
            # As the loop does it: a second argument is the batch's number, whatever its name.
            takes_number = len(inspect.signature(module.training_step).parameters) > 1
            arguments = (batch, number) if takes_number else (batch,)
            return capture.observe(lambda: module.training_step(*arguments))
        losses = self.loss_fn(module, batch)
        if not isinstance(losses, Tensor) or losses.ndim != 1:
            raise ValueError(
                f"loss_fn returned {tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__}, but "
                "one loss for each sample of the batch is expected; return a tensor of shape [batch]."
            )
        return losses

    def _loader(self, trainer: pl.Trainer) -> DataLoader[Any]:
        if isinstance(self.data, DataLoader):
            loader = self.data
        else:
            user = trainer.fit_loop._combined_loader.flattened[0]  # type: ignore[union-attr]
            loader = DataLoader(self.data, batch_size=user.batch_size, collate_fn=user.collate_fn)
        if trainer.world_size == 1:
            return loader
        mine = range(trainer.global_rank, len(loader.dataset), trainer.world_size)  # type: ignore[arg-type]
        return _loop.with_sampler(loader, mine)  # type: ignore[arg-type]


@contextmanager
def undisturbed(module: pl.LightningModule) -> Iterator[None]:
    """Eval mode without gradient; afterwards the module is as it was.

    Training modes, buffers, metrics and the global random states are put back, and nothing is logged.
    """
    modes = {child: child.training for child in module.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(isolate_rng())
        stack.enter_context(_metrics_set_aside(module))
        stack.enter_context(_not_logging(module))
        try:
            module.eval()
            yield
        finally:
            for child, mode in modes.items():
                child.training = mode
            for buffer, value in buffers:
                buffer.copy_(value)


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
