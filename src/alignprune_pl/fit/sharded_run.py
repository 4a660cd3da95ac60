"""A run of which each rank has a part: it holds, plans and trains the samples that it owns, and no others."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from alignprune_pl.core.contracts import Policy, Score, Scores, Suspects
from alignprune_pl.core.distributed import all_reduce_sum
from alignprune_pl.core.epoch_metrics import Row, counted_row
from alignprune_pl.core.shard_plan import ShardPlanner, ShardSampler
from alignprune_pl.core.shard_store import ShardTrajectories, own_part
from alignprune_pl.core.sharded import Shard
from alignprune_pl.fit import loop
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.checks import sampler_that_draws
from alignprune_pl.fit.run import Run
from alignprune_pl.fit.twins import MisconfigurationException


class ShardedRun(Run):
    """A run whose rank owns the samples i with i % world size == rank.

    Nothing is as long as the training set: trajectories, scores, plan and served samples are of the own ones. Ranks add up
    counts, and a checkpoint is put together on the first of them.
    """

    is_sharded = True
    planner: ShardPlanner
    store: ShardTrajectories
    _device: torch.device  # where ranks exchange

    @classmethod
    def new(
        cls,
        trainer: pl.Trainer,
        selects: tuple[Policy, Score, int],
        holds: tuple[int, int, torch.dtype],
        capture: LossCapture,
        noise_mask: Tensor | None,
        merges_batches: bool,
    ) -> ShardedRun:
        """A run at its beginning, of the own samples; see its base.

        Raises:
            MisconfigurationException: If the Trainer trains in processes that end before they are asked, or there are fewer
                samples than ranks.
        """
        num_samples, window, dtype = holds
        if loop.returns_results(trainer):
            raise MisconfigurationException(
                "AlignPrune(sharded=True) got a strategy that starts processes and ends them, from which the part of the "
                "first alone would come back; use strategy='ddp'."
            )
        if num_samples < trainer.world_size:
            raise MisconfigurationException(
                f"AlignPrune(sharded=True) got {num_samples} samples for {trainer.world_size} processes, but each owns at "
                "least one; use fewer processes."
            )
        shard = Shard(num_samples, trainer.world_size, trainer.global_rank)
        own = None if noise_mask is None else own_part(noise_mask, shard)
        run = cls(ShardPlanner(*selects, shard), ShardTrajectories(shard, window, dtype), capture, own, merges_batches)
        run._device = trainer.strategy.root_device
        return run

    @property
    def shard(self) -> Shard:
        """The own samples."""
        return self.store.shard

    @property
    def num_samples(self) -> int:
        """n, the size of the training set, of which this rank has a part."""
        return self.shard.num_samples

    def of_all(self, asked: str) -> Run:
        """Refuse what would be told of all samples.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            f"{asked} is of all samples, but with AlignPrune(sharded=True) no rank has them all; leave sharded=False."
        )

    def suspects(self) -> Suspects | None:
        """Refused."""
        return self.of_all("suspects()").suspects()

    def take(self, loader: DataLoader[Any]) -> bool:
        """Go on with the loader that the fit loop gives; whether it is another one than before.

        Raises:
            MisconfigurationException: If a sampler of the user's own draws its samples.
        """
        sampler = sampler_that_draws(loader)
        if sampler is not None:
            raise MisconfigurationException(
                f"AlignPrune(sharded=True) got the sampler {type(sampler).__name__}, which draws among all samples, but "
                "each rank trains those that it owns; use DataLoader(shuffle=True)."
            )
        return super().take(loader)

    @property
    def kept_share(self) -> float:
        """What the plans of all ranks keep of the epoch."""
        return sum(self.planner.plan.sizes) / self.num_samples

    def serve_in_loader(self, trainer: pl.Trainer) -> DataLoader[Any]:
        """The user's loader with a sampler that serves the own plan; before training it tells a full epoch's length."""
        self.sampler = ShardSampler(self.shard, self.planner.plan, self.cut, self.turn)
        self.sampler.skip_batches_once(self.batches_done)
        self.sampler.announces_full_epoch = True
        return loop.with_sampler(trainer, self.loader, self.sampler)

    def settle(self, trainer: pl.Trainer) -> None:
        """Nothing is added up: no other rank has seen the own samples."""

    def _row(self, reference: Tensor, scores: Scores, probed: int, full: int) -> Row:
        """The figures of the epoch that ends, of all ranks. Which scores are high is not compared with the wrong labels."""
        trained = self.sampler.trained(self.batches_done)
        mask = self.noise_mask
        wrong = 0 if mask is None else int(mask[trained // self.shard.world_size].sum())
        counts = torch.tensor([len(trained), self.store.nonfinite, wrong], device=self._device)
        kept, nonfinite, wrong = all_reduce_sum(counts).tolist()
        rate, epoch = self.planner.policy.noise_rate, self.planner.epoch
        row = counted_row(self.history, epoch, kept, full, reference, nonfinite, probed, rate)
        return row if mask is None else {**row, "noise_kept": wrong / kept if kept else math.nan}

    def state_dict(self) -> dict[str, Any]:
        """Nothing where other ranks have a part of it; they give it together in :meth:`state_of_ranks`."""
        return self._whole_state() if self.shard.world_size == 1 else {}

    def state_of_ranks(self, batches_trained: int, is_alone: bool) -> dict[str, Any]:
        """The state of all ranks on the first one, which writes it, and nothing on the others; see its base."""
        self.record_trained_batch(batches_trained)
        if is_alone and self.shard.world_size > 1:
            rank_zero_warn(
                "A rank has failed, so that the checkpoint has no trajectories, which are those of all ranks: resume from "
                "an earlier one to keep them."
            )
            return {}
        state = self._whole_state()
        return state if self.shard.rank == 0 else {}

    def _whole_state(self) -> dict[str, Any]:
        if not self.is_served:
            return {}
        planner = self.planner.state_of_ranks(self._device)
        return {"store": self.store.state_of_ranks(), "planner": planner, **self._progress()}

    def _load_parts(self, state: dict[str, Any], rank: int) -> None:
        has_plan = self.planner.load_state_of_ranks(state["planner"])
        self.store.load_state_of_ranks(state["store"])
        if not has_plan:  # another number of ranks wrote it
            self.make_plan(self.planner.epoch, self.planner.max_epochs, self._device)
