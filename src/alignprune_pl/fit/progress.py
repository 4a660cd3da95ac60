"""Progress of what is passed forward between two epochs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from tqdm.auto import tqdm

from alignprune_pl.fit.twins import twins

if TYPE_CHECKING:
    from rich.progress import Progress  # which need not be installed

T = TypeVar("T")

_LONG = 2.0  # seconds; what is over before needs no bar


def shown(trainer: pl.Trainer, batches: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The batches, with a bar below the Trainer's once they take long; on rank 0, where the Trainer has a bar.

    Args:
        trainer: The running Trainer. A bar of its own that is neither rich's nor tqdm's has the screen to itself.
        batches: What is gone through.
        what: What they are of.
        total: How many there are.
    """
    bar = trainer.progress_bar_callback
    if not trainer.is_global_zero:
        return batches
    if isinstance(bar, twins(RichProgressBar)) and bar.is_enabled and bar.progress is not None:
        return _in_rich(bar.progress, batches, what, total)
    if isinstance(bar, twins(TQDMProgressBar)) and bar.is_enabled:
        bars: Iterable[T] = tqdm(batches, what, total, leave=False, delay=_LONG, position=1, dynamic_ncols=True)
        return bars
    return batches


def _in_rich(progress: Progress, batches: Iterable[T], what: str, total: int) -> Iterator[T]:
    began = time.monotonic()
    task = progress.add_task(what, total=total, visible=False)
    try:
        for batch in batches:
            yield batch
            progress.update(task, advance=1, visible=time.monotonic() - began > _LONG)
            progress.refresh()  # Lightning's does not by itself
    finally:
        progress.remove_task(task)
