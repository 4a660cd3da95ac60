"""AlignPrune, the Lightning callback that wires capture, store, score, policy and sampler together."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from alignprune_pl import _loop
from alignprune_pl.capture import LossCapture
from alignprune_pl.checks import check_loader, check_trainer
from alignprune_pl.distributed import all_reduce_sum
from alignprune_pl.measure import noise_auroc
from alignprune_pl.plan import EpochPlan, epoch_generator
from alignprune_pl.policies import InfoBatch, Policy
from alignprune_pl.reference import LossFunction, Reference
from alignprune_pl.sampler import PruningSampler
from alignprune_pl.scores import AlignmentScore, LossScore, Score
from alignprune_pl.trajectory import TrajectoryStore


class AlignPrune(pl.Callback):
    """Trains each epoch on the part of the data that is worth training on.

    The module, the data set and the loader need not know of it. The callback puts its own sampler into the
    training loader, records the loss of every sample in ``on_train_batch_end``, and at the end of an epoch
    evaluates the reference set, scores all trajectories and plans the next epoch. The policy's sample weights
    multiply the losses in ``training_step``. After ``fit``, or an exception in it, everything is as it was.

    Logged each epoch, as ``pruning/...``: ``kept`` (samples trained on), ``kept_share``, ``saved`` (share of all
    samples so far that were not trained on), ``reference_loss``, ``nonfinite`` (losses left out for being NaN or
    infinite) and, given a ``noise_mask``, ``noise_kept`` (share of wrong labels among the kept) and
    ``auroc`` (of the score that plans the next epoch, against the mask).

    Source: AlignPrune (arXiv 2604.07306).

    Args:
        reference: The clean reference set, a ``DataLoader`` or data set in the training batches' form; about 1 %
            of the training set's size does. Needed by scores that compare with it, such as the default.
        policy: The host framework; by default ``InfoBatch()``.
        score: What the policy reads; by default ``AlignmentScore()``, the DAS.
        window: N, the epochs that a trajectory remembers.
        loss_fn: ``loss_fn(module, batch) -> float[b]`` evaluates reference batches; by default the losses are
            captured from ``training_step``, run in eval mode.
        seed: Of every random choice; by default the seed of ``seed_everything``, or 0 without it.
        noise_mask: bool[n], the samples whose label is known to be wrong. Used for measurement only: no score or
            policy sees it.
        storage_dtype: ``torch.float32`` or ``torch.bfloat16`` for the stored trajectories.

    Attributes:
        history: One dictionary of figures for each finished epoch.

    Raises:
        ValueError: If the score needs a reference and none is given, the reference is empty, or ``window`` < 2.
        MisconfigurationException: In ``setup`` or when the loader is made, if the run is one that cannot be
            pruned: several training loaders, an iterable data set, a custom (batch) sampler, manual optimisation,
            ``overfit_batches``.

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
        seed: int | None = None,
        noise_mask: Tensor | None = None,
        storage_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.policy = InfoBatch() if policy is None else policy
        self.score = AlignmentScore() if score is None else score
        if reference is None and self.score.needs_reference:
            raise ValueError(
                f"AlignPrune got no reference, but {self.score!r} compares with one; pass reference=<DataLoader of clean "
                "samples>, or score=LossScore()."
            )
        TrajectoryStore(1, window, storage_dtype)  # raises now what it would raise in fit
        self.reference = None if reference is None else Reference(reference, loss_fn)
        self.window = window
        self.seed = seed
        self.noise_mask = noise_mask
        self.storage_dtype = storage_dtype
        self.history: list[dict[str, float]] = []
        self._reset()

    def _reset(self) -> None:
        self.history = []
        self._capture = LossCapture()
        self._store: TrajectoryStore | None = None
        self._sampler: PruningSampler | None = None
        self._plan: EpochPlan | None = None
        self._restored: dict[str, Any] | None = None
        self._undo: Callable[[], None] | None = None
        self._batches_done = 0
        self._pruning_seconds = 0.0
        self._start: float | None = None
        self._train_seconds = 0.0

    # ---- before the first epoch -------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be pruned, and arrange for the training loader to get our sampler."""
        if stage != "fit":
            return
        check_trainer(trainer, pl_module)
        if trainer.current_epoch == 0:
            self._reset()
        self._undo = _loop.intercept_train_loader(trainer, lambda loader: self._install_sampler(trainer, loader))

    def _install_sampler(self, trainer: pl.Trainer, loader: Any) -> DataLoader[Any]:
        check_loader(loader)
        n = len(loader.dataset)
        if self.noise_mask is not None and len(self.noise_mask) != n:
            raise MisconfigurationException(
                f"noise_mask has {len(self.noise_mask)} entries, but the training set has {n} samples; give one each."
            )
        self._shuffles = not isinstance(loader.sampler, SequentialSampler) and getattr(loader.sampler, "shuffle", True)
        self._drop_last = loader.drop_last
        if self._store is None:
            self._store = TrajectoryStore(n, self.window, self.storage_dtype)
            self._restore()
        if self._store.num_samples != n:
            raise MisconfigurationException(
                f"The training set had {self._store.num_samples} samples and now has {n}, but trajectories belong to fixed "
                "indices; keep the data set's length, or start a new run."
            )
        if self._plan is None:
            self._plan = self._make_plan(torch.full((n,), math.nan), trainer.current_epoch, trainer)
        self._sampler = PruningSampler(n, self._plan, loader.batch_size, trainer.world_size, trainer.global_rank)
        self._sampler.skip_batches_once(self._batches_done)
        return _loop.with_sampler(loader, self._sampler)

    def _restore(self) -> None:
        """Take over a checkpoint's state, as soon as the loader has told what it must fit."""
        state, self._restored = self._restored, None
        if state is None or self._store is None:
            return
        here = [repr(self.policy), repr(self.score)]
        if state["made_by"] != here:
            raise MisconfigurationException(
                f"The checkpoint was written with {' and '.join(state['made_by'])}, but this run has {' and '.join(here)}; "
                "resume with the same policy and score."
            )
        self._store.load_state_dict(state["store"])
        self._plan = EpochPlan(**state["plan"])
        self._batches_done = state["batches_done"]
        self._capture.source = state["capture_source"]
        self.history = [dict(row) for row in state["history"]]
        self._pruning_seconds = state["pruning_seconds"]
        self._train_seconds = state["train_seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the store where the losses will be."""
        self._start = time.perf_counter()
        self._the_store().to(pl_module.device)

    # ---- in an epoch ------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the loop the length of this epoch."""
        self._batches_done = 0
        _loop.set_epoch_length(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Capture the losses of this batch's samples, and apply their weights."""
        with self._timed():
            sampler = self._the_sampler()
            samples = sampler.batch(batch_idx)
            weight = samples.weight.to(pl_module.device) if sampler.is_weighted else None
            self._capture.arm(pl_module, len(samples.index), weight)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the batch's losses, on their device."""
        with self._timed():
            losses = self._capture.disarm()
            self._batches_done = batch_idx + 1
            if losses is None:
                return  # training_step returned None: the batch was skipped
            samples = self._the_sampler().batch(batch_idx)
            index = samples.index
            if bool(samples.is_padding.any()):
                index, losses = index[~samples.is_padding], losses[~samples.is_padding.to(losses.device)]
            self._the_store().record(index, losses)

    # ---- between two epochs -----------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the epoch: reference loss, scores, figures, and the plan of the next one."""
        with self._timed():
            self._capture.disarm()
            store, sampler = self._the_store(), self._the_sampler()
            all_reduce_sum(store.open_epoch)
            reference_loss = math.nan
            if self.reference is not None:
                reference_loss = self.reference.mean_loss(trainer, pl_module, self._capture)
            store.close_epoch(reference_loss)
            scores, low_is_suspect = self._scores(store)
            self.history.append(self._figures(trainer, scores, low_is_suspect, reference_loss))
            self._plan = self._make_plan(scores, trainer.current_epoch + 1, trainer)
            sampler.set_plan(self._plan)
            self._batches_done = 0
        self._show(trainer, pl_module)

    def _scores(self, store: TrajectoryStore) -> tuple[Tensor, bool]:
        """Every sample's score, float32[n] on the CPU, and whether a low one is suspect; the loss in warm-up."""
        warming_up = store.epochs < min(self.score.warm_up, self.window)
        score: Score = LossScore() if warming_up else self.score
        return score(store).cpu(), score.low_is == "suspect"

    def _make_plan(self, scores: Tensor, epoch: int, trainer: pl.Trainer) -> EpochPlan:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        generator = epoch_generator(seed, epoch)
        max_epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
        plan = self.policy.plan(scores, epoch, generator, max_epochs)
        return plan.shuffled(generator) if self._shuffles else plan

    def _figures(
        self, trainer: pl.Trainer, scores: Tensor, low_is_suspect: bool, reference_loss: float
    ) -> dict[str, float]:
        sampler, store = self._the_sampler(), self._the_store()
        trained = sampler.trained(self._batches_done)
        full = self._full_epoch_size(trainer, store.num_samples, sampler.batch_size * trainer.world_size)
        row: dict[str, float] = {
            "epoch": trainer.current_epoch,
            "kept": len(trained),
            "kept_share": len(trained) / full,
            "full": full,
            "reference_loss": reference_loss,
            "nonfinite": store.nonfinite,
        }
        so_far = [*self.history, row]
        row["saved"] = 1 - sum(r["kept"] for r in so_far) / sum(r["full"] for r in so_far)
        if self.noise_mask is not None:
            row["noise_kept"] = float(self.noise_mask[trained].float().mean())
            row["auroc"] = noise_auroc(-scores if low_is_suspect else scores, self.noise_mask)
        return row

    def _full_epoch_size(self, trainer: pl.Trainer, n: int, batch: int) -> int:
        """How many samples an epoch without pruning would train on in this run."""
        batches = n // batch if self._drop_last else -(-n // batch)
        return min(n, _loop.limited_batches(trainer, batches) * batch)

    def _show(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        row = self.history[-1]
        figures = {f"pruning/{k}": v for k, v in row.items() if k not in ("epoch", "full") and not math.isnan(v)}
        # The figures are equal on all ranks; averaging them keeps Lightning from warning that they might not be.
        pl_module.log_dict(figures, batch_size=1, sync_dist=trainer.world_size > 1)
        noise = f", {row['noise_kept']:.1%} of them mislabelled, AUROC {row['auroc']:.3f}" if "auroc" in row else ""
        rank_zero_info(
            f"Epoch {row['epoch']:.0f}: trained on {row['kept']:.0f} samples ({row['kept_share']:.0%}){noise}, "
            f"{row['saved']:.1%} saved so far, reference loss {row['reference_loss']:.4f}"
        )

    # ---- after the last epoch ---------------------------------------------------------------------------

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module and the trainer as they were."""
        self._leave()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module and the trainer as they were."""
        if stage == "fit":
            self._leave()

    def _leave(self) -> None:
        self._stop_clock()
        self._capture.disarm()
        if self._undo is not None:
            self._undo()
            self._undo = None

    def summary(self) -> dict[str, float]:
        """The run in figures: ``saved`` and ``pruning_time`` as shares, ``noise_kept`` over all epochs if known."""
        kept = sum(row["kept"] for row in self.history)
        seconds = self._train_seconds + (0.0 if self._start is None else time.perf_counter() - self._start)
        figures = {
            "epochs": float(len(self.history)),
            "saved": self.history[-1]["saved"] if self.history else 0.0,
            "pruning_time": self._pruning_seconds / seconds if seconds else 0.0,
        }
        if self.noise_mask is not None and kept:
            figures["noise_kept"] = sum(row["noise_kept"] * row["kept"] for row in self.history) / kept
            figures["noise_rate"] = float(self.noise_mask.float().mean())
        return figures

    # ---- state ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to select the same samples; right at any moment of the run."""
        if self._store is None or self._plan is None:
            return {}
        return {
            "made_by": [repr(self.policy), repr(self.score)],
            "store": self._store.state_dict(),
            "plan": self._plan.state_dict(),
            "batches_done": self._batches_done,
            "capture_source": self._capture.source,
            "history": [dict(row) for row in self.history],
            "pruning_seconds": self._pruning_seconds,
            "train_seconds": self._train_seconds + (0.0 if self._start is None else time.perf_counter() - self._start),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the loader is made; Lightning calls this before."""
        self._restored = state_dict or None

    # ---- helpers ----------------------------------------------------------------------------------------

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._pruning_seconds += time.perf_counter() - start

    def _stop_clock(self) -> None:
        if self._start is not None:
            self._train_seconds += time.perf_counter() - self._start
            self._start = None

    def _the_store(self) -> TrajectoryStore:
        if self._store is None:
            raise RuntimeError("AlignPrune has no store: the training loader was not made through the fit loop")
        return self._store

    def _the_sampler(self) -> PruningSampler:
        if self._sampler is None:
            raise RuntimeError("AlignPrune has no sampler: the training loader was not made through the fit loop")
        return self._sampler
