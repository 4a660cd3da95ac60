"""Where a run that was interrupted goes on."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl

from alignprune_pl.fit import loop
from alignprune_pl.fit.run import Run
from alignprune_pl.fit.twins import MisconfigurationException


def resume(trainer: pl.Trainer, run: Run, close_epoch: Callable[[], None]) -> None:
    """Bring our plan and Lightning's loop to the same batch of the same epoch.

    Args:
        trainer: The Trainer, before its first epoch.
        run: The run, which has taken over the checkpoint's state if there is one.
        close_epoch: Ends the run's epoch.

    Raises:
        MisconfigurationException: If the checkpoint's trajectories end elsewhere than its training.
    """
    at = loop.restart_position(trainer)
    if at is None:
        # A Trainer that was interrupted within an epoch, and fits again without a checkpoint, starts the epoch anew.
        run.restart_epoch()
    elif not run.was_restored:
        # The checkpoint was written without this callback: its epoch goes on over a new plan, the first one.
        run.planner.forget()
        run.make_plan(at.epoch, loop.max_epochs(trainer), trainer.strategy.root_device)
        run.batches_done = at.batches or 0
    else:
        if at.epoch == run.planner.epoch + 1:
            # Written after the epoch's last batch, but before its end: Lightning does not come back to it.
            close_epoch()
        if at.epoch != run.planner.epoch:
            raise MisconfigurationException(
                f"The checkpoint's trajectories end before epoch {run.planner.epoch}, but training goes on in epoch "
                f"{at.epoch}; resume from a checkpoint as Lightning wrote it."
            )
        if at.batches is not None and run.batches_done:
            run.batches_done = at.batches
    if run.batches_done == 0:
        if at is not None:
            loop.begin_epoch(trainer)
        if run.planner.max_epochs != loop.max_epochs(trainer):
            # Annealing depends on the run's length.
            run.make_plan(run.planner.epoch, loop.max_epochs(trainer), trainer.strategy.root_device)
