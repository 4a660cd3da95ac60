"""The one place that touches private parts of Lightning's loops and connectors (written on 2.6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.data import _reinstantiate_wrapped_cls
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.data_connector import _parse_num_batches
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.data import _get_dataloader_init_args_and_kwargs
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Sampler

from alignprune_pl.core.full_run import FullRun
from alignprune_pl.fit.twins import MisconfigurationException, of_trainer, twins

# ---- the training loader ----------------------------------------------------------------------------------


def intercept_train_loader(trainer: pl.Trainer, replace: Callable[[Any], Any]) -> Callable[[], None]:
    """Pass the training loader through ``replace`` whenever the fit loop asks for it.

    Called in ``setup``, because the loop makes the first iterator before ``on_train_start``.

    Returns:
        A function that undoes it, and may be called more than once.
    """
    source = trainer.fit_loop._data_source
    original = source.dataloader
    source.__dict__["dataloader"] = lambda: replace(original())

    def undo() -> None:
        if source.__dict__.pop("dataloader", None) is not None:
            # The loop keeps its loader for a later fit, which shall ask for the user's again.
            trainer.fit_loop._combined_loader = None

    return undo


def with_sampler(trainer: pl.Trainer, loader: DataLoader[Any], sampler: Sampler[int]) -> DataLoader[Any]:
    """The user's loader made again with ``sampler``: same class, same arguments; the original is untouched.

    Raises:
        MisconfigurationException: If its class cannot be made again.
    """
    batches = batching(loader)
    changed: dict[str, Any] = {}
    if loader.batch_size is None and batches is not None:  # it was made with a batch sampler, which is left out
        changed = {"batch_size": batches.batch_size, "drop_last": batches.drop_last}
    return _made_again(trainer, loader, sampler, changed)


def with_batch_sampler(
    trainer: pl.Trainer, loader: DataLoader[Any], batches: DistributedSampler[list[int]]
) -> DataLoader[Any]:
    """The user's loader made again with other batches; as :func:`with_sampler`.

    Raises:
        MisconfigurationException: If its class cannot be made again.
    """
    plain = copy(loader)
    # Lightning would make the user's batch sampler again, with a sampler that it may not know.
    vars(plain)["batch_sampler"] = BatchSampler(batches, 1, False)  # type: ignore[arg-type]
    alone = {"sampler": None, "shuffle": False, "batch_size": 1, "drop_last": False}  # beside a batch sampler
    made = _made_again(trainer, plain, batches, {"batch_sampler": batches}, alone)
    # Lightning puts one of its own in the place of any other sampler, and tells this one the epoch.
    vars(made)["sampler"] = batches
    return made


def _made_again(
    trainer: pl.Trainer,
    loader: DataLoader[Any],
    sampler: Sampler[Any],
    changed: dict[str, Any],
    where_given: dict[str, Any] | None = None,
) -> DataLoader[Any]:
    try:
        given, resolved = of_trainer(trainer, _get_dataloader_init_args_and_kwargs)(loader, sampler)
        # Of a loader that was made in a hook the arguments are known as they were given; those without a name keep theirs.
        known = getattr(loader, "__pl_saved_arg_names", ())
        named = {**dict(zip(known, given, strict=False)), **resolved, **changed}
        named |= {name: value for name, value in (where_given or {}).items() if name in named}
        made = of_trainer(trainer, _reinstantiate_wrapped_cls)(loader, *given[len(known) :], **named)
    except Exception as error:
        raise MisconfigurationException(
            f"AlignPrune could not make the loader {type(loader).__name__} again with its own sampler ({error}); pass its "
            "arguments by name, and let your own class hand **kwargs on to DataLoader."
        ) from error
    return made  # type: ignore[no-any-return]


def batching(loader: DataLoader[Any]) -> BatchSampler | None:
    """How a loader makes batches, by itself or with a plain ``BatchSampler``; None where it does so in another way."""
    batches: Any = loader.batch_sampler
    return batches if type(batches) is BatchSampler else None


def batch_size(loader: DataLoader[Any]) -> int:
    """Samples a batch, or of batches of ours a usual one's; one without batching."""
    batches: Any = loader.batch_sampler
    return 1 if batches is None else int(batches.batch_size)


def training_loader(trainer: pl.Trainer) -> DataLoader[Any]:
    """The loader that the fit loop has, which is ours."""
    return trainer.fit_loop._combined_loader.flattened[0]  # type: ignore[union-attr,no-any-return]


def shares_out(trainer: pl.Trainer) -> bool:
    """Whether Lightning would give each process its own share of the samples."""
    return bool(trainer._accelerator_connector.use_distributed_sampler)


def renew_iterator(trainer: pl.Trainer) -> None:
    """Start the epoch's iterator again: the one made with the loader may have fetched batches of another plan."""
    iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]


# ---- lengths ----------------------------------------------------------------------------------------------


def limited_batches(trainer: pl.Trainer, batches: int) -> int:
    """How many of an epoch's ``batches`` are trained under ``limit_train_batches``."""
    limit = trainer.limit_train_batches
    if isinstance(limit, float) and batches > 0:
        return max(1, int(batches * limit))  # a share of a short epoch may be less than a batch
    return int(_parse_num_batches(RunningStage.TRAINING, batches, trainer.limit_train_batches))


def drops_last(loader: DataLoader[Any]) -> bool:
    """Whether the last batch of an epoch is left out where it is not whole."""
    own = batching(loader)
    return own is not None and own.drop_last


def full_epoch(trainer: pl.Trainer, n: int, loader: DataLoader[Any], done: float = 1.0) -> tuple[int, int]:
    """What an epoch over all ``n`` samples would be: batches on each rank before limits, and samples within them.

    ``done`` is the share of its batches after which it ends.
    """
    own = batching(loader)
    size = 1 if own is None else own.batch_size  # batches of the user's own are counted by themselves
    per_rank = -(-n // trainer.world_size)
    batches = per_rank // size if drops_last(loader) else -(-per_rank // size)
    trained = round(done * limited_batches(trainer, batches) * size * trainer.world_size)
    return batches, min(n, max(1, trained))


def set_epoch_length(trainer: pl.Trainer) -> None:
    """Tell the loop how long this epoch is: steps, progress bar, and when to validate.

    Called at an epoch's start, before its iterator is made. Earlier is too early: at the end of an epoch Lightning compares
    its counters with that epoch's own length, and with another one would leave out the scheduler step.
    """
    loop = trainer.fit_loop
    combined, fetcher = loop._combined_loader, loop._data_fetcher
    if combined is None or fetcher is None:
        return
    loader = combined.flattened[0]
    if len(loader) == 0:
        raise MisconfigurationException(
            f"The epoch's plan gives each process {len(loader.sampler)} samples, but drop_last=True drops all below the "
            f"batch of {batch_size(loader)}; lower the pruning ratio, or leave drop_last=False."
        )
    batches = limited_batches(trainer, len(loader))
    combined.limits = [batches]
    # The first epoch's iterator exists already and has asked for the length before.
    fetcher.length = batches
    loop.max_batches = batches
    interval = trainer.val_check_interval
    if trainer.val_check_batch in (None, float("inf")):
        return  # validation by time
    if isinstance(interval, float):
        trainer.val_check_batch = max(1, int(batches * interval))
    elif trainer.check_val_every_n_epoch is not None:
        # An interval longer than a shortened epoch would skip its validation.
        trainer.val_check_batch = min(interval, batches)


def batches_of_stream(trainer: pl.Trainer, length: int | None) -> int | None:
    """How many batches of a stream are trained under ``limit_train_batches``; None for all.

    Args:
        trainer: The Trainer.
        length: The length of its loader; None where it has none, and then Lightning refuses a share of it.
    """
    limit = trainer.limit_train_batches
    if isinstance(limit, int):
        return limit
    return None if limit == 1.0 or length is None else limited_batches(trainer, length)


def set_stream_epoch(trainer: pl.Trainer, expected: int | None) -> None:
    """Let the loop find out where an epoch ends: the stream's end is looked for one batch ahead.

    Args:
        trainer: The Trainer.
        expected: How many batches the epoch will have, by which a validation within it is placed.
    """
    loop = trainer.fit_loop
    combined, fetcher, endless = loop._combined_loader, loop._data_fetcher, float("inf")
    if combined is None or fetcher is None:
        return
    combined.limits = [endless]
    if combined._iterator is not None:
        combined._iterator.limits = [endless]
    fetcher.length = None
    loop.max_batches = endless
    interval = trainer.val_check_interval
    if trainer.val_check_batch is None:
        return
    if isinstance(interval, int):
        trainer.val_check_batch = interval  # which the last epoch's end may have changed
        return
    within = interval < 1.0 and expected is not None
    trainer.val_check_batch = max(1, int((expected or 1) * interval)) if within else endless


def validate_at_end(trainer: pl.Trainer) -> None:
    """Have an epoch of a stream validated after its last batch, if it was too short to be validated within."""
    done: Any = trainer.fit_loop.epoch_loop.batch_progress
    interval = trainer.val_check_batch
    if done.is_last_batch and None not in (interval, trainer.check_val_every_n_epoch) and done.current.ready < interval:
        trainer.val_check_batch = float("inf")


# ---- resuming ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """Where the loop goes on after it was restored from a checkpoint.

    Attributes:
        epoch: The first epoch, from 0, of which not all batches are done.
        batches: Batches done in it; None where the checkpoint was not written within an epoch.
    """

    epoch: int
    batches: int | None


def restart_position(trainer: pl.Trainer) -> Position | None:
    """Where a resumed run goes on, asked in ``on_train_start``; None in a run that is not resumed."""
    loop = trainer.fit_loop
    # At the end of a validated epoch Lightning takes `restarting` back, although it goes on from a checkpoint.
    if not (loop.restarting or loop._loaded_from_state_dict):
        return None
    epochs: Any = loop.epoch_progress.current  # declared as a class without these counts
    # In a checkpoint of an epoch's last batch the batches counted are those of the epoch that is over.
    is_within = loop.restarted_mid_epoch and epochs.ready > epochs.processed
    return Position(int(epochs.processed), batches_trained(trainer) if is_within else None)


def batches_trained(trainer: pl.Trainer) -> int:
    """Batches of the running epoch whose optimiser step is over, whether or not ``on_train_batch_end`` was called."""
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return int(current.processed)


def begin_epoch(trainer: pl.Trainer) -> None:
    """Make a restored loop go on with the first batch of the next epoch, as if it had not been interrupted.

    By itself Lightning goes wrong after three kinds of checkpoint. From one of an epoch's end, under ``max_steps``, it
    repeats that end or trains a batch too many. From one of an epoch's last batch it leaves out the hook of the next
    epoch's start. From one before an epoch's first batch it leaves out the whole epoch.
    """
    loop = trainer.fit_loop
    for progress in (loop.epoch_progress, loop.epoch_loop.batch_progress):
        both: tuple[Any, Any] = (progress.total, progress.current)
        for counts in both:
            counts.ready = counts.started = counts.completed = counts.processed
    loop._restarting = False  # its setter would make it True under `max_steps`
    loop.epoch_loop.restarting = False
    loop.reset_restart_stage()
    loop.epoch_loop.reset_restart_stage()


# ---- processes --------------------------------------------------------------------------------------------


def returns_results(trainer: pl.Trainer) -> bool:
    """Whether the Trainer trains in processes that send their results to the one that has started them."""
    return hasattr(trainer.strategy.launcher, "get_extra_results")


def send_home(trainer: pl.Trainer, message: Callable[[], object]) -> None:
    """Have a process that the Trainer has started send something with its results to the one that waits for it."""
    launcher: Any = trainer.strategy.launcher
    results = launcher.get_extra_results

    def with_message(trainer: pl.Trainer) -> dict[str, Any]:
        found = message()
        return {**results(trainer), f"alignprune_pl {id(found)}": found}

    launcher.get_extra_results = with_message


# ---- the training step ------------------------------------------------------------------------------------


def batch_on_device(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """What the loop does with a training batch before ``training_step`` gets it."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


@contextmanager
def validating(trainer: pl.Trainer) -> Iterator[None]:
    """Let the Trainer say that it validates and does not train."""
    stage: Any = trainer.state.stage
    trainer.state.stage = type(stage).VALIDATING  # of the Trainer's own package
    try:
        yield
    finally:
        trainer.state.stage = stage


def has_whole_parameters(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Whether no wrapper shards the module's parameters."""
    model = trainer.strategy.model
    return model is module or isinstance(model, DistributedDataParallel)


def training_step(trainer: pl.Trainer, module: pl.LightningModule, batch: Any, number: int) -> Callable[[], Any]:
    """The step on a batch outside of training; it gets the batch's number if it takes a second argument, as in the loop.

    A wrapper that shards parameters must be entered to have them. DDP's is passed by: it would exchange buffers
    with the other ranks.
    """
    takes_number = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    step = module.training_step if has_whole_parameters(trainer, module) else trainer.strategy.training_step
    return partial(step, *((batch, number) if takes_number else (batch,)))


# ---- schedules --------------------------------------------------------------------------------------------


def full_run(trainer: pl.Trainer, batches: int) -> FullRun:
    """The run that epochs of ``batches`` batches (on each rank, before limits) would make."""
    return FullRun(
        limited_batches(trainer, batches),
        trainer.accumulate_grad_batches,
        max_epochs(trainer),
        trainer.max_steps if trainer.max_steps > 0 else None,
    )


def max_epochs(trainer: pl.Trainer) -> int | None:
    """E; None where the Trainer has no such limit."""
    return trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None


def accumulates_evenly(trainer: pl.Trainer) -> bool:
    """Whether an optimiser step takes as many batches in all epochs."""
    return not any(isinstance(callback, twins(GradientAccumulationScheduler)) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def step_schedulers(trainer: pl.Trainer) -> Iterator[LRSchedulerConfig]:
    """The schedulers that Lightning steps with the optimiser, without those that follow a metric."""
    if trainer.lightning_module.automatic_optimization:
        yield from (c for c in trainer.lr_scheduler_configs if c.interval == "step" and not c.reduce_on_plateau)


def catch_up(
    trainer: pl.Trainer, run: FullRun, kept: list[tuple[LRSchedulerConfig, int]], epoch: int, batches: int, length: int
) -> None:
    """Step schedulers to where they would be in ``run`` after ``batches`` of the ``length`` batches of ``epoch``.

    Args:
        trainer: The Trainer.
        run: The run without pruning.
        kept: The schedulers, each with the steps that it is ahead of ``run``.
        epoch: The epoch, from 0.
        batches: Those done in it.
        length: All of it.
    """
    position = run.position(epoch, batches, length, trainer.global_step)
    for config, ahead in kept:
        behind = run.scheduler_steps(position, config.frequency) + ahead - config.scheduler.last_epoch
        for _ in range(behind):
            call._call_lightning_module_hook(trainer, "lr_scheduler_step", config.scheduler, None)
        end = math.inf if run.total_steps is None else run.scheduler_steps(run.total_steps, config.frequency) + ahead
        if config.scheduler.last_epoch >= end:
            # A stream may have more batches than its loader tells, and a schedule that is over must not be stepped.
            config.interval = "over"
