"""Learning-rate schedules that are stepped with every batch, kept in pace with epochs that are shorter than full ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.utilities.types import LRSchedulerConfig
from lightning_utilities.core.rank_zero import rank_zero_info

from alignprune_pl.fit import loop


class At(NamedTuple):
    """Where a run is.

    Attributes:
        epoch: From 0.
        batches: That were trained in it.
        length: The epoch's batches on each rank, within limits; None where nobody knows.
    """

    epoch: int
    batches: int
    length: int | None


class LrPace:
    """Steps the schedulers of a run to where they would be without pruning.

    It leaves schedulers alone that do not count their steps (no ``last_epoch``), or that end before a full run does: a
    warm-up, or one made for other epochs than full ones. Where the accumulation factor changes between epochs, it leaves
    all of them alone.

    What was before this fit stays as it was. A scheduler that is made anew begins at its beginning; and where an epoch has
    another number of steps than when the checkpoint was written, only the rest of the run has its steps by the new one.

    Args:
        trainer: The Trainer, its optimisers made.
        full_batches: Batches of a full epoch on each rank, before limits; None where nobody knows, and all are left alone.
        is_on: False leaves all schedulers alone.
        at: Where the fit begins.
        before: What ``state`` was when the checkpoint was written that the fit goes on from, if it does.

    Attributes:
        state: What a full run is reckoned by, and how many steps each scheduler is ahead of one that always had that; None
            of one that is left alone.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        full_batches: int | None,
        is_on: bool,
        at: At,
        before: dict[str, Any] | None,
    ) -> None:
        self.run = loop.full_run(trainer, full_batches or 1)
        configs = list(loop.step_schedulers(trainer))
        of = [self.run.batches, self.run.accumulate]
        if self.run.max_steps is not None or self.run.max_epochs is None:  # by epochs alone, a longer run begins alike
            of += [self.run.max_steps or 0, self.run.max_epochs or 0]
        is_same = before is not None and before["of"] == of and len(before["ahead"]) == len(configs)
        known = before["ahead"] if before is not None and is_same else [None] * len(configs)
        ahead = [self._ahead(trainer, *each, at) for each in zip(configs, known, strict=True)]
        is_on = is_on and full_batches is not None and loop.accumulates_evenly(trainer)
        self.kept = [each for each in zip(configs, ahead, strict=True) if is_on and self._fits(*each)]
        kept = {id(config) for config, _ in self.kept}
        self.state = {"of": of, "ahead": [a if id(c) in kept else None for c, a in zip(configs, ahead, strict=True)]}
        names = [type(config.scheduler).__name__ for config, _ in self.kept]
        others = [type(config.scheduler).__name__ for config in configs if id(config) not in kept]
        if names:
            rank_zero_info(
                f"AlignPrune stretches {', '.join(names)} over the run: pruned epochs have fewer steps, and it still ends "
                f"at its end ({self.run.total_steps} steps of full epochs). rescale_schedules=False leaves it alone."
            )
        if others:
            rank_zero_info(
                f"AlignPrune leaves {', '.join(others)} alone. It is stepped with every batch, and pruned epochs have fewer."
            )

    def _ahead(self, trainer: pl.Trainer, config: LRSchedulerConfig, before: int | None, at: At) -> int:
        """How many steps a scheduler is ahead."""
        done = getattr(config.scheduler, "last_epoch", None)
        if not isinstance(done, int) or (at.length is None and at.batches):
            return before or 0
        position = self.run.position(at.epoch, at.batches, at.length or 1, trainer.global_step)
        due = self.run.scheduler_steps(position, config.frequency)
        # A checkpoint may lack the steps after its last batch, so that what it was ahead counts and not how far it is.
        return done - due if before is None else before

    def _fits(self, config: LRSchedulerConfig, ahead: int) -> bool:
        total = self.run.total_steps
        if total is None or not isinstance(getattr(config.scheduler, "last_epoch", None), int):
            return False
        named = (getattr(config.scheduler, name, None) for name in ("total_steps", "T_max", "total_iters"))
        ends = [end for end in named if end is not None]
        return not ends or ends[0] >= self.run.scheduler_steps(total, config.frequency) + ahead

    def catch_up(self, trainer: pl.Trainer, at: At) -> None:
        """Called after a batch, and after Lightning's own step."""
        if self.kept and at.length is not None:
            loop.catch_up(trainer, self.run, self.kept, at.epoch, at.batches, at.length)
