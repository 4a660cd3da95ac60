"""Where a schedule that was built for full epochs stands in a run whose epochs are shorter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class FullRun:
    """The run that the same Trainer would make without pruning, counted in optimiser steps.

    A learning rate that is stepped with every batch was built for this run: its length is what
    ``trainer.estimated_stepping_batches`` says. A pruned run is at the same point of the schedule when it has done
    the same share of its epochs, or of ``max_steps`` where that is reached first.

    Args:
        batches: Batches of a full epoch on each rank.
        accumulate: Batches to an optimiser step.
        max_epochs: E; None where only ``max_steps`` ends the run.
        max_steps: The most optimiser steps; None where only ``max_epochs`` ends the run.

    Example:
        >>> run = FullRun(batches=10, accumulate=1, max_epochs=3, max_steps=None)
        >>> run.total_steps
        30
        >>> [run.position(epoch=1, batch=b, batches=4, global_step=10 + b) for b in (1, 2, 3, 4)]
        [12, 15, 17, 20]
    """

    batches: int
    accumulate: int
    max_epochs: int | None
    max_steps: int | None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of a full epoch."""
        return -(-self.batches // self.accumulate)

    @property
    def total_steps(self) -> int | None:
        """Optimiser steps of the whole run; None where neither limit is set."""
        by_epochs = None if self.max_epochs is None else self.max_epochs * self.steps_per_epoch
        limits = [limit for limit in (by_epochs, self.max_steps) if limit is not None]
        return min(limits) if limits else None

    def position(self, epoch: int, batch: int, batches: int, global_step: int) -> int:
        """The optimiser steps that the full run would have made at the same point.

        Args:
            epoch: The running epoch, from 0.
            batch: Batches done in it.
            batches: Its length.
            global_step: Optimiser steps really made so far.
        """
        total = self.total_steps
        if total is None:
            return global_step
        steps = -(-batches // self.accumulate)
        done = steps if batch >= batches else batch // self.accumulate
        by_epochs = 0
        if self.max_epochs is not None:
            by_epochs = total * (epoch * steps + done) // (self.max_epochs * steps)
        by_steps = 0 if self.max_steps is None else total * global_step // self.max_steps
        return min(total, max(by_epochs, by_steps))

    def scheduler_steps(self, position: int, frequency: int) -> int:
        """How often a scheduler with Lightning's ``frequency`` has been stepped when the full run is at ``position``."""
        if frequency == 1:
            return position
        an_epoch = _steps_of_an_epoch(self.batches, self.accumulate, frequency)
        epochs, steps = divmod(position, self.steps_per_epoch)
        return epochs * an_epoch + steps * an_epoch // self.steps_per_epoch


@lru_cache
def _steps_of_an_epoch(batches: int, accumulate: int, frequency: int) -> int:
    """Batches of a full epoch after which Lightning steps a scheduler: those counted by ``frequency`` that also optimise."""
    counted = range(frequency, batches + 1, frequency)
    return sum(1 for batch in counted if batch % accumulate == 0 or batch == batches)
