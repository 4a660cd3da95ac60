"""What test_stream_ddp.py runs in two gloo processes, as two_processes.py does."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint

import two_processes
from alignprune_pl import AlignPrune, Calibrated, EpochPlan, InfoBatch
from helpers import IndexLoss, N, Plain, make_data, make_trainer
from test_own_samplers import Half
from test_stream import Stream, key_of, loader_of
from two_processes import Known, KnownLogits

TRAIN, REFERENCE, _ = make_data()
DDP = {"strategy": "ddp", "devices": 2}


class Sharded(Stream):
    """A third of the samples on the first rank, and two thirds on the second, of which each worker reads a part."""

    def __iter__(self):
        shares = {None: range(N), "0": range(0, N, 3), "1": [i for i in range(N) if i % 3]}
        self.samples = shares[os.environ.get("LOCAL_RANK")]  # which workers know too
        return super().__iter__()


class Single(Stream):
    """All samples on the first rank."""

    def __iter__(self):
        self.samples = range(N) if dist.get_rank() == 0 else []
        return super().__iter__()


def fit(
    module: Plain, stream: Any, epochs: int = 3, ckpt: str | None = None, callbacks: Any = (), **kwargs: Any
) -> Any:
    arguments = {"policy": Half(), "score": "loss", "window": 3, "seed": 1, "storage_dtype": torch.float32}
    loader = {name: kwargs.pop(name) for name in ("num_workers", "drop_last") if name in kwargs}
    trainer = {name: kwargs.pop(name) for name in ("limit_train_batches", "devices", "strategy") if name in kwargs}
    prune = AlignPrune(key=key_of, **{**arguments, **kwargs})
    make_trainer(prune, *callbacks, max_epochs=epochs, enable_checkpointing=bool(callbacks), **{**DDP, **trainer}).fit(
        module, loader_of(stream, **loader), ckpt_path=ckpt
    )
    return prune


def told(module: Plain, prune: AlignPrune) -> dict[str, Any]:
    return {
        "batches": module.batches,
        "keys": prune.keys.tolist(),
        "keep": prune.plan.keep.tolist(),
        "digest": prune.plan.digest(),
        "kept": [row["kept"] for row in prune.history],
        "full": [row["full"] for row in prune.history],
        "losses": prune.store.losses().nan_to_num(-1).tolist(),
        "weights": {str(name): value.tolist() for name, value in module.state_dict().items()},
    }


def shared(**kwargs: Any) -> dict[str, Any]:
    module = IndexLoss()
    return told(module, fit(module, Sharded(), **kwargs))


def part_stream() -> dict[str, Any]:
    seen: dict[str, Any] = {
        "plain": shared(),
        "workers": shared(num_workers=2),
        "limited": shared(limit_train_batches=3),
        "dropping": shared(drop_last=True),
    }
    known = Known()
    seen["known"] = told(known, fit(known, Sharded(), policy=InfoBatch(0.5), epochs=4))
    calibrated, logits = Calibrated(calibration=0.25), KnownLogits()
    prune = fit(logits, Sharded(), policy=calibrated, score="rival", reference=REFERENCE, epochs=4)
    seen["calibrated"] = {**told(logits, prune), "rate": calibrated.noise_rate}
    try:
        fit(Plain(), Single())
    except ValueError as error:
        seen["single"] = str(error)
    return seen


def alone() -> dict[str, Any]:
    """The same in this process alone."""
    one = {"devices": 1, "strategy": "auto"}
    known = Known()
    seen = {"known": told(known, fit(known, Sharded(), policy=InfoBatch(0.5), epochs=4, **one))}
    calibrated, logits = Calibrated(calibration=0.25), KnownLogits()
    prune = fit(logits, Sharded(), policy=calibrated, score="rival", reference=REFERENCE, epochs=4, **one)
    return {**seen, "calibrated": {**told(logits, prune), "rate": calibrated.noise_rate}}


def part_resume() -> dict[str, Any]:
    kwargs = {"policy": InfoBatch(0.5), "epochs": 4}

    def run(ckpt: str | None = None, *callbacks: Any) -> tuple[Known, AlignPrune]:
        module = Known()
        return module, fit(module, Sharded(), ckpt=ckpt, callbacks=callbacks, **kwargs)

    each = ModelCheckpoint("s", "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    whole, first = run(None, each)
    seen: dict[str, Any] = {"whole": told(whole, first), "steps": {}}
    epochs = [epoch for epoch, _ in whole.batches]
    end = len(epochs) - epochs[::-1].index(0)
    for step in (2, end, end + 2):
        resumed, second = run(f"s/{step}.ckpt")
        seen["steps"][step] = [
            resumed.batches == whole.batches[step:],
            second.plan.digest() == first.plan.digest(),
            str(second.history) == str(first.history),  # of a reference that there is not NaN is told
            torch.equal(second.store.losses().nan_to_num(-1), first.store.losses().nan_to_num(-1)),
        ]
    seen["end"] = end
    return seen


class OneSidedProbes(Half):
    """Probes that only the second rank reads."""

    probes = True

    def plan(self, scores: Any, ask: Any) -> EpochPlan:
        keep = super().plan(scores, ask).keep
        probe = torch.tensor([1, 7, 13] if ask.epoch else [], dtype=torch.int64)
        return EpochPlan(keep, torch.ones(len(keep)), probe)

    def epoch_ended(self, scores: Any, ask: Any) -> None:
        self.probed = ask.probed.clone()


class SecondRank(Half):
    """Leaves out all that the first rank reads, from the second epoch on."""

    def plan(self, scores: Any, ask: Any) -> EpochPlan:
        return EpochPlan.of(torch.tensor([i for i in range(len(scores)) if i % 3 or not ask.epoch]))


def part_nothing_left() -> dict[str, Any]:
    """Ranks of whose part nothing is left, before they have had a batch."""
    policy, module = OneSidedProbes(), IndexLoss()
    fit(module, Sharded(), policy=policy)
    seen: dict[str, Any] = {"probed": policy.probed[[1, 7, 13]].tolist()}

    def run(policy: Half, ckpt: str | None = None, *callbacks: Any) -> tuple[Known, AlignPrune]:
        module = Known()
        return module, fit(module, Sharded(), policy=policy, ckpt=ckpt, callbacks=callbacks)

    for name, policy in (("half", Half()), ("second", SecondRank())):
        each = ModelCheckpoint(name, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
        whole, first = run(policy, None, each)
        # Of nine batches the first rank has five.
        for step in (7, 9):
            resumed, second = run(policy, f"{name}/{step}.ckpt")
            seen[f"{name} {step}"] = {
                "batches": [len(resumed.batches), len(whole.batches) - step],
                "figures": [[(row["kept"], row["full"]) for row in prune.history] for prune in (first, second)],
                "losses": torch.equal(second.store.losses().nan_to_num(-1), first.store.losses().nan_to_num(-1)),
            }
    return seen


def rank(part: str) -> None:
    """One of the two processes."""
    two_processes.rank(part, globals())
