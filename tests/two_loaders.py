"""What test_own_samplers_ddp.py runs in two gloo processes, as two_processes.py does."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Sampler, WeightedRandomSampler

import two_processes
from alignprune_pl import AlignmentScore, AlignPrune, InfoBatch
from alignprune_pl.core import draws
from helpers import IndexLoss, Plain, make_data, make_loader, make_trainer
from test_own_batches import Buckets
from test_own_samplers import WEIGHTS, Drawn, Half

TRAIN, REFERENCE, _ = make_data()
DDP = {"strategy": "ddp", "devices": 2}


class Weighted(WeightedRandomSampler):
    """Counts how often it is asked."""

    asked = 0

    def __iter__(self):
        type(self).asked += 1
        return super().__iter__()


class Fails(Sampler):
    def __iter__(self):
        raise KeyError("mine")

    def __len__(self):
        return 9


def loader_of(sampler: Any, **kwargs: Any) -> DataLoader:
    if isinstance(sampler, Buckets):
        return DataLoader(TRAIN, batch_sampler=sampler)
    return DataLoader(TRAIN, batch_size=16, sampler=sampler, **kwargs)


def trained(loader: DataLoader, **kwargs: Any) -> dict[str, Any]:
    """Three epochs, of which the last two leave out odd samples."""
    drawn = []

    class Notes(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            drawn.append(prune._run.planner.draw.index.tolist())

    module = IndexLoss()
    prune = AlignPrune(policy=Half(), score="loss", seed=1, window=3, storage_dtype=torch.float32)
    make_trainer(prune, Notes(), max_epochs=3, **DDP).fit(module, loader)
    return {
        "batches": module.batches,
        "drawn": drawn,
        "kept": [row["kept"] for row in prune.history],
        "full": [row["full"] for row in prune.history],
        "last": prune.store.last_loss().nan_to_num(-1).tolist(),
    }


def raised(loader: DataLoader, **kwargs: Any) -> str:
    module = Plain()
    try:
        make_trainer(AlignPrune(policy=Half()), max_epochs=1, **DDP, **kwargs).fit(module, loader)
    except (KeyError, RuntimeError, MisconfigurationException) as error:
        return f"{error} after {len(module.batches)} batches"
    return "nothing"


class Counted:
    """Counts what the first rank tells of draws."""

    def __init__(self) -> None:
        self.count = 0
        self._broadcast = draws.broadcast_from_first
        draws.broadcast_from_first = self

    def __call__(self, tensors: Any) -> None:
        self.count += 1
        self._broadcast(tensors)


def part_draws() -> dict[str, Any]:
    torch.manual_seed(10 + dist.get_rank() if dist.is_initialized() else 0)
    counted = Counted()
    seen: dict[str, Any] = {}
    make_trainer(AlignPrune(policy=Half()), max_epochs=2, **DDP).fit(Plain(), make_loader(TRAIN))
    seen["told of a usual loader"] = counted.count
    torch.manual_seed(10 + dist.get_rank())  # another one on each
    seen["samples"] = trained(loader_of(Weighted(WEIGHTS, 151)))
    seen["told"], seen["asked"] = counted.count, Weighted.asked
    seen["batches"] = trained(loader_of(Buckets()))
    seen["dropping"] = trained(loader_of(Drawn(), drop_last=True))
    seen["failed"] = raised(loader_of(Fails()))
    seen["not shared out"] = raised(loader_of(Buckets()), use_distributed_sampler=False)
    return seen


def resumed(make: Any, folder: str) -> dict[str, Any]:
    """Whether runs that go on from checkpoints of one, within an epoch and at its end, are as the uninterrupted one."""

    def run(ckpt: str | None, *callbacks: pl.Callback) -> tuple[Plain, AlignPrune]:
        torch.manual_seed(5)
        module = Plain()
        prune = AlignPrune(REFERENCE, InfoBatch(0.5), AlignmentScore(warm_up=2), window=3, seed=1)
        trainer = make_trainer(prune, *callbacks, **DDP, max_epochs=5, enable_checkpointing=bool(callbacks))
        trainer.fit(module, loader_of(make()), ckpt_path=ckpt)
        return module, prune

    save = ModelCheckpoint(
        folder, filename="{step}", auto_insert_metric_name=False, save_top_k=-1, every_n_train_steps=1
    )
    whole, first = run(None, save)
    seen: dict[str, Any] = {"kept": [row["kept"] for row in first.history], "steps": {}}
    for step in (3, 5, 9, 12):
        half, second = run(f"{folder}/{step}.ckpt")
        seen["steps"][step] = [
            half.batches == whole.batches[step:],
            all(map(torch.equal, whole.parameters(), half.parameters())),
            torch.equal(second.store.losses().nan_to_num(-1), first.store.losses().nan_to_num(-1)),
        ]
    return seen


def part_resume() -> dict[str, Any]:
    return {"samples": resumed(Drawn, "samples"), "batches": resumed(Buckets, "batches")}


def rank(part: str) -> None:
    """One of the two processes."""
    two_processes.rank(part, globals())
