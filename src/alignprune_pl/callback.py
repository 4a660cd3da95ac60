"""AlignPrune, the Lightning callback that wires capture, store, score, policy and sampler together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from alignprune_pl import _loop, figures
from alignprune_pl.capture import LossCapture
from alignprune_pl.checks import check_data_size, check_loader, check_state, check_trainer
from alignprune_pl.clock import Clock
from alignprune_pl.distributed import all_reduce_sum
from alignprune_pl.pace import Pace
from alignprune_pl.plan import EpochPlan
from alignprune_pl.planner import Planner
from alignprune_pl.policies import InfoBatch, Policy
from alignprune_pl.reference import LossFunction, Reference
from alignprune_pl.sampler import PruningSampler
from alignprune_pl.scores import AlignmentScore, Score
from alignprune_pl.trajectory import TrajectoryStore

_Part = TypeVar("_Part")


class AlignPrune(pl.Callback):
    """Trains each epoch on the part of the data that is worth training on.

    The module, the data set and the loader need not know of it. The callback puts its own sampler into the
    training loader, records the loss of every sample in ``on_train_batch_end``, and at the end of an epoch
    evaluates the reference set, scores all trajectories and plans the next epoch. The policy's sample weights
    multiply the losses in ``training_step``. After ``fit``, or an exception in it, everything is as it was.

    Logged each epoch, as ``pruning/...``: ``kept`` (samples trained on), ``kept_share``, ``saved`` (share of all
    samples so far that were not trained on), ``reference_loss``, ``nonfinite`` and ``reference_nonfinite`` (losses
    left out for being NaN or infinite) and, given a ``noise_mask``, ``noise_kept`` (share of wrong labels among the
    kept) and ``auroc`` (of the score that plans the next epoch, against the mask).

    Source: AlignPrune (arXiv 2604.07306).

    Args:
        reference: The clean reference set, a ``DataLoader`` or data set in the training batches' form; about 1 %
            of the training set's size does. Needed by scores that compare with it, such as the default.
        policy: The host framework; by default ``InfoBatch()``.
        score: What the policy reads; by default ``AlignmentScore()``, the DAS.
        window: N, the epochs that a trajectory remembers.
        loss_fn: ``loss_fn(module, batch) -> float[b]`` evaluates reference batches; by default the losses are
            captured from ``training_step``, run in eval mode.
        capture: ``"auto"`` intercepts the losses that ``training_step`` calls. With ``"explicit"`` it says itself
            which ones count, by :meth:`weight` or by returning ``per_sample_loss``.
        rescale_schedules: Whether a scheduler that is stepped with every batch goes through an epoch's part of its
            schedule in the batches that the epoch has, so that it ends at its end although epochs are shorter.
        seed: Of every random choice; by default the seed of ``seed_everything``, or 0 without it.
        noise_mask: bool[n], the samples whose label is known to be wrong. Used for measurement only: no score or
            policy sees it.
        storage_dtype: ``torch.bfloat16`` or ``torch.float32`` for the stored trajectories; a checkpoint holds
            ``window * n`` of them, and 28 bytes a sample at most besides.

    Attributes:
        history: One dictionary of figures for each finished epoch.

    Raises:
        ValueError: If the score needs a reference and none is given, the reference is empty, ``window`` < 2, or
            ``capture`` is another word.
        MisconfigurationException: Before the first step, if the run is one that cannot be pruned: several training
            loaders, an iterable data set, a custom (batch) sampler, manual optimisation without explicit capture,
            ``overfit_batches``, a reference of another form, or a checkpoint of other settings.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> clean = TensorDataset(torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
        >>> trainer = pl.Trainer(callbacks=[AlignPrune(reference=clean)], logger=False, accelerator="cpu")
    """

    def __init__(
        self,
        reference: DataLoader[Any] | Dataset[Any] | None = None,
        policy: Policy | None = None,
        score: Score | None = None,
        *,
        window: int = 10,
        loss_fn: LossFunction | None = None,
        capture: Literal["auto", "explicit"] = "auto",
        rescale_schedules: bool = True,
        seed: int | None = None,
        noise_mask: Tensor | None = None,
        storage_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.policy = InfoBatch() if policy is None else policy
        self.score = AlignmentScore() if score is None else score
        if reference is None and self.score.needs_reference:
            raise ValueError(
                f"AlignPrune got no reference, but {self.score!r} compares with one; pass reference=<DataLoader of clean "
                "samples>, or score=LossScore()."
            )
        if capture not in ("auto", "explicit"):
            raise ValueError(f"capture={capture!r} is given, but 'auto' or 'explicit' is expected.")
        TrajectoryStore(1, window, storage_dtype)  # raises now what it would raise in fit
        self.reference = None if reference is None else Reference(reference, loss_fn)
        self.window = window
        self.capture = capture
        self.rescale_schedules = rescale_schedules
        self.seed = seed
        self.noise_mask = noise_mask
        self.storage_dtype = storage_dtype
        self.history: list[figures.Row] = []
        self._reset()

    def _reset(self) -> None:
        self.history = []
        self._capture = LossCapture(explicit=self.capture == "explicit")
        self._store: TrajectoryStore | None = None
        self._sampler: PruningSampler | None = None
        self._planner: Planner | None = None
        self._pace: Pace | None = None
        self._restored: dict[str, Any] | None = None
        self._was_restored = False
        self._undo: Callable[[], None] | None = None
        self._has_failed = False
        self._batches_done = 0
        self._clock = Clock()

    # A compiler that traced into it would take this step's weights for constants.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def weight(self, losses: Tensor) -> Tensor:
        """The losses that ``training_step`` trains on, weighted; for ``capture="explicit"``.

        Outside of training, as in ``validation_step``, they come back as they are. Several calls in a step are added
        up to one loss a sample.

        Args:
            losses: float[b], one for each sample of the batch.

        Returns:
            float[b], with the graph of ``losses``.

        Raises:
            MisconfigurationException: In a training step, if there is not one loss a sample, or without
                ``capture="explicit"``.
        """
        return self._capture.weigh(losses)

    @property
    def plan(self) -> EpochPlan:
        """The plan in force: of the running epoch, or of the next one between two.

        Raises:
            RuntimeError: Before ``fit`` has made the training loader.
        """
        return self._the_planner().plan

    # ---- before the first epoch -------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be pruned, and arrange for the training loader to get our sampler."""
        if stage != "fit":
            return
        steps_on_reference = self.reference is not None and self.reference.loss_fn is None
        check_trainer(trainer, pl_module, self.capture == "explicit", steps_on_reference)
        if trainer.current_epoch == 0 or self._planner is None:
            self._reset()
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
            self._planner = Planner(self.policy, self.score, seed)
        self._has_failed = self._was_restored = False
        self._restored = None  # what this run resumes from comes after setup
        self._undo = _loop.intercept_train_loader(trainer, lambda loader: self._install_sampler(trainer, loader))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the loader is made, which Lightning does later with most strategies."""
        self._restored = state_dict or None

    def _install_sampler(self, trainer: pl.Trainer, loader: Any) -> DataLoader[Any]:
        n = check_loader(loader, trainer)
        if self.noise_mask is not None and len(self.noise_mask) != n:
            raise MisconfigurationException(
                f"noise_mask has {len(self.noise_mask)} entries, but the training set has {n} samples; give one each."
            )
        self._shuffles = not isinstance(loader.sampler, SequentialSampler) and getattr(loader.sampler, "shuffle", True)
        self._drop_last = loader.drop_last
        self._dataset = loader.dataset
        is_first = self._store is None
        if self._store is None:
            self._store = TrajectoryStore(n, self.window, self.storage_dtype)
        check_data_size(n, self._store.num_samples)
        if not self._restore(trainer, loader.batch_size) and is_first:
            self._make_plan(trainer, trainer.current_epoch)
        self._sampler = PruningSampler(n, self.plan, loader.batch_size, trainer.world_size, trainer.global_rank)
        self._sampler.skip_batches_once(self._batches_done)
        self._sampler.announces_full_epoch = True
        return _loop.with_sampler(loader, self._sampler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the store where the losses will be, try the reference, and go on where a checkpoint stopped."""
        self._clock.start()
        self._the_store().to(pl_module.device)
        with self._clock.pruning():
            if self.reference is not None:
                # A capture of its own learns nothing from the reference; an explicit one learns nothing anyway.
                capture = self._capture if self.capture == "explicit" else LossCapture()
                self.reference.check(trainer, pl_module, capture)
            sampler, planner = self._the_sampler(), self._the_planner()
            served = (self.plan.digest(), self._batches_done)
            is_late = self._restore(trainer, sampler.batch_size)  # the loader was made before the state came
            self._resume(trainer, pl_module)
            if is_late or (self.plan.digest(), self._batches_done) != served:
                sampler.set_plan(self.plan)
                sampler.skip_batches_once(self._batches_done)
                _loop.renew_iterator(trainer)
            self._begin_epoch(trainer, pl_module)
            self._pace = Pace(trainer, self._full_epoch(trainer)[0], self.rescale_schedules)
            # A checkpoint may lack the steps after its last batch.
            self._pace.catch_up(trainer, planner.epoch, self._batches_done)

    def _resume(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring our plan and Lightning's loop to the same batch of the same epoch."""
        at, planner = _loop.restart_position(trainer), self._the_planner()
        if at is None:
            # A Trainer that was interrupted within an epoch, and fits again without a checkpoint, starts the epoch anew.
            self._batches_done = 0
            self._the_store().open_epoch.zero_()
        elif not self._was_restored:
            # The checkpoint was written without this callback: its epoch goes on over a new plan.
            self._make_plan(trainer, at.epoch)
            self._batches_done = at.batches or 0
        else:
            if at.epoch == planner.epoch + 1:
                # Written after the epoch's last batch, but before its end: Lightning does not come back to it.
                self._close_epoch(trainer, pl_module)
            if at.epoch != planner.epoch:
                raise MisconfigurationException(
                    f"The checkpoint's trajectories end before epoch {planner.epoch}, but training goes on in epoch "
                    f"{at.epoch}; resume from a checkpoint as Lightning wrote it."
                )
            if at.batches is not None and self._batches_done:
                self._batches_done = at.batches
        if self._batches_done == 0:
            if at is not None:
                _loop.begin_epoch(trainer)
            if planner.max_epochs != _loop.max_epochs(trainer):
                self._make_plan(trainer, planner.epoch)  # annealing depends on the run's length

    # ---- in an epoch ------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the loop the length of this epoch."""
        check_data_size(len(self._dataset), self._the_store().num_samples)
        self._begin_epoch(trainer, pl_module)

    def _begin_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._the_sampler().to(pl_module.device).announces_full_epoch = False
        _loop.set_epoch_length(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Capture the losses of this batch's samples, and apply their weights."""
        with self._clock.pruning():
            sampler = self._the_sampler()
            samples = sampler.batch(batch_idx)
            self._capture.arm(pl_module, len(samples.index), samples.weight if sampler.is_weighted else None)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the batch's losses, on their device."""
        with self._clock.pruning():
            self._record(batch_idx)
            self._capture.disarm()
            self._made(self._pace).catch_up(trainer, self._the_planner().epoch, self._batches_done)

    def _record(self, batch_idx: int) -> None:
        """Take over the captured losses of a batch, unless that has been done."""
        losses = self._capture.take()
        self._batches_done = batch_idx + 1
        if losses is None:
            return  # training_step returned None: the batch was skipped
        samples = self._the_sampler().batch(batch_idx)
        real = samples.real()
        self._the_store().record(samples.index[:real], losses[:real])

    # ---- between two epochs -----------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the epoch: reference loss, scores, figures, and the plan of the next one."""
        with self._clock.pruning():
            self._capture.disarm()
            self._close_epoch(trainer, pl_module)
            self._the_sampler().set_plan(self.plan)
        # The figures are equal on all ranks; averaging them keeps Lightning from warning that they might not be.
        pl_module.log_dict(figures.logged(self.history[-1]), batch_size=1, sync_dist=trainer.world_size > 1)

    def _close_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        store, planner = self._the_store(), self._the_planner()
        all_reduce_sum(store.open_epoch)
        reference_loss, reference_nonfinite = math.nan, 0
        if self.reference is not None:
            reference_loss, reference_nonfinite = self.reference.mean_loss(trainer, pl_module, self._capture)
        store.close_epoch(reference_loss)
        scores, low_is_suspect = planner.scores(store)
        row = figures.epoch_figures(
            self.history,
            planner.epoch,
            self._the_sampler().trained(self._batches_done),
            self._full_epoch(trainer)[1],
            reference_loss,
            store.nonfinite,
            reference_nonfinite,
            -scores if low_is_suspect else scores,
            self.noise_mask,
        )
        self.history.append(row)
        rank_zero_info(figures.as_sentence(row))
        self._batches_done = 0
        self._make_plan(trainer, planner.epoch + 1, scores)

    def _make_plan(self, trainer: pl.Trainer, epoch: int, scores: Tensor | None = None) -> None:
        planner = self._the_planner()
        if scores is None:
            scores, _ = planner.scores(self._the_store())
        planner.make(scores, epoch, _loop.max_epochs(trainer), self._shuffles, trainer.strategy.root_device)
        if len(planner.plan.probe):
            raise MisconfigurationException(
                f"{planner.made_by()[0]} plans {len(planner.plan.probe)} probes, but none are passed forward yet; plan none."
            )

    def _full_epoch(self, trainer: pl.Trainer) -> tuple[int, int]:
        """What an epoch without pruning would be in this run: batches on each rank before limits, and samples."""
        n = self._the_store().num_samples
        size = self._the_sampler().batch_size
        per_rank = -(-n // trainer.world_size)
        batches = per_rank // size if self._drop_last else -(-per_rank // size)
        return batches, min(n, _loop.limited_batches(trainer, batches) * size * trainer.world_size)

    # ---- after the last epoch ---------------------------------------------------------------------------

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._clock.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module and the trainer as they were."""
        # Lightning raises this one on all ranks together, so that they can still add up their losses to save them.
        self._has_failed = not isinstance(exception, SIGTERMException)
        self._record_trained_batch(trainer)
        self._leave()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module and the trainer as they were."""
        if stage == "fit":
            self._leave()

    def _leave(self) -> None:
        self._clock.stop()
        self._capture.disarm()
        if self._undo is not None:
            self._undo()
            self._undo = None

    def summary(self) -> dict[str, float]:
        """The run in figures: ``saved`` and ``pruning_time`` as shares, ``noise_kept`` over all epochs if known."""
        summary = {**figures.run_figures(self.history), "pruning_time": self._clock.share()}
        if self.noise_mask is not None:
            summary["noise_rate"] = float(self.noise_mask.float().mean())
        return summary

    # ---- state ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to select the same samples, as far as this rank knows it."""
        if self._store is None or self._sampler is None:
            return {}
        return {
            "store": self._store.state_dict(),
            "planner": self._the_planner().state_dict(),
            "batches_done": self._batches_done,
            "batch_of_all_ranks": [self._sampler.batch_size, self._sampler.num_replicas],
            "capture": self._capture.state_dict(),
            "history": [dict(row) for row in self.history],
            "clock": self._clock.state_dict(),
        }

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make the saved state that of all ranks, and right also between a batch's step and its end."""
        if self._store is None or self._sampler is None:
            return
        self._record_trained_batch(trainer)
        state = self.state_dict()
        # A rank that fails alone saves its own part, as the others do not come here.
        if self._batches_done and not self._has_failed:
            state["store"]["open_epoch"] = all_reduce_sum(self._store.open_epoch.clone()).cpu()
        checkpoint.setdefault("callbacks", {})[self.state_key] = state

    def _record_trained_batch(self, trainer: pl.Trainer) -> None:
        """Record a batch whose step is over but whose end has not come to us."""
        if self._capture.is_armed and _loop.batches_trained(trainer) == self._batches_done + 1:
            self._record(self._batches_done)

    def _restore(self, trainer: pl.Trainer, batch_size: int) -> bool:
        """Take over a checkpoint's state, as soon as the loader has told what it must fit; whether there was one."""
        state, self._restored = self._restored, None
        if state is None:
            return False
        check_state(state, self.seed, [batch_size, trainer.world_size])
        self._the_planner().load_state_dict(state["planner"])
        store = self._the_store()
        store.load_state_dict(state["store"])
        if trainer.global_rank > 0:
            store.open_epoch.zero_()  # the sum over all ranks is rank 0's to hold
        self._batches_done = state["batches_done"]
        self._capture.load_state_dict(state["capture"])
        self.history = [dict(row) for row in state["history"]]
        self._clock.load_state_dict(state["clock"])
        self._was_restored = True
        return True

    # ---- helpers ----------------------------------------------------------------------------------------

    def _the_store(self) -> TrajectoryStore:
        return self._made(self._store)

    def _the_sampler(self) -> PruningSampler:
        return self._made(self._sampler)

    def _the_planner(self) -> Planner:
        return self._made(self._planner)

    @staticmethod
    def _made(part: _Part | None) -> _Part:
        if part is None:
            raise RuntimeError(
                "AlignPrune has nothing to prune: the training loader was not made through the fit loop."
            )
        return part
