"""Learning-rate schedules that are stepped with every batch, kept in pace with epochs that are shorter than full ones."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.utilities.types import LRSchedulerConfig
from lightning_utilities.core.rank_zero import rank_zero_info

from alignprune_pl.fit import loop


class LrPace:
    """Steps the schedulers of a run to where they would be without pruning.

    It leaves schedulers alone that do not count their steps (no ``last_epoch``), or that end before a full run does: a
    warm-up, or one made for other epochs than full ones. Where the accumulation factor changes between epochs, it leaves
    all of them alone.

    Args:
        trainer: The Trainer, its optimisers made.
        full_batches: Batches of a full epoch on each rank, before limits; None where nobody knows, and all are left alone.
        is_on: False leaves all schedulers alone.
    """

    def __init__(self, trainer: pl.Trainer, full_batches: int | None, is_on: bool) -> None:
        self.run = loop.full_run(trainer, full_batches or 1)
        configs = list(loop.step_schedulers(trainer))
        is_on = is_on and full_batches is not None and loop.accumulates_evenly(trainer)
        self.kept = [config for config in configs if is_on and self._fits(config)]
        kept, others = (
            ", ".join(type(config.scheduler).__name__ for config in configs if (config in self.kept) == is_kept)
            for is_kept in (True, False)
        )
        if kept:
            rank_zero_info(
                f"AlignPrune stretches {kept} over the run: pruned epochs have fewer steps, and it still ends at its end "
                f"({self.run.total_steps} steps of full epochs). rescale_schedules=False leaves it alone."
            )
        if others:
            rank_zero_info(
                f"AlignPrune leaves {others} alone. It is stepped with every batch, and pruned epochs have fewer."
            )

    def _fits(self, config: LRSchedulerConfig) -> bool:
        total = self.run.total_steps
        if total is None or not isinstance(getattr(config.scheduler, "last_epoch", None), int):
            return False
        named = (getattr(config.scheduler, name, None) for name in ("total_steps", "T_max", "total_iters"))
        ends = [end for end in named if end is not None]
        return not ends or ends[0] >= self.run.scheduler_steps(total, config.frequency)

    def catch_up(self, trainer: pl.Trainer, epoch: int, batches: int, length: int | None) -> None:
        """Called after ``batches`` of the ``length`` batches of ``epoch``, and after Lightning's own step."""
        if self.kept and length is not None:
            loop.catch_up(trainer, self.run, self.kept, epoch, batches, length)
