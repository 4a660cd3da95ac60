"""What the tests share that is no fixture: a small real problem, modules and trainers for it, and runs of scripts."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from alignprune_pl import EpochPlan, Policy

ROOT = Path(__file__).resolve().parents[1]
N, CLASSES = 203, 3


def make_data() -> tuple[TensorDataset, TensorDataset, torch.Tensor]:
    """A linear problem: noisy training set, clean reference, noise mask. A sample's first feature is its index."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(N + 20, 5, generator=g)
    x[:, 0] = torch.arange(N + 20)
    y = (x[:, 1:] @ torch.randn(4, CLASSES, generator=g)).argmax(1)
    mask = torch.rand(N, generator=g) < 0.3
    noisy = torch.where(mask, (y[:N] + 1) % CLASSES, y[:N])
    return TensorDataset(x[:N], noisy), TensorDataset(x[N:], y[N:]), mask


class Plain(pl.LightningModule):
    """An ordinary module: it knows nothing of pruning, and notes what it was given."""

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))
        self.loss = loss
        self.batches: list[tuple[int, list[int]]] = []
        self.validated: list[int] = []
        self.scheduler_steps: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x[:, 1:])

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.training:
            self.batches.append((self.trainer.current_epoch, x[:, 0].long().tolist()))
        loss = self.loss(self(x), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def on_validation_epoch_end(self):
        self.validated.append(self.trainer.current_epoch)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]

    def trained(self, epoch: int) -> list[int]:
        """Indices trained on in an epoch, in order."""
        return [i for e, batch in self.batches if e == epoch for i in batch]


class IndexLoss(Plain):
    """Its loss for a sample is the sample's own index, so that a wrong attribution shows."""

    def training_step(self, batch, batch_idx):
        if self.training:
            self.batches.append((self.trainer.current_epoch, batch[0][:, 0].long().tolist()))
        index = batch[0][:, :1]
        return F.mse_loss(0.0 * self(batch[0])[:, :1] + index.sqrt(), torch.zeros_like(index))


class Fixed(Policy):
    """A policy that keeps a given number of samples each epoch, all with one weight."""

    def __init__(self, sizes, weight=1.0):
        self.sizes, self.weight, self.asked, self.scores = sizes, weight, [], []

    def plan(self, scores, ask):
        self.asked.append(ask.epoch)
        self.scores.append(scores.values.clone())
        keep = torch.randperm(len(scores), generator=ask.generator)[: self.sizes[ask.epoch % len(self.sizes)]]
        return EpochPlan(keep, torch.full((len(keep),), self.weight))

    def __repr__(self):
        return "Fixed()"


def make_loader(dataset: TensorDataset, **kwargs) -> DataLoader:
    return DataLoader(dataset, **{"batch_size": 16, "shuffle": True, **kwargs})


def make_trainer(*callbacks: pl.Callback, **kwargs) -> pl.Trainer:
    defaults = {
        "max_epochs": 5,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**defaults, **kwargs})


def load_script(name: str) -> ModuleType:
    """A file of scripts/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- commands and snippets, each in a process of its own ------------------------------------------------------

# A process that has imported all of this once, and starts others as copies of itself: seconds less for each. It trains
# nothing itself and has one thread, so that a copy is as a new interpreter is.
_COPIES = multiprocessing.get_context("forkserver")
_COPIES.set_forkserver_preload(
    ["alignprune_pl.cli.train", "matplotlib.pyplot", "sklearn.datasets", "torchvision", "wandb"]
)


def start(target: Callable[..., None], *arguments: object, cwd: Path, env: dict[str, str] | None = None) -> BaseProcess:
    """A process that runs a function of a module, in a folder. What it prints goes to files that ``ended`` reads."""
    where = Path(tempfile.mkdtemp())
    environment = {name: value for name, value in os.environ.items() if name != "PL_GLOBAL_SEED"}
    process = _COPIES.Process(target=_run, args=(target, arguments, cwd, environment | (env or {}), where))
    process.printed = where
    process.start()
    return process


def ended(process: BaseProcess, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """What became of a process, as of a subprocess."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
    out, err = ((process.printed / name).read_text() for name in ("out", "err"))
    shutil.rmtree(process.printed)
    return subprocess.CompletedProcess(process.name, process.exitcode, out, err)


def run_script(script: str | Path, *arguments: str, cwd: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """``python SCRIPT ARGUMENTS`` in a folder; a name alone is of a file of scripts/."""
    return ended(start(_script, ROOT / "scripts" / script, arguments, cwd=cwd, **kwargs))


def run_code(code: str, *arguments: str, cwd: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """``python -c CODE ARGUMENTS`` in a folder."""
    return ended(start(_code, code, arguments, cwd=cwd, **kwargs))


def _run(
    target: Callable[..., None], arguments: tuple[object, ...], cwd: Path, env: dict[str, str], printed: Path
) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(printed / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    target(*arguments)


def _script(path: Path, arguments: tuple[str, ...]) -> None:
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def _code(code: str, arguments: tuple[str, ...]) -> None:
    sys.argv = ["-c", *arguments]
    sys.path.insert(0, "")
    sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
