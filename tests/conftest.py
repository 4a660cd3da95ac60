"""Small real problems that the tests share."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from alignprune_pl import EpochPlan, Policy

ROOT = Path(__file__).resolve().parents[1]
N, CLASSES = 203, 3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_seed_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.chdir(tmp_path)


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


@pytest.fixture(scope="session")
def files() -> ModuleType:
    """What writes miniature data sets in the original formats."""
    return load_script("sample_files")


@pytest.fixture(scope="session")
def samples(files: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, to be read alone."""
    folder = tmp_path_factory.mktemp("samples")
    files.write_all(folder)
    return folder


@pytest.fixture
def copy_of(samples: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of some of them, to be damaged."""

    def copied(*names: str) -> Path:
        for name in names:
            (shutil.copytree if (samples / name).is_dir() else shutil.copy)(samples / name, tmp_path / name)
        return tmp_path

    return copied


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of calibrated pruning with all files that the training script writes, to be read alone."""
    from hydra import compose, initialize_config_dir

    from alignprune_pl.cli.train import train

    settings = ("trainer.accelerator=cpu", "model.hidden=[32]", "trainer.max_epochs=4", "pruning=calibrated")
    folder = tmp_path_factory.mktemp("runs") / "calibrated"
    folder.mkdir()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [*settings, "reference.share=0.05"])
    train(config, folder, {"pruning": "calibrated", "score": "rival", "noise": "sym40", "experiment": None})
    return folder
