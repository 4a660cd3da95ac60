"""Loaders of samples that are passed forward alone, as the user's loads those that are trained on."""

from __future__ import annotations

from copy import copy
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import BatchSampler, DataLoader, Dataset

from alignprune_pl.core.iterable import KeyedCollate
from alignprune_pl.fit import loop


def evaluation_loader(trainer: pl.Trainer, data: Dataset[Any] | None = None) -> DataLoader[Any]:
    """A loader of the training samples, or of ``data`` in their form, as the user's loads them but dropping none."""
    user = loop.training_loader(trainer)
    collate = user.collate_fn
    is_ours = isinstance(collate, KeyedCollate)  # a stream's, whose class has no __iter__ of its own
    made = DataLoader(
        user.dataset if data is None else data,
        batch_size=loop.batch_size(user),
        num_workers=user.num_workers,
        collate_fn=collate.users if isinstance(collate, KeyedCollate) else collate,
        pin_memory=user.pin_memory,
        timeout=user.timeout,
        worker_init_fn=user.worker_init_fn,
        multiprocessing_context=user.multiprocessing_context,
        prefetch_factor=user.prefetch_factor,
    )
    if not is_ours and _does_more(user):
        vars(made).update({name: value for name, value in vars(user).items() if name not in vars(made)})
        object.__setattr__(made, "__class__", type(user))
    return made


def of_samples(trainer: pl.Trainer, loader: DataLoader[Any], samples: list[int]) -> DataLoader[Any]:
    """A loader for evaluation that gives these samples, in this order."""
    if not _does_more(loader):
        return loop.with_sampler(trainer, loader, samples)  # type: ignore[arg-type]
    # Not made anew: what its class was given may not be known.
    made = copy(loader)
    batches = BatchSampler(samples, loop.batch_size(loader), drop_last=False)
    vars(made).update(sampler=samples, batch_sampler=batches, persistent_workers=False, _iterator=None)
    return made


def _does_more(loader: DataLoader[Any]) -> bool:
    """Whether a loader's class has an ``__iter__`` of its own, which may do more with a batch."""
    return type(loader).__iter__ is not DataLoader.__iter__
