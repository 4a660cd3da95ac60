"""Modules in the style of a project that need no package of it."""

# ruff: noqa: D102, as Lightning's hooks are documented there

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from spy import Training
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import Accuracy


def images(n: int = 32, channels: int = 3, side: int = 16, classes: int = 4, seed: int = 0) -> TensorDataset:
    """Random images, the first pixel of which is the sample's number over a thousand, and labels."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, side, side, generator=g)
    x[:, 0, 0, 0] = torch.arange(n) / 1000
    return TensorDataset(x, torch.randint(classes, (n,), generator=g))


def numbers(batch: Any) -> torch.Tensor:
    """The samples' numbers, from the first pixel."""
    return (batch[0].flatten(1)[:, 0] * 1000).round().long()


def loader(data: object, batch_size: int = 6, shuffle: bool = True) -> DataLoader:
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle)


class HydraTemplate(pl.LightningModule):
    """After lightning-hydra-template's MNISTLitModule: its metrics are called with the loss and the predictions."""

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        self.net, self.criterion = net, nn.CrossEntropyLoss()
        self.train_acc, self.val_acc = (Accuracy(task="multiclass", num_classes=classes) for _ in range(2))
        self.train_loss, self.val_loss, self.val_acc_best = MeanMetric(), MeanMetric(), MaxMetric()

    def forward(self, x):
        return self.net(x)

    def model_step(self, batch):
        x, y = batch
        logits = self(x)
        return self.criterion(logits, y), logits.argmax(dim=1), y

    def training_step(self, batch, batch_idx):
        loss, predicted, targets = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(predicted, targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def network(classes: int = 4, inputs: int = 3 * 16 * 16) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))


def hydra_template() -> Training:
    def losses(module, batch):
        return F.cross_entropy(module.net(batch[0]), batch[1], reduction="none")

    reference = loader(images(8, seed=1), shuffle=False)
    return Training(numbers, HydraTemplate(network(), 4), loader(images()), losses=losses, reference=reference)
