"""What test_sharded_run_ddp.py runs in two gloo processes, and in one; each process leaves rank<r>.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import TensorDataset

import two_processes
from alignprune_pl import AlignmentScore, AlignPrune, InfoBatch, LossScore, NoPruning, Random, SeTa, SmallLoss
from helpers import CLASSES, Plain, make_data, make_loader, make_trainer
from two_processes import REFERENCE, TRAIN, Known, ddp, known_reference

MASK = make_data()[2]
HOSTS = {
    "infobatch": lambda: InfoBatch(0.5),
    "seta": lambda: SeTa(0.2, window_scale=0.6),
    "small_loss": lambda: SmallLoss(0.4),
    "random": lambda: Random(0.4),
    "none": NoPruning,
}
SCORES = {"das": lambda: AlignmentScore(warm_up=2), "loss": LossScore, "ema_loss": lambda: "ema_loss"}
EPOCHS = 6


class KnownOfOne(Known):
    """Its losses depend on sample and epoch alone, and it can train on one sample: no epoch has to leave one out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, CLASSES)


class Selected(pl.Callback):
    """Notes the weight of each sample that is planned on this rank, epoch by epoch."""

    def __init__(self, prune: AlignPrune) -> None:
        self.prune, self.seen = prune, []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        plan, shard = self.prune.plan, self.prune.store.shard
        self.seen.append(dict(zip(shard.samples(plan.keep).tolist(), plan.weight.tolist(), strict=True)))


def prune_of(policy: str = "infobatch", score: str = "das", **kwargs: Any) -> AlignPrune:
    given = {"window": 3, "seed": 1, "loss_fn": known_reference, "sharded": True, "noise_mask": MASK, **kwargs}
    return AlignPrune(REFERENCE, HOSTS[policy](), SCORES[score](), **given)


def selection(policy: str, score: str = "das", *callbacks: pl.Callback, **kwargs: Any) -> dict[str, Any]:
    """What a run selects, trains and tells; used by the test too, in one process."""
    prune, module = prune_of(policy, score), kwargs.pop("module", KnownOfOne)()
    ckpt, selected = kwargs.pop("ckpt_path", None), Selected(prune)
    trainer = make_trainer(prune, selected, *callbacks, **{"max_epochs": EPOCHS, **kwargs})
    trainer.fit(module, make_loader(TRAIN, batch_size=1), ckpt_path=ckpt)
    return {
        "selected": [sorted(epoch.items()) for epoch in selected.seen],
        "trained": [module.trained(epoch) for epoch in range(EPOCHS)],
        "history": prune.history,
        "losses": prune.store.losses().nan_to_num(-1).tolist(),
        "summary": {name: value for name, value in prune.summary().items() if name != "pruning_time"},
    }


def part_selection() -> dict[str, Any]:
    seen: dict[str, Any] = {host: selection(host, **ddp()) for host in HOSTS}
    seen["ema_loss"] = selection("infobatch", "ema_loss", **ddp())
    return seen


class Steady(Plain):
    """Its parameters stay as they are, and it notes the gradient of each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Linear(4, CLASSES)
        self.gradients: list[list[float]] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.gradients.append(self.net.weight.grad.flatten().tolist())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def gradient(samples: list[int], weights: list[float]) -> torch.Tensor:
    """The mean of the weighted gradients of some samples."""
    net = Steady().net
    x, y = (part[samples] for part in TRAIN.tensors)
    (F.cross_entropy(net(x[:, 1:]), y, reduction="none") * torch.tensor(weights)).mean().backward()
    return net.weight.grad.flatten()


def part_gradients() -> dict[str, Any]:
    prune, module = prune_of(score="loss", loss_fn=None), Steady()
    selected = Selected(prune)
    make_trainer(prune, selected, **ddp(max_epochs=3)).fit(module, make_loader(TRAIN))
    weights = [{str(sample): weight for sample, weight in epoch.items()} for epoch in selected.seen]
    observed = prune.store.losses().isfinite().sum(0).tolist()
    return {"batches": module.batches, "weights": weights, "gradients": module.gradients, "observed": observed}


def part_resume() -> dict[str, Any]:
    # Epoch 0 has 7 batches on each rank: within it, at its last batch, after that; within a pruned epoch.
    return two_processes.resumed(Path("ddp"), ddp, Plain, (3, 7, 8, 10), sharded=True)


def part_nonfinite() -> dict[str, Any]:
    return two_processes.part_nonfinite(sharded=True)


def every_epoch(folder: str | Path) -> ModelCheckpoint:
    name = {"filename": "{epoch}", "auto_insert_metric_name": False}
    return ModelCheckpoint(folder, **name, save_top_k=-1, save_on_train_epoch_end=True)


def part_saves() -> dict[str, Any]:
    """A run that leaves checkpoints of epochs' ends and one from within an epoch, which no other number of ranks takes."""
    save = every_epoch("two")
    steps = ModelCheckpoint("steps", filename="{step}", auto_insert_metric_name=False, every_n_train_steps=20)
    return selection("infobatch", "ema_loss", save, steps, **ddp(enable_checkpointing=True))


def part_goes_on() -> dict[str, Any]:
    """From a checkpoint of one process, which the test has left here."""
    return selection("infobatch", "ema_loss", ckpt_path="one/2.ckpt", **ddp())


class Told:
    """The sizes of all tensors that ranks exchange."""

    def __init__(self, *names: str) -> None:
        self.sizes: list[int] = []
        for name in names:
            setattr(dist, name, self.telling(getattr(dist, name)))

    def telling(self, exchange: Callable[..., Any]) -> Callable[..., Any]:
        def told(*arguments: Any, **kwargs: Any) -> Any:
            tensors = [given for given in arguments if isinstance(given, torch.Tensor)]
            self.sizes += [tensor.numel() for tensor in tensors]
            return exchange(*arguments, **kwargs)

        return told


def held(thing: Any, seen: set[int] | None = None) -> int:
    """The bytes of all tensors that an object of ours refers to."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return thing.untyped_storage().nbytes()
    if isinstance(thing, dict):
        return sum(held(part, seen) for part in thing.values())
    if isinstance(thing, list | tuple):
        return sum(held(part, seen) for part in thing)
    ours = type(thing).__module__.startswith("alignprune_pl") and hasattr(thing, "__dict__")
    return held(vars(thing), seen) if ours else 0


def large_run(n: int, sharded: bool = True, **kwargs: Any) -> AlignPrune:
    """A run over more samples than the numbers that are added up."""
    x = torch.zeros(n, 5)
    x[:, 0] = torch.arange(n)
    data = TensorDataset(x, torch.zeros(n, dtype=torch.int64))
    prune = AlignPrune(policy=InfoBatch(0.5), score="ema_loss", window=2, seed=1, sharded=sharded)
    trainer = make_trainer(prune, **{"max_epochs": 2, **kwargs})
    trainer.fit(Plain(), make_loader(data, batch_size=n // 8))
    return prune


def part_sizes() -> dict[str, Any]:
    """What a rank holds, and what ranks exchange, with so many samples and twice as many."""
    told = Told("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "all_to_all_single", "gather")
    seen: dict[str, Any] = {}
    for n in (80_000, 160_000):
        told.sizes = []
        seen[f"held of {n}"] = held(large_run(n, **ddp())._run)
        seen[f"told of {n}"] = list(told.sizes)
    return seen


class Kept(pl.Callback):
    """Saves after each epoch, and notes what of the state this rank gives."""

    def __init__(self, prune: AlignPrune) -> None:
        self.prune, self.given = prune, []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        checkpoint: dict[str, Any] = {}
        self.prune.on_save_checkpoint(trainer, pl_module, checkpoint)
        self.given.append(held(checkpoint["callbacks"]["AlignPrune"]))


class FailsAlone(pl.Callback):
    """The second rank fails where the first one does not wait for it: at the end of training."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise ZeroDivisionError


def part_states() -> dict[str, Any]:
    """What ranks give of a state; what is refused; and what is saved where a rank fails."""
    prune = prune_of()
    kept = Kept(prune)
    make_trainer(prune, kept, **ddp(max_epochs=2)).fit(KnownOfOne(), make_loader(TRAIN, batch_size=1))
    seen: dict[str, Any] = {"given": kept.given, "own": held(prune._run), "state": prune.state_dict()}
    prune = prune_of()
    trainer = make_trainer(prune, FailsAlone(), **ddp(max_epochs=1))
    try:
        trainer.fit(KnownOfOne(), make_loader(TRAIN, batch_size=16))
    except ZeroDivisionError:
        checkpoint: dict[str, Any] = {}
        prune.on_save_checkpoint(trainer, trainer.lightning_module, checkpoint)
        seen["failed"] = checkpoint["callbacks"]["AlignPrune"]
    seen["suspicion"] = len(prune.suspicion())
    few = TensorDataset(*(tensor[:1] for tensor in TRAIN.tensors))
    seen["few"] = two_processes.refusal(
        AlignPrune(policy="none", score="loss", sharded=True), Plain(), make_loader(few)
    )
    alike = AlignPrune(policy="random", score="loss", sharded=True, seed=dist.get_rank())
    try:
        make_trainer(alike, **ddp(max_epochs=1)).fit(Plain(), make_loader(TRAIN))
    except RuntimeError as error:
        seen["seeds"] = str(error)
    return seen


def rank(part: str) -> None:
    """One of the two processes."""
    two_processes.rank(part, globals())
