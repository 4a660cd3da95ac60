"""What AlignPrune refuses before training starts, each in one sentence that says what to do instead."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler


def check_trainer(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Refuse a run whose batches or gradients are not pruning's to choose.

    Raises:
        MisconfigurationException: For manual optimization and for ``overfit_batches``.
    """
    if not module.automatic_optimization:
        raise MisconfigurationException(
            "AlignPrune got a module with automatic_optimization=False, but sample weights are applied to the loss "
            "that Lightning optimises; use automatic optimization."
        )
    overfit = getattr(trainer, "overfit_batches", 0)  # set by the trainer, not declared
    if overfit > 0:
        raise MisconfigurationException(
            f"AlignPrune got Trainer(overfit_batches={overfit}), which fixes the batches that pruning "
            "would choose; use limit_train_batches, or leave the callback out."
        )


def check_loader(loader: Any) -> None:
    """Refuse a training loader whose batches could not be matched with samples.

    Raises:
        MisconfigurationException: One sentence on what was found and what to do.
    """
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"AlignPrune got a {type(loader).__name__} as training loader, but it prunes one DataLoader; pass a single one."
        )
    if not hasattr(loader.dataset, "__len__") or not hasattr(loader.dataset, "__getitem__"):
        raise MisconfigurationException(
            f"AlignPrune got the iterable data set {type(loader.dataset).__name__}, but samples are chosen by index; use a "
            "map-style data set."
        )
    if type(loader.batch_sampler) is not BatchSampler:
        raise MisconfigurationException(
            f"AlignPrune got the batch sampler {type(loader.batch_sampler).__name__}, which its own order would replace; "
            "use DataLoader(batch_size=..., shuffle=True)."
        )
    sampler: Any = loader.sampler
    whole = type(sampler) in (RandomSampler, SequentialSampler, DistributedSampler)
    if whole and isinstance(sampler, RandomSampler):
        whole = not sampler.replacement and sampler.num_samples == len(loader.dataset)
    if not whole:
        raise MisconfigurationException(
            f"AlignPrune got the sampler {type(sampler).__name__}, whose choice its own would replace; use "
            "DataLoader(shuffle=True)."
        )
