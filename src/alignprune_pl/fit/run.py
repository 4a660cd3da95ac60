"""A run of pruned training: its parts, how far it has come, and what of it a checkpoint holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from alignprune_pl.core.contracts import Policy, Score, Scores, Suspects
from alignprune_pl.core.distributed import all_reduce_sum
from alignprune_pl.core.draws import Draw, draw_on_first_rank
from alignprune_pl.core.epoch_metrics import Row, epoch_row, mean_of_finite
from alignprune_pl.core.gate import Gate
from alignprune_pl.core.keys import KeyTable
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.sampler import PruningBatchSampler, PruningSampler
from alignprune_pl.core.stopwatch import Stopwatch
from alignprune_pl.core.trajectory import Observed, TrajectoryStore
from alignprune_pl.fit import loop
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.checks import check_data_size, kind_of_loader, sampler_that_draws
from alignprune_pl.fit.forward_pass import LossFunction, probe
from alignprune_pl.fit.lr_pace import LrPace
from alignprune_pl.fit.predictions import Predictions, predictions
from alignprune_pl.fit.run_state import Kept

Serving = PruningSampler | PruningBatchSampler


class Run(Kept):
    """Follows the batches of an epoch into the store, and an epoch's end into the next plan.

    Args:
        planner: Holds the plan in force.
        store: The trajectories.
        capture: Where a batch's losses come from.
        noise_mask: bool[n], the samples whose label is known to be wrong, for measurement.
        merges_batches: Whether batches of a batch sampler of the user's own are merged where they have become small.

    Attributes:
        is_sharded: Whether each rank has the trajectories of its own samples alone.
        batches_done: Batches of the running epoch that are trained and recorded.
        history: One row of figures for each finished epoch.
        stopwatch: How long it takes.
        was_restored: Whether it goes on from a checkpoint of its own.
        pace: Steps the schedules; None before training has started.
        paced: Its state, or that of the run whose checkpoint this one goes on from.
    """

    def __init__(
        self,
        planner: Planner,
        store: TrajectoryStore,
        capture: LossCapture,
        noise_mask: Tensor | None = None,
        merges_batches: bool = False,
    ) -> None:
        self.planner = planner
        self.store = store
        self.capture = capture
        self.noise_mask = noise_mask
        self.merges_batches = merges_batches
        self.batches_done = 0
        self.history: list[Row] = []
        self.stopwatch = Stopwatch()
        self.was_restored = False
        self.pace: LrPace | None = None
        self.paced: dict[str, Any] | None = None
        self._loader: DataLoader[Any] | None = None
        self._kind = ""
        self._sampler: Serving | None = None

    @classmethod
    def new(
        cls,
        trainer: pl.Trainer,
        selects: tuple[Policy, Score, int],
        holds: tuple[int, int, torch.dtype],
        capture: LossCapture,
        noise_mask: Tensor | None,
        merges_batches: bool,
    ) -> Run:
        """A run at its beginning.

        Args:
            trainer: The Trainer, whose processes have come together.
            selects: The host framework, what it reads, and the seed.
            holds: n, the size of the training set; N, the epochs that a trajectory remembers; and how losses are stored.
            capture: Where a batch's losses come from.
            noise_mask: bool[n], the samples whose label is known to be wrong.
            merges_batches: Whether batches are merged.
        """
        planner = Planner(*selects)
        store = TrajectoryStore(*holds, pairs=planner.score.observes == "rival")
        return cls(planner, store, capture, noise_mask, merges_batches)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy can go on with: all but the user's loader and what belongs to the Trainer."""
        return {**vars(self), "_loader": None, "pace": None}

    def to_send(self) -> Run:
        """What another process can be given of it."""
        return self

    def arrived(self, gate: Gate) -> None:
        """Go on in the process that it was sent to, whose callback has this gate."""

    @property
    def loader(self) -> DataLoader[Any]:
        """The user's training loader, as the fit loop last gave it and :meth:`take` took it.

        Raises:
            RuntimeError: Before there is one.
        """
        if self._loader is None:
            raise RuntimeError("The run has no loader: the training loader was not made through the fit loop.")
        return self._loader

    def take(self, loader: DataLoader[Any]) -> bool:
        """Go on with the loader that the fit loop gives; whether it is another one than before."""
        before, self._loader = self._loader, loader
        self._kind = self._kind_of_loader()
        return before is not loader

    def _kind_of_loader(self) -> str:
        return kind_of_loader(sampler_that_draws(self.loader) is not None, self.cut)

    @property
    def batching(self) -> BatchSampler | None:
        """How the user's loader makes batches; None where a batch sampler of the user's own does."""
        return loop.batching(self.loader)

    @property
    def cut(self) -> int:
        """Samples that the loader makes a batch of; 0 where a batch sampler of the user's own makes them."""
        return 0 if self.batching is None else self.batching.batch_size

    @property
    def turn(self) -> int:
        """By which samples that wait for another epoch change: without shuffling they would be the same ones."""
        return 0 if self.shuffles and self.planner.draw is None else self.planner.epoch

    @property
    def shuffles(self) -> bool:
        """Whether samples are trained in random order, as the user's loader has it."""
        sampler: Any = None if self.batching is None else self.batching.sampler
        return not isinstance(sampler, SequentialSampler) and getattr(sampler, "shuffle", True)

    @property
    def usual_batch(self) -> int:
        """Samples of a usual batch on each rank."""
        return self.sampler.batch_size

    @property
    def is_served(self) -> bool:
        """Whether the training loader was made."""
        return self._sampler is not None

    @property
    def kind(self) -> str:
        """What decides which samples an epoch has, in words."""
        return self._kind

    @property
    def batch_of_all_ranks(self) -> list[int]:
        """Samples that the loader makes a batch of, and the number of ranks."""
        return [self.sampler.cut, self.sampler.num_replicas]

    @property
    def keys(self) -> KeyTable:
        """What samples are known by, where that is not their place.

        Raises:
            RuntimeError: If it is.
        """
        raise RuntimeError("The samples have no keys, as the training set is no stream: they are known by their index.")

    @property
    def num_samples(self) -> int:
        """n, the size of the training set."""
        return self.store.num_samples

    def of_all(self, asked: str) -> Run:
        """Itself, where ``asked`` can be told of all samples.

        Raises:
            RuntimeError: If this process has a part of them.
        """
        return self

    def suspects(self) -> Suspects | None:
        """The samples whose label the policy takes for wrong; None if it suspects no one."""
        return self.planner.suspects(self.num_samples)

    @property
    def kept_share(self) -> float:
        """What the plan keeps of the epoch."""
        plan, draw = self.planner.plan, self.planner.draw
        if draw is None:
            return len(plan.keep) / self.store.num_samples
        return float((~draw.weights(plan).isnan()).float().mean())

    @property
    def sampler(self) -> Serving:
        """What serves the plan; another one where the training loader is made again.

        Raises:
            RuntimeError: Before the training loader was made.
        """
        if self._sampler is None:
            raise RuntimeError("The run has no sampler: the training loader was not made through the fit loop.")
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Serving) -> None:
        self._sampler = sampler

    def to(self, device: torch.device) -> None:
        """Have trajectories and served samples on ``device``."""
        self.store.to(device)
        self.sampler.to(device)

    def make_plan(self, epoch: int, max_epochs: int | None, device: torch.device, asks_anew: bool = False) -> None:
        """Plan ``epoch`` from what the trajectories are now.

        Args:
            epoch: The epoch, from 0.
            max_epochs: The length of the run; None if unknown.
            device: Where ranks compare their plans.
            asks_anew: Whether a sampler that draws is asked although it has been for this epoch, as another loader has it.
        """
        scores = self.planner.scores(self.store)
        held = self.planner.draw if self.planner.epoch == epoch and not asks_anew else None
        draw = self._drawn(epoch, device, asks_anew) if held is None else held
        self.planner.make(self.store, scores, epoch, max_epochs, self.shuffles, device, draw)

    def plan_for_loader(self, max_epochs: int | None, device: torch.device) -> None:
        """Plan the epoch again, for another loader, where its sampler or the former one's draws."""
        if self.planner.draw is not None or sampler_that_draws(self.loader) is not None:
            self.make_plan(self.planner.epoch, max_epochs, device, asks_anew=True)

    def _drawn(self, epoch: int, device: torch.device, is_another: bool = False) -> Draw | None:
        """What the user's sampler draws for an epoch; None where there is none that draws."""
        sampler = sampler_that_draws(self.loader)
        if sampler is None:
            return None
        draw = draw_on_first_rank(sampler, self.store.num_samples, epoch, self.batching is None, device)
        first = self.planner.draw
        if first is None:
            return replace(draw, can_draw=None) if self.history else draw
        # What holds for a whole run stays as it was at first, so that a resumed one knows it too.
        return replace(draw, can_draw=first.can_draw, length=draw.length if is_another else first.length)

    def serve_in_loader(self, trainer: pl.Trainer) -> DataLoader[Any]:
        """The user's loader with a sampler that serves the plan in force; before training it tells a full epoch's length."""
        n, plan, draw = self.store.num_samples, self.planner.plan, self.planner.draw
        ranks, rank = trainer.world_size, trainer.global_rank
        if draw is None or draw.sizes is None:
            self.sampler = sampler = PruningSampler(n, plan, self.cut, ranks, rank, draw, self.turn)
            made = loop.with_sampler(trainer, self.loader, sampler)
        else:
            self.sampler = batches = PruningBatchSampler(n, plan, draw, self.merges_batches, ranks, rank)
            made = loop.with_batch_sampler(trainer, self.loader, batches)
        self.sampler.skip_batches_once(self.batches_done)
        self.sampler.announces_full_epoch = True
        return made

    def check_length(self) -> None:
        """Refuse a data set that has changed its length.

        Raises:
            MisconfigurationException: If the loader's has.
        """
        check_data_size(len(self.loader.dataset), self.num_samples)  # type: ignore[arg-type]

    def begin_epoch(self, trainer: pl.Trainer, device: torch.device) -> None:
        """Tell the loop the length of the epoch."""
        self.sampler.to(device).announces_full_epoch = False
        loop.set_epoch_length(trainer)

    def expected_batches(self, trainer: pl.Trainer) -> int | None:
        """How many batches the epoch has on each rank, within limits."""
        return int(trainer.num_training_batches)

    def full_batches(self, trainer: pl.Trainer) -> int | None:
        """Batches of an epoch without pruning on each rank, before limits, as it was announced."""
        return loop.full_epoch(trainer, self.sampler.announced, self.loader)[0]

    def full_samples(self, trainer: pl.Trainer) -> int:
        """Samples that the running epoch would have without pruning; a limit of steps or of time may end it early."""
        planned = loop.limited_batches(trainer, self.sampler.batches(loop.drops_last(self.loader)))
        done = min(1.0, self.batches_done / max(1, planned))
        return self.sampler.in_full(loop.full_epoch(trainer, self.sampler.full, self.loader, done)[1])

    def serve_plan(self) -> None:
        """Let the next iterator serve what is left of the plan in force."""
        self.sampler.set_plan(self.planner.plan, self.planner.draw, self.turn)
        self.sampler.skip_batches_once(self.batches_done)

    def restart_epoch(self) -> None:
        """Forget what of the running epoch has been trained."""
        self.batches_done = 0
        self.store.open_epoch.zero_()

    def start_batch(self, module: pl.LightningModule, number: int) -> None:
        """Capture the losses of a batch's samples, and apply their weights."""
        samples = self.sampler.batch(number)
        self.capture.arm(module, len(samples.index), samples.weight if self.sampler.is_weighted else None)

    def record_batch(self, number: int) -> None:
        """Take over the captured losses of a batch, unless that has been done."""
        observed = self.capture.take()
        self.batches_done = number + 1
        if observed is None:
            return  # training_step returned None and the batch was skipped, or its loss has changed, which is said
        samples = self.sampler.batch(number)
        real = samples.real
        losses = observed.value[:real]
        if self.planner.score.observes == "batch_loss":
            losses = mean_of_finite(losses).expand(losses.shape)
        pair = None if observed.pair is None else observed.pair[:real]
        if pair is not None and samples.is_first is not None:
            pair = torch.where(samples.is_first[:real], pair, -1)  # of a sum of several none could be told
        seen = None if observed.seen is None else observed.seen[:real]
        self.store.record(samples.index[:real], losses, pair, observed.classes, seen)

    def record_trained_batch(self, trained: int) -> None:
        """Record a batch whose step is over but whose end has not come, if ``trained`` of the epoch's batches tell so."""
        if self.capture.is_armed and trained == self.batches_done + 1:
            self.record_batch(self.batches_done)

    def settle(self, trainer: pl.Trainer) -> None:
        """Add up what all ranks have recorded in the epoch; they come here together."""
        all_reduce_sum(self.store.open_epoch)
        self.store.repeats = self.planner.draw is not None

    def probe(
        self, trainer: pl.Trainer, module: pl.LightningModule, loss_fn: LossFunction | None, data: Any
    ) -> Observed:
        """What the plan's probes show after the epoch, of ``data`` if that is given: float32[p]."""
        return probe(trainer, module, self.capture, loss_fn, self.planner.plan.probe, data)

    def predictions(self, trainer: pl.Trainer, module: pl.LightningModule, data: Any) -> Predictions | None:
        """What the network says of each sample, of ``data`` if that is given."""
        return predictions(trainer, module, self.capture, self.num_samples, data)

    def trained(self) -> Tensor:
        """The samples that the epoch has trained on all ranks together, int64[k]."""
        return self.sampler.trained(self.batches_done)

    def close_epoch(
        self, reference: Observed, probed: Observed, full: int, max_epochs: int | None, device: torch.device
    ) -> Row:
        """Make the settled epoch the newest in the store, score it, tell the policy of its end, and plan the next one.

        Args:
            reference: What the reference samples have shown, float32[r]; empty without a reference set.
            probed: What the plan's probes have, float32[p].
            full: How many samples an epoch without pruning would have trained on.
            max_epochs: The length of the run; None if unknown.
            device: Where ranks compare their plans.

        Returns:
            The epoch's figures.
        """
        # A checkpoint that is written because of an error in here has the epoch still to be closed, as a resumed run does.
        with self.store.undone_on_error(), self.planner.undone_on_error():
            self.store.record_unseen(self.planner.plan.probe, probed)
            self.store.close_epoch(float(reference.value.double().nanmean()), reference)  # NaN of an empty one
            scores = self.planner.scores(self.store)
            self.planner.epoch_ended(self.store, scores, probed.value)
            epoch = self.planner.epoch
            row = self._row(reference.value, scores, len(probed.value), full)
            draw = self._drawn(epoch + 1, device)
            self.planner.make(self.store, scores, epoch + 1, max_epochs, self.shuffles, device, draw)
        self.history.append(row)
        self.batches_done = 0
        return row

    def _row(self, reference: Tensor, scores: Scores, probed: int, full: int) -> Row:
        """The figures of the epoch that ends."""
        return epoch_row(
            self.history,
            self.planner.epoch,
            self.trained(),
            full,
            reference,
            self.store.nonfinite,
            scores.suspicion,
            self.noise_mask,
            probed,
            self.planner.policy.noise_rate,
        )
