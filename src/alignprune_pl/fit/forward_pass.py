"""The losses of given samples in eval mode and without gradient, with nothing of the run disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric, MetricCollection

from alignprune_pl.core.distributed import all_reduce_sum, broadcast_from_first
from alignprune_pl.core.trajectory import Observed
from alignprune_pl.fit import loop
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.progress import shown

LossFunction = Callable[[pl.LightningModule, Any], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """How samples are passed forward, and what they are called in messages.

    Attributes:
        trainer: The running Trainer.
        module: Its module.
        capture: Knows which losses of ``training_step`` are trained on.
        loss_fn: ``loss_fn(module, batch) -> float[b]`` in place of the captured losses.
        kind: What the batches are of, for messages.
    """

    trainer: pl.Trainer
    module: pl.LightningModule
    capture: LossCapture
    loss_fn: LossFunction | None
    kind: str

    def observe(self, loader: DataLoader[Any], samples: Tensor) -> Observed:
        """What each of ``samples`` shows, its loss; every rank evaluates its share of them.

        Args:
            loader: How they are loaded; its own sampler is replaced.
            samples: int64[m], indices into the loader's data set.

        Returns:
            float32[m] on the CPU, the same on all ranks; NaN where a loss is not finite. With their pairs, where they
            were seen.
        """
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        own = len(range(rank, len(samples), ranks))
        # Collectives inside the module (sharded parameters) need equally many batches on all ranks, so that a rank
        # which would have one sample less repeats one of another's.
        places = torch.arange(rank, rank + ranks * -(-len(samples) // ranks), ranks) % max(1, len(samples))
        served = loop.with_sampler(loader, samples[places].tolist())  # type: ignore[arg-type]
        # One slot a sample, filled by one rank: the result does not depend on how many ranks there are.
        slots = torch.zeros(3, len(samples), dtype=torch.float32)
        done = classes = 0
        with undisturbed(self.module):
            batches = shown(self.trainer, served, self.kind, len(served))
            for number, (batch, at) in enumerate(zip(batches, places.split(_size(served)), strict=True)):
                observed = self.of_batch(batch, number, len(at))
                losses = observed.value.float().cpu()
                # What comes after this rank's own samples is another's.
                real = min(len(at), own - done)
                done += real
                finite = losses[:real].isfinite()
                slots[0, at[:real]] = torch.where(finite, losses[:real], 0.0)
                slots[1, at[:real]] = finite.float()
                classes = max(classes, observed.classes)
                slots[2, at[:real]] = observed.pair_or_unknown()[:real].cpu().float() + 1
        slots = all_reduce_sum(slots.to(self.module.device)).cpu()
        return Observed(slots[0] / slots[1], slots[2].long() - 1, classes)  # 0 / 0 is NaN

    def of_batch(self, batch: Any, number: int, size: int) -> Observed:
        """What one batch of ``size`` samples shows: float[size], on their device.

        Raises:
            MisconfigurationException: If there is not one loss a sample.
        """
        batch = loop.batch_on_device(self.trainer, self.module, batch)
        with self.trainer.precision_plugin.train_step_context():
            if self.loss_fn is not None:
                observed = Observed(self.loss_fn(self.module, batch))
            else:
                observed = self.capture.observe(loop.training_step(self.trainer, self.module, batch, number))
                if self.capture.observes == "batch_loss" and observed.value.ndim == 0:
                    observed = Observed(observed.value.expand(size))
        losses: Any = observed.value
        if not isinstance(losses, Tensor) or losses.shape != (size,):
            given = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise MisconfigurationException(
                f"{'training_step' if self.loss_fn is None else 'loss_fn'} gave losses {given} for a {self.kind} batch of "
                f"{size} samples, but one for each is expected; return a tensor of shape [batch]."
            )
        return observed


def _size(loader: DataLoader[Any]) -> int:
    """Samples a batch; one without automatic batching."""
    return int(loader.batch_size or 1)


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
