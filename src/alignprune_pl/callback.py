"""AlignPrune, the Lightning callback that wires capture, store, score, policy and sampler together."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignprune_pl.core import epoch_metrics
from alignprune_pl.core.checking import check_count
from alignprune_pl.core.gate import Gate, Key
from alignprune_pl.core.growing import GrowingStore
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.trajectory import Observed, TrajectoryStore
from alignprune_pl.fit import loop
from alignprune_pl.fit.answers import Answers
from alignprune_pl.fit.capture import LossCapture, captured
from alignprune_pl.fit.checks import (
    check_goes_by_no_place,
    check_loader,
    check_one_a_sample,
    check_parts,
    check_trainer,
    dtype_of,
    mask_of,
)
from alignprune_pl.fit.forward_pass import LossFunction
from alignprune_pl.fit.lr_pace import At, LrPace
from alignprune_pl.fit.reference import Reference, try_out
from alignprune_pl.fit.resuming import resume
from alignprune_pl.fit.run import Run
from alignprune_pl.fit.sharded_run import ShardedRun
from alignprune_pl.fit.stream_run import StreamRun
from alignprune_pl.fit.twins import UnderBothNames, twins
from alignprune_pl.policies import POLICIES, Policy
from alignprune_pl.scores import SCORES, Score


class AlignPrune(Answers, UnderBothNames, pl.Callback):
    """Trains each epoch on the part of the data that is worth training on.

    The module, the data set and the loader need not know of it, and may be those of ``pytorch_lightning``.
    The callback puts its own sampler into the training loader, and records the loss of every sample in
    ``on_train_batch_end``. At the end of an epoch it evaluates the reference set, scores all trajectories and plans the
    next epoch. The policy's sample weights multiply each sample's gradient at the network's output. After ``fit``, or an
    exception in it, everything is as it was.

    Each epoch logs, as ``pruning/...``: ``kept`` and ``kept_share`` (samples trained on), ``probed`` (samples passed forward
    after the epoch), ``saved``, ``reference_loss``, and ``nonfinite`` and ``reference_nonfinite`` (losses left out for being
    NaN or infinite). ``saved`` is the share of all samples so far that were not trained on. A probe counts as a third of a
    trained sample, the reference not at all. ``estimated_noise_rate`` comes from policies that estimate it. A ``noise_mask``
    adds ``noise_kept`` (share of wrong labels among the kept), and ``auroc`` and ``average_precision`` of the score.

    Source: AlignPrune (arXiv 2604.07306).

    Args:
        reference: The clean reference set, a ``DataLoader`` or data set in the training batches' form; about 1 %
            of the training set's size does. Needed by scores that compare with it, such as the default.
        policy: The host framework, or the name that it is registered by; by default ``InfoBatch()``.
        score: What the policy reads, likewise; by default what the policy is meant for, the DAS with most.
        window: N, the epochs that a trajectory remembers.
        loss_fn: ``loss_fn(module, batch) -> float[b]`` evaluates reference batches and probes; by default the losses
            are captured from ``training_step``, run in eval mode.
        capture_mode: ``"auto"`` follows the loss that ``training_step`` returns, or hands to ``manual_backward``. With
            ``"explicit"`` the step says itself which losses count, by :meth:`weight` or by returning ``per_sample_loss``.
        rescale_schedules: Whether a scheduler that is stepped with every batch keeps pace: a shorter epoch goes through as
            much of the schedule as a full one.
        seed: Of every random choice; by default the seed of ``seed_everything``, or 0 without it.
        noise_mask: bool[n], or a list, the samples whose label is known to be wrong. Used for measurement only: no
            score or policy sees it.
        probe_data: The training set as probes look at it, if that differs: the same samples, without augmentation if
            the reference has none, as the two are compared.
        key: For an iterable training set: what a sample is known by in every epoch, a function of the sample or the name
            of its field. By default it is what webdataset and litdata have for that.
        merge_batches: Whether neighbouring batches of a batch sampler of the user's own become one where pruning has made
            them small, as long as that is not larger than the largest one drawn.
        storage_dtype: ``torch.bfloat16`` or ``torch.float32``, or its name, for the losses in trajectories. A checkpoint
            holds ``window * n`` of them, at most 28 bytes a sample besides, and what ``policy`` and ``score`` keep.
        sharded: Whether each process holds, plans and trains its own samples alone, every world-size-th (``docs/scale.md``).

    Attributes:
        keeps: For a stage of a stream: ``keeps(sample)`` is False for a sample that the plan leaves out. Asked before
            a sample is decoded, it saves that too.

    Raises:
        ValueError: If a reference is needed, by the policy or by the score that it reads, and there is none or an empty
            one. Or if ``noise_mask`` is no mask, ``window`` < 2 or less than the score's, or a name is unknown.
        MisconfigurationException: Before the first step, if the run cannot be pruned: several training loaders, a stream
            that makes its own batches, a sampler that draws one process's share, ``overfit_batches``, a reference of
            another form, a checkpoint of other settings, or a loss whose gradient passes no tensor with the batch first.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> clean = TensorDataset(torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
        >>> trainer = pl.Trainer(callbacks=[AlignPrune(reference=clean)], logger=False, accelerator="cpu")
    """

    _carried = ("policy", "score", "_run")
    _own = ("_undo",)

    # As LightningCLI can read it: a data set's or loader's bare class.
    def __init__(
        self,
        reference: DataLoader | Dataset | None = None,  # type: ignore[type-arg]
        policy: Policy | str = "infobatch",
        score: Score | str | None = None,
        *,
        window: int = 10,
        loss_fn: LossFunction | None = None,
        capture_mode: Literal["auto", "explicit"] = "auto",
        rescale_schedules: bool = True,
        seed: int | None = None,
        noise_mask: Tensor | list[bool] | None = None,
        probe_data: Dataset | None = None,  # type: ignore[type-arg]
        key: Key | None = None,
        merge_batches: bool = False,
        storage_dtype: torch.dtype | Literal["bfloat16", "float32"] = torch.bfloat16,
        sharded: bool = False,
    ) -> None:
        self.policy = POLICIES.make(policy)
        self.score = SCORES.make(self.policy.usual_score if score is None else score)
        self.storage_dtype = dtype_of(storage_dtype)
        TrajectoryStore(1, window, self.storage_dtype)  # raises now what it would raise in fit
        check_parts(self.policy, self.score, reference is not None, window, capture_mode, sharded)
        self.reference = None if reference is None else Reference(reference, loss_fn)
        self.loss_fn = loss_fn
        self.probe_data = probe_data
        self.window = window
        self.capture_mode = capture_mode
        self.keeps = Gate(key)
        self.merge_batches, self.sharded = merge_batches, sharded
        self.rescale_schedules = rescale_schedules
        self.seed = None if seed is None else check_count("seed", seed, 0)
        self.noise_mask = None if noise_mask is None else mask_of(noise_mask)
        self._run: Run | None = None
        self._restored: dict[str, Any] | None = None
        self._undo: Callable[[], None] | None = None
        self._has_failed = self._is_tried = False

    # A compiler that traced into it would take this step's weights for constants.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def weight(self, losses: Tensor) -> Tensor:
        """The losses that ``training_step`` trains on, weighted; for ``capture_mode="explicit"``.

        Outside of training, as in ``validation_step``, they come back as they are. Several calls in a step are added
        up to one loss a sample.

        Args:
            losses: float[b], one for each sample of the batch; with ``score="batch_loss"`` the batch's loss will do.

        Returns:
            float[b], with the graph of ``losses``.

        Raises:
            MisconfigurationException: In a training step, if there is not one loss a sample, or without
                ``capture_mode="explicit"``.
        """
        return losses if self._run is None else self._run.capture.weigh(losses)

    # ---- before the first epoch -------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be pruned, and arrange for the training loader to get our sampler."""
        if stage != "fit":
            return
        steps_forward = self.loss_fn is None and (self.reference is not None or self.policy.probes)
        check_trainer(trainer, pl_module, steps_forward)
        if trainer.current_epoch == 0:
            self._run = None
        self._has_failed = False
        self._set_out(trainer)
        self._restored = None  # what this run resumes from comes after setup
        self._undo = loop.intercept_train_loader(trainer, lambda loader: self._install_sampler(trainer, loader))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the loader is made, which Lightning does later with most strategies."""
        self._restored = state_dict or None

    def _install_sampler(self, trainer: pl.Trainer, loader: Any) -> DataLoader[Any]:
        n = check_loader(loader, trainer, self.keeps.key)
        if n is None:
            check_goes_by_no_place(noise_mask=self.noise_mask, probe_data=self.probe_data, sharded=self.sharded)
        else:
            check_one_a_sample(n, noise_mask=self.noise_mask, probe_data=self.probe_data)
        is_first = self._run is None
        if self._run is None:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
            is_explicit = self.capture_mode == "explicit"
            capture = LossCapture(is_explicit, captured(self.score.observes, is_explicit, self.loss_fn))
            if n is None:
                store = GrowingStore(self.window, self.storage_dtype, pairs=self.score.observes == "rival")
                self._run = StreamRun(Planner(self.policy, self.score, seed), store, capture, self.keeps)
            else:
                selects, holds = (self.policy, self.score, seed), (n, self.window, self.storage_dtype)
                kind = ShardedRun if self.sharded else Run
                self._run = kind.new(trainer, selects, holds, capture, self.noise_mask, self.merge_batches)
        run, is_another = self._run, self._run.take(loader)
        run.check_length()
        run.was_restored = False
        limit, device = loop.max_epochs(trainer), trainer.strategy.root_device
        if not self._restore(trainer, run.cut):
            if is_first:
                run.make_plan(trainer.current_epoch, limit, device)
            elif is_another:
                run.plan_for_loader(limit, device)
        return run.serve_in_loader(trainer)

    def _restore(self, trainer: pl.Trainer, batch_size: int) -> bool:
        """Take over a checkpoint's state, as soon as the loader has told what it must fit; whether there was one."""
        state, self._restored = self._restored, None
        if state is not None:
            self._the_run().load_state_dict(state, self.seed, batch_size, trainer.global_rank, trainer.world_size)
        return state is not None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the store where the losses will be, and go on where a checkpoint stopped."""
        run = self._the_run()
        run.stopwatch.start()
        run.store.to(pl_module.device)
        with run.stopwatch.pruning():
            self._is_tried = False
            served = (self.plan.digest(), run.planner.draw, run.batches_done)
            is_late = self._restore(trainer, run.cut)  # the loader was made before the state came
            if is_late:
                run.serve_plan()
            resume(trainer, run, lambda: self._close_epoch(trainer, pl_module))
            if is_late or (self.plan.digest(), run.planner.draw, run.batches_done) != served:
                run.serve_plan()
                loop.renew_iterator(trainer)
            run.begin_epoch(trainer, pl_module.device)
            at = At(run.planner.epoch, run.batches_done, run.expected_batches(trainer))
            before = run.paced if run.was_restored else None
            run.pace = LrPace(trainer, run.full_batches(trainer), self.rescale_schedules, at, before)
            run.paced = run.pace.state
            run.pace.catch_up(trainer, at)  # a checkpoint may lack the steps after its last batch

    # ---- in an epoch ------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the loop the length of this epoch."""
        self._the_run().check_length()
        self._the_run().begin_epoch(trainer, pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Capture the losses of this batch's samples, and apply their weights."""
        run = self._the_run()
        with run.stopwatch.pruning():
            if not self._is_tried:
                # Not in on_train_start: what the module does in that hook comes after ours.
                self._is_tried = True
                is_explicit = self.capture_mode == "explicit"
                try_out(trainer, pl_module, run, self.reference, self.loss_fn, self.probe_data, is_explicit)
            run.start_batch(pl_module, batch_idx)
        if batch_idx == 0:  # for the progress bar, which keeps it; logged is what the epoch has come to
            pl_module.log("pruning/kept_share", run.kept_share, prog_bar=True, logger=False, on_step=True, batch_size=1)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the batch's losses, on their device."""
        run = self._the_run()
        with run.stopwatch.pruning():
            run.record_batch(batch_idx)
            run.capture.disarm()
            if run.pace is not None:
                at = At(run.planner.epoch, run.batches_done, run.expected_batches(trainer))
                run.pace.catch_up(trainer, at)

    # ---- between two epochs -----------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the epoch: reference loss, scores, figures, and the plan of the next one."""
        run = self._the_run()
        with run.stopwatch.pruning():
            run.capture.disarm()
            self._close_epoch(trainer, pl_module)
            run.serve_plan()
        # The figures are equal on all ranks; averaging them keeps Lightning from warning that they might not be.
        pl_module.log_dict(epoch_metrics.logged(run.history[-1]), batch_size=1, sync_dist=trainer.world_size > 1)

    def _close_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = self._the_run()
        run.settle(trainer)
        clean = self.reference
        reference = Observed(torch.empty(0)) if clean is None else clean.observe(trainer, pl_module, run.capture)
        probed = run.probe(trainer, pl_module, self.loss_fn, self.probe_data)
        full = run.full_samples(trainer)
        row = run.close_epoch(reference, probed, full, loop.max_epochs(trainer), trainer.strategy.root_device)
        rank_zero_info(epoch_metrics.as_sentence(row))

    # ---- after the last epoch ---------------------------------------------------------------------------

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the stopwatch, and say what the policy has come to."""
        self._the_run().stopwatch.stop()
        if self.policy.conclusion():
            rank_zero_info(self.policy.conclusion())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module and the trainer as they were."""
        # Lightning raises this one on all ranks together, so that they can still add up their losses to save them.
        self._has_failed = not isinstance(exception, twins(SIGTERMException))
        if self._run is not None:
            self._run.record_trained_batch(loop.batches_trained(trainer))
        self._leave()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module and the trainer as they were."""
        if stage == "fit":
            self._leave()

    def _leave(self) -> None:
        if self._run is not None:
            self._run.stopwatch.stop()
            self._run.capture.disarm()
        self.keeps.close()
        if self._undo is not None:
            self._undo()
            self._undo = None

    # ---- state ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to select the same samples, as far as this rank knows it."""
        return {} if self._run is None else self._run.state_dict()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make the saved state that of all ranks, and right also between a batch's step and its end."""
        if self._run is not None:
            state = self._run.state_of_ranks(loop.batches_trained(trainer), is_alone=self._has_failed)
            checkpoint.setdefault("callbacks", {})[self.state_key] = state

    def _found(self) -> dict[str, Any]:
        if self._run is not None:
            self._run.to(torch.device("cpu"))
        return {**super()._found(), "_run": None if self._run is None else self._run.to_send()}

    def _take_over(self, found: dict[str, Any]) -> None:
        for ours, theirs in ((self.policy, found["policy"]), (self.score, found["score"])):
            vars(ours).update(vars(theirs))  # the user may hold them
        self._run = found["_run"]
        if self._run is not None:
            self._run.planner.policy, self._run.planner.score = self.policy, self.score
            self._run.arrived(self.keeps)
