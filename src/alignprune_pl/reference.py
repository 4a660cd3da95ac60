"""The clean reference set: its mean loss after each epoch, with nothing of the run disturbed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset
from torchmetrics import Metric, MetricCollection

from alignprune_pl import _loop
from alignprune_pl.capture import LossCapture
from alignprune_pl.checks import takes_all
from alignprune_pl.distributed import all_reduce_sum, broadcast_from_first

LossFunction = Callable[[pl.LightningModule, Any], Tensor]


class Reference:
    """Evaluates the loss of a reference set in eval mode and without gradient.

    Args:
        data: A ``DataLoader`` or data set whose batches have the training batches' form.
        loss_fn: ``loss_fn(module, batch) -> float[b]``; by default the losses are captured from ``training_step``.

    Raises:
        ValueError: If ``data`` is neither, has no length, is empty, or would leave samples out.
    """

    def __init__(self, data: DataLoader[Any] | Dataset[Any], loss_fn: LossFunction | None = None) -> None:
        dataset: Any = data.dataset if isinstance(data, DataLoader) else data
        if (
            isinstance(dataset, IterableDataset)
            or not hasattr(dataset, "__len__")
            or not hasattr(dataset, "__getitem__")
        ):
            raise ValueError(
                f"reference={type(dataset).__name__} is given, but a DataLoader or a data set with a length is expected; "
                "pass a few clean samples in the training set's form."
            )
        if len(dataset) == 0:
            raise ValueError("reference is empty, but at least one clean sample is expected; pass some.")
        if isinstance(data, DataLoader) and (data.drop_last or type(data.batch_sampler) is not BatchSampler):
            raise ValueError(
                "reference is a DataLoader with drop_last=True or a batch sampler of its own, but every clean sample is "
                "evaluated once an epoch; make it with DataLoader(dataset, batch_size=...) alone."
            )
        if isinstance(data, DataLoader) and not takes_all(data.sampler):
            raise ValueError(
                f"reference is a DataLoader with the sampler {type(data.sampler).__name__}, but all samples of its data set "
                "count as clean; pass torch.utils.data.Subset(dataset, clean_indices)."
            )
        self.data = data
        self.loss_fn = loss_fn
        self.num_samples = len(dataset)

    def check(self, trainer: pl.Trainer, module: pl.LightningModule, capture: LossCapture) -> None:
        """Evaluate one batch, so that a reference of the wrong form is told before training starts.

        Raises:
            MisconfigurationException: If the batch cannot be evaluated.
        """
        try:
            with undisturbed(module):
                loader = self._loader(trainer)
                self._losses(trainer, module, next(iter(loader)), 0, capture, _batches(loader)[0])
        except MisconfigurationException:
            raise
        except Exception as error:
            how = "training_step" if self.loss_fn is None else "loss_fn"
            raise MisconfigurationException(
                f"The reference's first batch failed in {how} with {type(error).__name__} ({error}); its samples must have "
                "the training set's form, so pass a reference made like the training set."
            ) from error

    def mean_loss(self, trainer: pl.Trainer, module: pl.LightningModule, capture: LossCapture) -> tuple[float, int]:
        """The mean loss over the whole reference set; each rank evaluates its share of the samples.

        Returns:
            The mean over the samples whose loss is finite, NaN if none is, and how many are not.
        """
        loader = self._loader(trainer)
        own = len(range(trainer.global_rank, self.num_samples, trainer.world_size))
        # One slot a sample, filled by one rank: the sum does not depend on how many ranks there are.
        slots = torch.zeros(2, self.num_samples, dtype=torch.float32)
        done = 0
        with undisturbed(module):
            for number, (batch, index) in enumerate(zip(loader, _batches(loader), strict=True)):
                losses = self._losses(trainer, module, batch, number, capture, index).float().cpu()
                done += len(index)
                # What comes after this rank's own samples is another's.
                index = index[: len(index) - max(0, done - own)]
                losses = losses[: len(index)]
                slots[0, index] = torch.where(losses.isfinite(), losses, 0.0)
                slots[1, index] = losses.isfinite().float()
        total, count = all_reduce_sum(slots.to(module.device)).double().cpu().sum(dim=1).tolist()
        return (total / count if count else math.nan), self.num_samples - int(count)

    def _losses(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        batch: Any,
        number: int,
        capture: LossCapture,
        index: Tensor,
    ) -> Tensor:
        batch = _loop.batch_on_device(trainer, module, batch)
        with trainer.precision_plugin.train_step_context():
            if self.loss_fn is not None:
                losses = self.loss_fn(module, batch)
            else:
                step = _loop.training_step(trainer, module, batch, number)
                losses = capture.observe(step)
                if capture.observes == "batch_loss" and losses.ndim == 0:
                    losses = losses.expand(index.shape)
        if not isinstance(losses, Tensor) or losses.shape != index.shape:
            given = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise MisconfigurationException(
                f"{'training_step' if self.loss_fn is None else 'loss_fn'} gave losses {given} for a reference batch of "
                f"{len(index)} samples, but one for each is expected; return a tensor of shape [batch]."
            )
        return losses

    def _loader(self, trainer: pl.Trainer) -> DataLoader[Any]:
        if isinstance(self.data, DataLoader):
            loader = self.data
        else:
            user = trainer.fit_loop._combined_loader.flattened[0]  # type: ignore[union-attr]
            loader = DataLoader(self.data, batch_size=user.batch_size, collate_fn=user.collate_fn)
        # Collectives inside the module (sharded parameters) need equally many batches on all ranks, so that a rank
        # which would have one sample less repeats one of another's.
        ranks = trainer.world_size
        mine = [
            (trainer.global_rank + ranks * number) % self.num_samples for number in range(-(-self.num_samples // ranks))
        ]
        return _loop.with_sampler(loader, mine)  # type: ignore[arg-type]


def _batches(loader: DataLoader[Any]) -> list[Tensor]:
    """The samples of each of a loader's batches, int64[b]."""
    return list(torch.tensor(list(loader.sampler), dtype=torch.int64).split(int(loader.batch_size or 1)))


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
