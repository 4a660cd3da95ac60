"""The clean reference set: the loss of its samples after each epoch."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from alignprune_pl.core.collating import ORDER_IS_LOST, OrderIsLost
from alignprune_pl.core.trajectory import Observed
from alignprune_pl.fit import loop
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.checks import takes_all
from alignprune_pl.fit.evaluation import evaluation_loader
from alignprune_pl.fit.forward_pass import ForwardPass, LossFunction
from alignprune_pl.fit.run import Run
from alignprune_pl.fit.twins import MisconfigurationException

__all__ = ["LossFunction", "Reference", "try_out"]

_TRIED = 32  # samples whose order is looked at


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
        batches = loop.batching(data) if isinstance(data, DataLoader) else None
        if isinstance(data, DataLoader) and (batches is None or batches.drop_last):
            raise ValueError(
                "reference is a DataLoader with drop_last=True or a batch sampler of its own, but every clean sample is "
                "evaluated once an epoch; make it with DataLoader(dataset, batch_size=...) alone."
            )
        if batches is not None and not takes_all(batches.sampler, len(dataset)):
            raise ValueError(
                f"reference is a DataLoader with the sampler {type(batches.sampler).__name__}, but all samples of its data "
                "set count as clean; pass torch.utils.data.Subset(dataset, clean_indices)."
            )
        self.data = data
        self.loss_fn = loss_fn
        self.num_samples = len(dataset)

    def check(self, trainer: pl.Trainer, module: pl.LightningModule, capture: LossCapture, most: int) -> None:
        """Evaluate one batch, so that a reference of the wrong form is told before training starts.

        Args:
            trainer: The Trainer.
            module: Its module.
            capture: One that may learn from the batch.
            most: Its samples, at most; it is passed with a graph of the whole network, as in training.

        Raises:
            MisconfigurationException: If the batch cannot be evaluated.
        """
        self._forward_pass(trainer, module, capture).try_one(self._loader(trainer), min(most, self.num_samples))

    def observe(self, trainer: pl.Trainer, module: pl.LightningModule, capture: LossCapture) -> Observed:
        """What each reference sample shows, its loss, float32[r] on the CPU; NaN where it is not finite."""
        samples = torch.arange(self.num_samples)
        return self._forward_pass(trainer, module, capture).observe(self._loader(trainer), samples)

    def _forward_pass(self, trainer: pl.Trainer, module: pl.LightningModule, capture: LossCapture) -> ForwardPass:
        return ForwardPass(trainer, module, capture, self.loss_fn, "reference")

    def _loader(self, trainer: pl.Trainer) -> DataLoader[Any]:
        if isinstance(self.data, DataLoader):
            return self.data
        return evaluation_loader(trainer, self.data)


def try_out(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    run: Run,
    reference: Reference | None,
    loss_fn: LossFunction | None,
    probe_data: Dataset[Any] | None,
    is_explicit: bool,
) -> None:
    """Pass a batch of the reference, and of what probes are taken from, forward before the first update.

    Raises:
        MisconfigurationException: If that fails.
    """
    if run.loader.collate_fn is not default_collate and not isinstance(run.loader.dataset, IterableDataset):
        check_order(run.loader, run.sampler.mine.index[: min(run.usual_batch, _TRIED)])
    # A capture of its own learns nothing from them; an explicit one learns nothing anyway.
    capture = run.capture if is_explicit else LossCapture(observes=run.capture.observes)
    most = run.usual_batch
    if reference is not None:
        reference.check(trainer, module, capture, most)
    if probe_data is not None and run.planner.policy.probes:
        loader = evaluation_loader(trainer, probe_data)
        passed = ForwardPass(trainer, module, capture, loss_fn, "probe")
        passed.try_one(loader, min(most, len(probe_data)))  # type: ignore[arg-type]


def check_order(loader: DataLoader[Any], samples: Tensor) -> None:
    """Refuse a loader whose ``collate_fn`` does not keep the order of the samples.

    Args:
        loader: Of a data set with indices; a worker of its kind loads them, if it has any.
        samples: int64[k], those that are looked at; others may not be there to be loaded.

    Raises:
        MisconfigurationException: If the order is lost.
    """
    tried = DataLoader(
        Subset(loader.dataset, samples.tolist()),
        batch_size=len(samples),
        num_workers=min(1, loader.num_workers),
        collate_fn=OrderIsLost(loader.collate_fn),
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator(),  # and not the global one
    )
    with isolate_rng():
        is_lost = any(tried)
    if is_lost:
        raise MisconfigurationException(ORDER_IS_LOST)
