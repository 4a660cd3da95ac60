"""The one place that touches private parts of Lightning's fit loop and data connector (written on 2.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.connectors.data_connector import _parse_num_batches
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.data import _update_dataloader
from torch.utils.data import DataLoader, Sampler


def intercept_train_loader(trainer: pl.Trainer, replace: Callable[[Any], Any]) -> Callable[[], None]:
    """Pass the training loader through ``replace`` whenever the fit loop asks for it.

    Called in ``setup``, because the loop makes the first iterator before ``on_train_start``.

    Returns:
        A function that undoes it, and may be called more than once.
    """
    source = trainer.fit_loop._data_source
    original = source.dataloader
    source.__dict__["dataloader"] = lambda: replace(original())

    def undo() -> None:
        if source.__dict__.pop("dataloader", None) is not None:
            # The loop keeps its loader for a later fit, which shall ask for the user's again.
            trainer.fit_loop._combined_loader = None

    return undo


def with_sampler(loader: DataLoader[Any], sampler: Sampler[int]) -> DataLoader[Any]:
    """The user's loader made again with ``sampler``: same class, same arguments; the original is untouched."""
    return _update_dataloader(loader, sampler)


def limited_batches(trainer: pl.Trainer, batches: int) -> int:
    """How many of an epoch's ``batches`` are trained under ``limit_train_batches``."""
    return int(_parse_num_batches(RunningStage.TRAINING, batches, trainer.limit_train_batches))


def set_epoch_length(trainer: pl.Trainer) -> None:
    """Tell the loop how long this epoch is: steps, progress bar, and when to validate.

    Called at an epoch's start, before its iterator is made: at the end of the epoch before, Lightning still
    compares its counters with that epoch's own length, and would leave out its scheduler step.
    """
    loop = trainer.fit_loop
    combined = loop._combined_loader
    if combined is None:
        return
    batches = limited_batches(trainer, len(combined.flattened[0]))
    combined.limits = [batches]
    loop.max_batches = batches
    interval = trainer.val_check_interval
    if trainer.val_check_batch in (None, float("inf")):
        return  # validation by time
    if isinstance(interval, float):
        trainer.val_check_batch = max(1, int(batches * interval))
    elif trainer.check_val_every_n_epoch is not None:
        # An interval longer than a shortened epoch would skip its validation.
        trainer.val_check_batch = min(interval, batches)


def batch_on_device(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """What the loop does with a training batch before ``training_step`` gets it."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
