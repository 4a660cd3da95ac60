"""What test_run_folder.py runs in two gloo processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import two_processes
from alignprune_pl import AlignPrune, LossScore, Random, RunFolder
from helpers import Plain, make_data, make_loader, make_trainer
from two_processes import ddp, run_part

TRAIN, REFERENCE, _ = make_data()


def part_follow() -> dict[str, Any]:
    """A folder of an odd number of samples, which two ranks cannot share alike."""
    prune, files = AlignPrune(REFERENCE, Random(0.5), LossScore(), seed=1), RunFolder("run")
    module = Plain()
    make_trainer(prune, files, **ddp(max_epochs=2)).fit(module, make_loader(TRAIN))
    module.eval()
    with torch.no_grad():
        by_hand = module(TRAIN.tensors[0].to(module.device)).argmax(dim=1)
    summary = {**files.summary, "pruning_time": 0}
    return {"by hand": by_hand.tolist(), "kept": [row["kept"] for row in prune.history], "summary": summary}


def rank(part: str) -> None:
    """One of the two processes."""
    two_processes.rank(part, globals())


def run_two(part: str, folder: Path) -> list[dict[str, Any]]:
    """What the two ranks have to say."""
    return run_part(part, folder, rank)
