"""What test_ddp.py runs in two gloo processes: each part of it leaves rank<r>.json for the test to compare."""

from __future__ import annotations

import json
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from exact_settings import Module, difference
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from alignprune_pl import (
    UCB,
    AlignmentScore,
    AlignPrune,
    Calibrated,
    EmaLossScore,
    InfoBatch,
    LossScore,
    NoPruning,
    Random,
)
from helpers import IndexLoss, Plain, ended, make_data, make_loader, make_trainer, start

TRAIN, REFERENCE, _ = make_data()
# No epoch ends with a batch of one sample, which is left out: in one process and in two that would be different epochs.
CALIBRATED = Calibrated(calibration=0.25, even_gap=0.001, line=0.5)
BY_RIVALS = Calibrated(calibration=0.25)


class Known(IndexLoss):
    """A loss that depends on sample and epoch alone, and so not on how many processes there are."""

    def training_step(self, batch, batch_idx):
        x = batch[0]
        index = x[:, 0]
        if self.training:
            self.batches.append((self.trainer.current_epoch, index.long().tolist()))
        wave = torch.sin(index * 12.9898 + 78.233 * self.trainer.current_epoch) + 1.5
        zero = 0.0 * self(x).sum()
        return {"loss": zero, "per_sample_loss": wave + zero}


class KnownLogits(IndexLoss):
    """Logits that depend on sample and epoch alone; every third training sample is taken for another class."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        index = x[:, 0]
        if self.training:
            self.batches.append((self.trainer.current_epoch, index.long().tolist()))
        behind = (index < len(TRAIN)) & (index % 3 == 0)
        # Wide, as the last elements of a batch have their sine computed in another way.
        phases = [index.double() * (12.9898 + k) + 78.233 * self.trainer.current_epoch for k in range(3)]
        waves = torch.stack([torch.sin(phase).float() for phase in phases], 1)
        logits = waves + 3.0 * F.one_hot(torch.where(behind, (y + 1) % 3, y), 3)
        return F.cross_entropy(logits + 0.0 * self(x).sum(), y)


def known_reference(module: pl.LightningModule, batch: Any) -> torch.Tensor:
    """Of probes too, where each third sample of the training set falls behind."""
    index = batch[0][:, 0]
    behind = (index < len(TRAIN)) & (index % 3 == 0)
    return torch.cos(index + module.trainer.current_epoch) + 2.0 + 4.0 * behind


def run_rival(**kwargs: Any) -> dict[str, Any]:
    """Used by the test too, in one process."""
    _, prune, digests = run_known(policy=BY_RIVALS, score="rival", loss_fn=None, kind=KnownLogits, **kwargs)
    store = prune.store
    return {
        "digests": digests,
        "scores": prune._run.planner.scores(store).values.tolist(),
        "reference scores": prune.score.reference_scores().tolist(),
        "labels": store.labels().tolist(),
        "pairs": store.last_pair().tolist(),
        "estimates": [row["estimated_noise_rate"] for row in prune.history],
    }


def run_known(epochs: int = 7, **kwargs: Any) -> tuple[Any, AlignPrune, list[str]]:
    """Used by the test too, in one process."""
    digests: list[str] = []
    prune = AlignPrune(
        REFERENCE,
        kwargs.pop("policy", InfoBatch(0.5)),
        kwargs.pop("score", AlignmentScore(warm_up=2)),
        window=3,
        seed=1,
        loss_fn=kwargs.pop("loss_fn", known_reference),
    )

    class Digests(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            digests.append(prune.plan.digest())

    module = kwargs.pop("kind", Known)()
    loader = kwargs.pop("loader", None) or make_loader(TRAIN)
    make_trainer(prune, Digests(), max_epochs=epochs, **kwargs).fit(module, loader)
    return module, prune, digests


def ddp(**kwargs: Any) -> dict[str, Any]:
    return {"strategy": "ddp", "devices": 2, **kwargs}


def figures(module: Any, prune: AlignPrune, epochs: int) -> dict[str, Any]:
    return {
        "trained": [module.trained(epoch) for epoch in range(epochs)],
        "batches": [sum(e == epoch for e, _ in module.batches) for epoch in range(epochs)],
        "kept": [row["kept"] for row in prune.history],
        "reference": [row["reference_loss"] for row in prune.history],
        "observed": prune.store.losses().isfinite().sum(0).tolist(),
        "plan": prune.plan.digest(),
        "nonfinite": prune.history[-1]["nonfinite"],
    }


def refusal(callback: AlignPrune, module: pl.LightningModule, loader: DataLoader, **kwargs: Any) -> str:
    try:
        make_trainer(callback, **ddp(max_epochs=1, **kwargs)).fit(module, loader)
    except MisconfigurationException as error:
        return str(error)
    return "not refused"


class Counted:
    """Counts the collectives in an epoch that carry a number for each sample."""

    def __init__(self) -> None:
        self.large: list[str] = []
        self._all_reduce = dist.all_reduce
        dist.all_reduce = self

    def __call__(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if tensor.numel() >= len(TRAIN):
            self.large.append(str(tensor.dtype))
        return self._all_reduce(tensor, *args, **kwargs)


def part_training() -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for drop_last in (False, True):
        prune = AlignPrune(REFERENCE, InfoBatch(0.5), AlignmentScore(warm_up=2), window=3, seed=1)
        torch.manual_seed(0)  # so that every run keeps as many samples
        module = Plain()
        make_trainer(prune, **ddp(max_epochs=4)).fit(module, make_loader(TRAIN, drop_last=drop_last))
        seen[f"drop_last={drop_last}"] = figures(module, prune, 4)
    counted = Counted()
    for batch_size in (8, 50):
        counted.large = []
        run_known(epochs=3, loader=make_loader(TRAIN, batch_size=batch_size), **ddp())
        seen[f"collectives of batch size {batch_size}"] = list(counted.large)

    _, prune, seen["digests"] = run_known(**ddp())
    seen["history"] = prune.history
    seen["losses"] = prune.store.losses().nan_to_num(-1).tolist()
    prune = AlignPrune(policy=InfoBatch(0.5), score="batch_loss", seed=1)
    module = Plain()
    make_trainer(prune, **ddp(max_epochs=4)).fit(module, make_loader(TRAIN))
    seen["batch_loss"] = {"plan": prune.plan.digest(), "kept": [row["kept"] for row in prune.history]}
    _, _, seen["digests of what remembers"] = run_known(policy=UCB(0.4), score=EmaLossScore(), **ddp())
    _, prune, seen["digests with probes"] = run_known(policy=CALIBRATED, score="trajectory", **ddp())
    seen["probed"] = [row["probed"] for row in prune.history]
    seen["estimates"] = [row["estimated_noise_rate"] for row in prune.history]
    seen["rival"] = run_rival(**ddp())
    prune = AlignPrune(REFERENCE, CALIBRATED, window=3, seed=1)
    make_trainer(prune, **ddp(max_epochs=4)).fit(Plain(), make_loader(TRAIN, drop_last=True))
    seen["calibrated"] = [prune.plan.digest(), prune.history]
    own = DataLoader(TRAIN, batch_size=16, sampler=DistributedSampler(TRAIN, num_replicas=2, rank=dist.get_rank()))
    module, prune, seen["own digests"] = run_known(loader=own, **ddp(use_distributed_sampler=False))
    seen["own"] = figures(module, prune, 7)

    prune = AlignPrune(policy=NoPruning(), score=LossScore())
    seen["not shared out"] = refusal(prune, Plain(), make_loader(TRAIN), use_distributed_sampler=False)
    mine = TensorDataset(*(tensor[: 100 + dist.get_rank()] for tensor in TRAIN.tensors))
    seen["unequal"] = refusal(AlignPrune(policy=NoPruning(), score=LossScore()), Plain(), make_loader(mine))

    return seen


class Spoilt(Plain):
    """Nine samples have a loss that is not finite."""

    def training_step(self, batch, batch_idx):
        losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return {"loss": losses.mean(), "per_sample_loss": torch.where(batch[0][:, 0] < 9, torch.nan, losses)}


def part_nonfinite(**arguments: Any) -> dict[str, Any]:
    """Counts in a whole run of three epochs, and in one resumed within the second."""
    counts = []
    save = ModelCheckpoint(
        "nonfinite", filename="{step}", auto_insert_metric_name=False, save_top_k=-1, every_n_train_steps=1
    )
    even = TensorDataset(*(tensor[:200] for tensor in TRAIN.tensors))  # without padding, whose weights would spread NaN
    for ckpt in (None, "nonfinite/10.ckpt"):
        prune = AlignPrune(REFERENCE, NoPruning(), LossScore(), **arguments)
        callbacks = [save] if ckpt is None else []
        trainer = make_trainer(prune, *callbacks, **ddp(max_epochs=3, enable_checkpointing=ckpt is None))
        trainer.fit(Spoilt(), make_loader(even), ckpt_path=ckpt)
        counts.append([row["nonfinite"] for row in prune.history])
    return {"counts": counts}


def resumed(
    folder: Path, strategy: Callable[[], dict[str, Any]], kind: type[Plain], steps: tuple[int, ...], **arguments: Any
) -> dict[str, Any]:
    """An uninterrupted run, and runs that go on from checkpoints of it."""

    def run(ckpt: str | None, *callbacks: pl.Callback) -> tuple[Plain, AlignPrune]:
        torch.manual_seed(5)
        module = kind()
        prune = AlignPrune(REFERENCE, InfoBatch(0.5), AlignmentScore(warm_up=2), window=3, seed=1, **arguments)
        trainer = make_trainer(
            prune, *callbacks, **{**strategy(), "max_epochs": 5, "enable_checkpointing": bool(callbacks)}
        )
        trainer.fit(module, make_loader(TRAIN), ckpt_path=ckpt)
        return module, prune

    save = ModelCheckpoint(
        folder, filename="{step}", auto_insert_metric_name=False, save_top_k=-1, every_n_train_steps=1
    )
    whole, first = run(None, save)
    seen: dict[str, Any] = {"whole": figures(whole, first, 5)}
    for step in steps:
        half, second = run(str(folder / f"{step}.ckpt"))
        seen[str(step)] = {
            **figures(half, second, 5),
            "goes on": half.batches == whole.batches[step:],
            "same parameters": all(
                torch.equal(_whole(a), _whole(b)) for a, b in zip(whole.parameters(), half.parameters(), strict=True)
            ),
            "same losses": torch.equal(second.store.losses().nan_to_num(-1), first.store.losses().nan_to_num(-1)),
        }
    return seen


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def part_resume() -> dict[str, Any]:
    # Epoch 0 has 7 batches on each rank: within it, at its last batch, after that; within a pruned epoch.
    return resumed(Path("ddp"), ddp, Plain, (3, 7, 8, 10))


class Sharded(Plain):
    """Its parameters are shared out over the ranks (FSDP)."""

    def configure_model(self):
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        for layer in (self.net[0], self.net[3], self.net):
            fully_shard(layer, mesh=mesh)

    def configure_optimizers(self):
        # With momentum, as Lightning cannot load the state of a sharded optimiser that has none.
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fsdp() -> dict[str, Any]:
    sizes = {"data_parallel_size": 2, "tensor_parallel_size": 1}
    strategy = ModelParallelStrategy(**sizes, save_distributed_checkpoint=False, process_group_backend="gloo")
    return {"strategy": strategy, "devices": 2}


def part_fsdp() -> dict[str, Any]:
    return resumed(Path("fsdp"), fsdp, Sharded, (3, 7))


def part_exact() -> dict[str, Any]:
    return {"ddp": difference(settings=ddp), "fsdp": difference(kind=ShardedModule, settings=fsdp)}


class ShardedModule(Module):
    """Its parameters are shared out over the ranks (FSDP)."""

    def configure_model(self):
        from torch.distributed.fsdp import fully_shard

        for part in (self.body, self.head):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])


def part_terminated() -> dict[str, Any]:
    """Both ranks are asked to end within an epoch, as where a cluster takes its machines back."""

    class Terminated(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 10:
                raise SIGTERMException

    def run(ckpt: str | None, *callbacks: pl.Callback) -> Plain:
        torch.manual_seed(5)
        module, prune = Plain(), AlignPrune(REFERENCE, InfoBatch(0.5), LossScore(), window=3, seed=1)
        trainer = make_trainer(prune, *callbacks, **ddp(max_epochs=4, enable_checkpointing=bool(callbacks)))
        trainer.fit(module, make_loader(TRAIN), ckpt_path=ckpt)
        return module

    whole = run(None)
    save = ModelCheckpoint("terminated", filename="end", save_on_exception=True, save_top_k=0)
    try:
        run(None, Terminated(), save)
    except SIGTERMException:
        dist.barrier()
    (file,) = Path("terminated").glob("*.ckpt")
    state = torch.load(file)["callbacks"]["AlignPrune"]
    resumed = run(str(file))
    return {
        "done": state["batches_done"],
        "losses": int(state["store"]["open_epoch"][len(TRAIN) : -1].sum()),
        "goes on": resumed.batches == whole.batches[10:],
    }


def part_one_process_goes_on() -> dict[str, Any]:
    """A checkpoint of two ranks, for the test to go on from in one process."""
    save = ModelCheckpoint("two", filename="end", save_on_train_epoch_end=True)
    prune = AlignPrune(REFERENCE, Random(0.5), LossScore(), seed=1)
    module = Plain()
    make_trainer(prune, save, **ddp(max_epochs=2, enable_checkpointing=True)).fit(module, make_loader(TRAIN))
    return {"plan": prune.plan.digest()}


def rank(part: str, parts: dict[str, Any] | None = None) -> None:
    """One of the two processes, with the parts of this file or of another."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    result = (globals() if parts is None else parts)[f"part_{part}"]()
    Path(f"rank{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def run_part(part: str, folder: Path, run: Callable[[str], None] = rank) -> list[dict[str, Any]]:
    """What the two ranks have to say, as Lightning's own environment variables make them two of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    shared["CUDA_VISIBLE_DEVICES"] = ""
    ranks = [start(run, part, cwd=folder, env={**shared, "LOCAL_RANK": number}) for number in ("0", "1")]
    for done in map(ended, ranks):
        assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank{number}.json").read_text()) for number in (0, 1)]
