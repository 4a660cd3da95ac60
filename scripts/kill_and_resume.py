"""Kill a run at random moments and resume it each time: what was trained must equal the uninterrupted run.

python scripts/kill_and_resume.py [--kills 20] [--seed 0] [--seconds 600]

The run (digits, 40 % wrong labels, InfoBatch with the alignment score) keeps a single checkpoint, replaced every few
steps and at the end of each epoch. SIGKILL ends it at any moment, within a save too. Compared are every batch that any
of its lives trained on, the plan of every epoch, the figures of all epochs and the final parameters, bit by bit.
Exits with 1 where they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import multiprocessing
import random
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from alignprune_pl import AlignmentScore, AlignPrune, InfoBatch
from alignprune_pl.data import NoisyData, digits
from alignprune_pl.models import mlp
from alignprune_pl.noise import Symmetric
from alignprune_pl.training.atomic_checkpoint import AtomicCheckpointIO
from alignprune_pl.training.classifier import Classifier

EPOCHS = 24
STEPS_BETWEEN_SAVES = 7
FIGURES = ("epoch", "kept", "saved", "reference_loss", "noise_kept")


class Record(pl.Callback):
    """Appends each batch to a file as it is trained on: its epoch, its number, and what is in it."""

    def __init__(self, path: Path, prune: AlignPrune) -> None:
        self.path, self.prune = path, prune

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Append the batch."""
        seen = hashlib.sha256(batch[0].numpy().tobytes() + self.prune.plan.digest().encode()).hexdigest()
        with self.path.open("a") as file:
            file.write(f"{trainer.current_epoch} {batch_idx} {seen}\n")


def life(folder: Path, seed: int) -> None:
    """One life of the run: from its checkpoint, if it has one, to its end."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning_utilities.core.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    pl.seed_everything(seed, verbose=False)
    data = NoisyData(digits(), Symmetric(0.4), batch_size=64, seed=seed)
    network = mlp(data.input_shape, data.num_classes, hidden=[64])
    module = Classifier(network, data.num_classes, partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    prune = AlignPrune(
        data.reference_dataloader(),
        InfoBatch(0.5),
        AlignmentScore(warm_up=3),
        window=5,
        noise_mask=data.noise_mask,
    )
    place = folder / "checkpoints"
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[
            prune,
            Record(folder / "batches.txt", prune),
            ModelCheckpoint(place, filename="last", every_n_train_steps=STEPS_BETWEEN_SAVES),
            ModelCheckpoint(place, filename="last", save_on_train_epoch_end=True, every_n_epochs=1),
        ],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    last = place / "last.ckpt"
    trainer.fit(module, data.train_dataloader(), ckpt_path=last if last.exists() else None)
    parameters = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in module.parameters())).hexdigest()
    history = [[row[name] for name in FIGURES] for row in prune.history]
    (folder / "end.json").write_text(json.dumps({"parameters": parameters, "history": history}))


def trained(folder: Path) -> dict[tuple[int, int], set[str]]:
    """What each batch of each epoch held, in whichever life it was trained."""
    batches: dict[tuple[int, int], set[str]] = {}
    for line in (folder / "batches.txt").read_text().splitlines():
        epoch, number, seen = line.split()
        batches.setdefault((int(epoch), int(number)), set()).add(seen)
    return batches


def differences(folder: Path, whole: Path) -> list[str]:
    """What a killed run has done otherwise than the uninterrupted one, in words."""
    found = []
    here, there = trained(folder), trained(whole)
    if here.keys() != there.keys():
        found.append(f"batches {sorted(here.keys() ^ there.keys())[:3]} ... were trained in one of the runs alone")
    other = [batch for batch in here.keys() & there.keys() if here[batch] != there[batch]]
    if other:
        found.append(f"{len(other)} batches held other samples, the first is (epoch, batch) {min(other)}")
    ends = [json.loads((path / "end.json").read_text()) for path in (folder, whole)]
    found += [f"the {name} differ" for name in ends[0] if ends[0][name] != ends[1][name]]
    return found


def kill_and_resume(kills: int, seed: int, seconds: float, root: Path) -> list[str]:
    """Kill ``kills`` times, over as many runs as that takes; returns the differences found."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning.pytorch", "sklearn.datasets", "alignprune_pl.callback"])
    begun = time.monotonic()

    def live(folder: Path, until: float | None) -> int | None:
        """One life, killed after ``until`` seconds; its exit code, None if it was killed."""
        left = seconds - (time.monotonic() - begun)
        process = context.Process(target=life, args=(folder, seed))
        process.start()
        process.join(left if until is None else min(until, left))
        if process.is_alive():
            process.kill()
            process.join()
            return None
        return process.exitcode

    for name in ("imports", "whole"):  # the first life waits for the imports, which later ones find done
        whole = root / name
        whole.mkdir()
        start = time.monotonic()
        if (code := live(whole, None)) != 0:
            return [f"the uninterrupted run ended with {code}"]
    span = time.monotonic() - start
    print(f"uninterrupted: {EPOCHS} epochs, {len(trained(whole))} batches, {span:.1f} s", flush=True)
    moments, done, runs, found = random.Random(seed), 0, 0, list[str]()
    while done < kills:
        runs += 1
        folder = root / f"run{runs}"
        folder.mkdir()
        while not (folder / "end.json").exists():
            code = live(folder, moments.uniform(0, span) if done < kills else None)
            if code is None:
                done += 1
                print(f"kill {done:2}, run {runs}: {resumes_at(folder)}", flush=True)
            elif code != 0:
                return [*found, f"a resumed run ended with {code}"]
            if time.monotonic() - begun > seconds:
                return [*found, f"{done} of {kills} kills were done in {seconds:.0f} s"]
        found += [f"run {runs}: {words}" for words in differences(folder, whole)]
    print(f"{done} kills over {runs} runs, {time.monotonic() - begun:.0f} s", flush=True)
    return found


def resumes_at(folder: Path) -> str:
    """Where the next life goes on; reading the checkpoint also shows that it is whole."""
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():
        return "no checkpoint yet, starts again"
    state = torch.load(last, weights_only=True)
    return f"goes on from step {state['global_step']} in epoch {state['epoch']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600, help="give up after this time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        found = kill_and_resume(arguments.kills, arguments.seed, arguments.seconds, Path(root))
    if found:
        sys.exit("different: " + "; ".join(found))
    print("every batch, plan, figure and parameter equals the uninterrupted run's")


if __name__ == "__main__":
    main()
