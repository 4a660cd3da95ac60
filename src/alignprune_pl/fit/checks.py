"""What AlignPrune refuses before training starts, each in one sentence that says what to do instead."""

from __future__ import annotations

import inspect
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from alignprune_pl.core.checking import check_word
from alignprune_pl.core.contracts import Policy, Score
from alignprune_pl.core.distributed import same_on_all_ranks
from alignprune_pl.fit import loop
from alignprune_pl.fit.twins import MisconfigurationException


def check_parts(
    policy: Policy, score: Score, has_reference: bool, window: int, capture_mode: str, sharded: bool = False
) -> None:
    """Refuse parts that do not fit together.

    Raises:
        ValueError: If a reference is needed, by the policy or by a score that is read, and none is given. If the policy
            compares with the reference, and the score does not rate it. If the score looks further back than the window, or
            needs more epochs than it looks at. If ``capture_mode`` is another word, or gives the score no logits. With
            ``sharded``, if a part needs all samples at once.
    """
    if policy.needs_reference and not has_reference:
        raise ValueError(
            f"AlignPrune got no reference, but {policy!r} compares with one; pass reference=<DataLoader of clean samples>."
        )
    if policy.needs_reference and not score.rates_reference:
        raise ValueError(
            f"{policy!r} compares training samples with the reference, but {score!r} does not rate the reference; use "
            "score='rival' or score='trajectory'."
        )
    if score.needs_reference and not has_reference and policy.reads_score:
        raise ValueError(
            f"AlignPrune got no reference, but {score!r} compares with one; pass reference=<DataLoader of clean samples>, "
            "or score='loss'."
        )
    if score.window is not None and score.window > window:
        raise ValueError(
            f"{score!r} looks at {score.window} epochs, but window={window} of them are remembered; pass "
            f"AlignPrune(window={score.window})."
        )
    if score.min_epochs > (score.window or window):
        raise ValueError(
            f"{score!r} needs {score.min_epochs} epochs, but looks at {score.window or window} and would always be NaN; use "
            "a longer window or a smaller min_observed."
        )
    check_word("capture_mode", capture_mode, ("auto", "explicit"))
    if capture_mode == "explicit" and score.observes in ("el2n", "margin"):
        raise ValueError(
            f"{score!r} reads logits, but capture_mode='explicit' hands over losses alone; pass capture_mode='auto' or "
            "another score."
        )
    if sharded:
        check_sharded(policy, score)


def check_sharded(policy: Policy, score: Score) -> None:
    """Refuse parts that need all samples at once.

    Raises:
        ValueError: If the policy has no plan of a rank's own samples, or probes; or if the score looks at several samples.
    """
    on_shards, plain = (
        next(cls for cls in type(policy).__mro__ if name in vars(cls)) for name in ("plan_on_shards", "plan")
    )
    # A class that overrides the plan alone would go by its base's on shards.
    if not issubclass(on_shards, plain):
        raise ValueError(
            f"AlignPrune(sharded=True) got {policy!r}, which plans all samples at once; use policy='infobatch', 'seta', "
            "'small_loss', 'random' or 'none', or give its class plan_on_shards."
        )
    if policy.probes:
        raise ValueError(
            f"AlignPrune(sharded=True) got {policy!r}, which has probes, but each rank passes forward only what it trains; "
            "use a policy without."
        )
    if score.by_sample is None or score.observes == "rival":
        raise ValueError(
            f"AlignPrune(sharded=True) got {score!r}, which looks at all samples together; use a score of one sample at a "
            "time, such as score='das', and state by_sample in a class of your own."
        )


def check_trainer(trainer: pl.Trainer, module: pl.LightningModule, steps_forward: bool) -> None:
    """Refuse a run whose batches or gradients are not pruning's to choose.

    Args:
        trainer: The Trainer.
        module: The module.
        steps_forward: Whether the reference or probes are passed forward by ``training_step``.

    Raises:
        MisconfigurationException: For manual optimization whose step would be run on the reference, a ``training_step``
            that draws its own batches, and ``overfit_batches``.
    """
    if not module.automatic_optimization and steps_forward:
        raise MisconfigurationException(
            "AlignPrune got a module with automatic_optimization=False, whose training_step would optimise on the "
            "reference too; pass AlignPrune(loss_fn=...) to evaluate it."
        )
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise MisconfigurationException(
            "AlignPrune got a training_step(dataloader_iter), whose batches it cannot match with samples; take a batch "
            "and its index instead."
        )
    overfit = getattr(trainer, "overfit_batches", 0)  # set by the trainer, not declared
    if overfit > 0:
        raise MisconfigurationException(
            f"AlignPrune got Trainer(overfit_batches={overfit}), which fixes the batches that pruning "
            "would choose; use limit_train_batches, or leave the callback out."
        )


def check_loader(loader: Any, trainer: pl.Trainer, key: Any = None) -> int | None:
    """Refuse a training loader whose batches could not be matched with samples.

    A ``DistributedSampler`` is taken over: the plan is shared out over the ranks as it would do it.

    Args:
        loader: The user's.
        trainer: The Trainer.
        key: What the samples of a stream are known by, if the user has said so.

    Returns:
        n, the number of samples; None of a stream, which has no number of them. All ranks must ask together.

    Raises:
        MisconfigurationException: One sentence on what was found and what to do.
    """
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"AlignPrune got a {type(loader).__name__} as training loader, but it prunes one DataLoader; pass a single one."
        )
    data: Any = loader.dataset
    is_stream = isinstance(data, IterableDataset)
    if not is_stream and not hasattr(data, "__len__"):
        raise MisconfigurationException(
            f"AlignPrune got the data set {type(loader.dataset).__name__}, which has no length, but samples are chosen by "
            "index; give it a __len__, or make it an IterableDataset whose samples have keys."
        )
    if loader.batch_sampler is None:
        raise MisconfigurationException(
            f"AlignPrune got DataLoader(batch_size=None), so that {type(loader.dataset).__name__} makes the batches, but "
            "it chooses single samples; let the data set give single samples and the loader make batches."
        )
    if key is not None and not is_stream:
        raise MisconfigurationException(
            f"AlignPrune got a key, but the samples of {type(loader.dataset).__name__} are known by their index; leave "
            "the key out, which is for an IterableDataset."
        )
    if not is_stream and loader.num_workers > 0 and not getattr(loader, "in_order", True):
        raise MisconfigurationException(
            "AlignPrune got DataLoader(in_order=False), whose batches come in any order, by which it could not tell the "
            "samples of one; leave in_order=True."
        )
    if hasattr(loader, "load_state_dict"):
        raise MisconfigurationException(
            f"AlignPrune got the stateful loader {type(loader).__name__}, which on resuming would skip batches that the "
            "plan has left out already; use DataLoader, whose epoch the callback resumes."
        )
    if is_stream:
        _check_stream(loader)
        return None
    n = len(data)
    _check_sampler(loader, n, trainer)
    if not same_on_all_ranks(n, trainer.strategy.root_device):
        raise MisconfigurationException(
            f"The training set has {n} samples on rank {trainer.global_rank} and another number on others, but all "
            "share one plan; give each the whole data set."
        )
    return n


def _check_stream(loader: DataLoader[Any]) -> None:
    if type(loader).__iter__ is not DataLoader.__iter__:
        raise MisconfigurationException(
            f"AlignPrune got the loader {type(loader).__name__} with an __iter__ of its own over a stream, but it takes "
            "the samples' keys from beside its batches; use DataLoader, and change batches in on_after_batch_transfer."
        )


def _check_sampler(loader: DataLoader[Any], n: int, trainer: pl.Trainer) -> None:
    batches = loop.batching(loader)
    sampler: Any = loader.batch_sampler if batches is None else batches.sampler
    within: Any = getattr(sampler, "sampler", sampler)  # of a batch sampler
    if type(sampler) in _PLAIN and _goes_through(sampler) != n:
        raise MisconfigurationException(
            f"AlignPrune got the sampler {type(sampler).__name__} over {_goes_through(sampler)} samples, but the loader's "
            f"data set has {n}; make it for that, or use DataLoader(shuffle=True)."
        )
    alone = trainer.world_size > 1 and not loop.shares_out(trainer) and not isinstance(sampler, DistributedSampler)
    name, processes = type(sampler).__name__, trainer.world_size
    found = f"AlignPrune got Trainer(use_distributed_sampler=False) with {processes} processes and a {name}"
    if takes_all(sampler, n):
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas != trainer.world_size:
            raise MisconfigurationException(
                f"AlignPrune got a DistributedSampler for {sampler.num_replicas} processes, but the Trainer runs "
                f"{trainer.world_size}; make it with num_replicas={trainer.world_size}, or leave it out."
            )
        if alone:
            raise MisconfigurationException(
                f"{found}, by which each would train on all samples, but it trains each kept sample once; use a "
                "DistributedSampler, or leave use_distributed_sampler=True."
            )
        return
    for part in (sampler, within):
        if getattr(part, "num_replicas", 1) != 1:
            raise MisconfigurationException(
                f"AlignPrune got the sampler {type(part).__name__}, which draws a share for one of {part.num_replicas} "
                "processes, but one draw is made for all and shared out by AlignPrune; make it with num_replicas=1, rank=0."
            )
    if alone:
        raise MisconfigurationException(
            f"{found}, which each would ask by itself, but one draw is made for all and shared out by AlignPrune; leave "
            "use_distributed_sampler=True."
        )


# Those of torch that go through a data set, which each has been made for.
_PLAIN = (RandomSampler, SequentialSampler, DistributedSampler)


def _goes_through(sampler: Any) -> int:
    data: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler.data_source
    return len(data)


def takes_all(sampler: Any, n: int) -> bool:
    """Whether a sampler goes through a data set of ``n`` samples once, in whatever order."""
    if type(sampler) is DistributedSampler:
        return len(sampler.dataset) == n  # type: ignore[arg-type]
    if type(sampler) is RandomSampler and sampler.replacement:
        return False
    return type(sampler) in (RandomSampler, SequentialSampler) and len(sampler) == n == len(sampler.data_source)


def sampler_that_draws(loader: DataLoader[Any]) -> Any | None:
    """The user's sampler or batch sampler, where that decides what an epoch has; None where an epoch has all samples."""
    batches = loop.batching(loader)
    if batches is None:
        return loader.batch_sampler
    return None if takes_all(batches.sampler, len(loader.dataset)) else batches.sampler  # type: ignore[arg-type]


def check_one_a_sample(n: int, **given: Any) -> None:
    """Refuse what is not as long as the training set.

    Raises:
        MisconfigurationException: If one of ``given``, where it is not None, has not ``n`` entries.
    """
    for name, entries in given.items():
        if entries is not None and not (hasattr(entries, "__len__") and len(entries) == n):
            length = f"{len(entries)} entries" if hasattr(entries, "__len__") else "no length"
            raise MisconfigurationException(
                f"{name} has {length}, but the training set has {n} samples; give one each."
            )


def check_goes_by_no_place(**given: Any) -> None:
    """Refuse what goes by the places of samples, as those of a stream have none.

    Raises:
        MisconfigurationException: If one of ``given`` is there.
    """
    for name, value in given.items():
        if value is not None and value is not False:
            raise MisconfigurationException(
                f"{name} goes by the places of samples, but in a stream, as the training set is one, they have none; leave "
                "it out."
            )


def check_data_size(n: int, expected: int) -> None:
    """Refuse a data set that has changed its length.

    Raises:
        MisconfigurationException: If ``n`` is not the ``expected`` number of samples.
    """
    if n != expected:
        raise MisconfigurationException(
            f"The training set had {expected} samples and now has {n}, but trajectories belong to fixed indices; keep the "
            "data set's length, or start a new run."
        )


def check_state(
    state: dict[str, Any], seed: int | None, batch: list[int], kind: str, merges: bool, is_sharded: bool
) -> None:
    """Refuse a checkpoint whose random choices or whose half epoch would not be continued by this run.

    Args:
        state: The callback's state.
        seed: The seed given to the callback.
        batch: Samples a batch on each rank, 0 where a batch sampler of the user's own makes them; and the number of ranks.
        kind: What decides which samples an epoch has, in words.
        merges: Whether batches are merged.
        is_sharded: Whether each rank has the trajectories of its own samples alone.

    Raises:
        MisconfigurationException: If the seed or the kind of sampler is another one, or the batches are and an epoch is half
            done.
    """
    if seed is not None and seed != state["planner"]["seed"]:
        raise MisconfigurationException(
            f"The checkpoint was written with seed={state['planner']['seed']}, but this run has seed={seed}; resume with "
            "the same seed, or leave it out."
        )
    before = state["batch_of_all_ranks"]
    if state["is_sharded"] != is_sharded:
        raise MisconfigurationException(
            f"The checkpoint was written with sharded={not is_sharded}, but this run has sharded={is_sharded}; resume with "
            "the same."
        )
    if state["kind"] != kind:
        raise MisconfigurationException(
            f"The checkpoint was written with {state['kind']}, but this run has {kind}; resume with the same kind of "
            "loader."
        )
    if not state["batches_done"] or kind == STREAM:  # whose samples are known by their keys, in whatever batches
        return
    if before != batch:
        size = "a batch sampler's batches" if batch[0] == 0 else f"{before[0]} samples a batch"
        raise MisconfigurationException(
            f"The checkpoint is from within an epoch with {size} on {before[1]} ranks, but this run has "
            f"{batch[0] or 'them'} on {batch[1]}; resume with the same, or from a checkpoint of an epoch's end."
        )
    if batch[0] == 0 and state["merges_batches"] != merges:
        raise MisconfigurationException(
            f"The checkpoint is from within an epoch with merge_batches={state['merges_batches']}, but this "
            f"run has {merges}; resume with the same, or from a checkpoint of an epoch's end."
        )


STREAM = "a stream"


def kind_of_loader(draws: bool, batch_size: int) -> str:
    """What decides which samples an epoch has, in words.

    Args:
        draws: Whether a sampler of the user's own does.
        batch_size: Samples that the loader makes a batch of; 0 where a batch sampler of the user's own does.
    """
    if not draws:
        return "a loader that goes through all samples"
    return "a sampler of its own" if batch_size else "a batch sampler of its own"


def mask_of(given: Any) -> Tensor:
    """bool[n] of what is given."""
    mask = torch.as_tensor(given)
    if mask.dtype != torch.bool or mask.ndim != 1:
        raise ValueError(
            f"noise_mask={mask.dtype}{list(mask.shape)} is given, but bool[n] is expected, True for a wrong label; compare "
            "labels with clean labels."
        )
    return mask.cpu()


def dtype_of(given: torch.dtype | str) -> torch.dtype:
    """A dtype, or the one that a word names."""
    if isinstance(given, torch.dtype):
        return given
    named: torch.dtype = getattr(torch, check_word("storage_dtype", given, ("bfloat16", "float32")))
    return named
