"""The same training twice under a setting of the Trainer: weighted by the callback, and by a step that weighs its losses."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from alignprune_pl import AlignPrune, EpochPlan, LossScore, Policy
from helpers import make_trainer

N, CLASSES = 32, 3


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHT = draw(N, seed=1).abs()
DATA = TensorDataset(torch.cat([torch.arange(N).float()[:, None], draw(N, 4, seed=2)], 1), torch.arange(N) % CLASSES)


class Weighs(Policy):
    """Keeps all, in order, each with a weight of its own."""

    def plan(self, scores, ask):
        return EpochPlan(torch.arange(N), WEIGHT)


def losses(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Focal loss and a squared error: terms that one needs a value for, and the graph tells."""
    ce = F.cross_entropy(z, y, reduction="none")
    return (1 - torch.exp(-ce)) ** 2 * ce + 0.1 * F.mse_loss(z, torch.zeros_like(z), reduction="none").mean(1)


class Module(pl.LightningModule):
    """Trains on the mean of its losses, weighted by itself if it is asked to."""

    def __init__(self, weighs: bool, checkpoints: bool | None = None, optimizer: Any = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, CLASSES)
        self.weighs, self.reentrant = weighs, checkpoints
        self.optimizer = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.reentrant is None:
            return self.head(self.body(x))
        # The head too: its parameters have no place in the graph of a reentrant checkpoint.
        return checkpoint(lambda x: self.head(self.body(x)), x.requires_grad_(), use_reentrant=self.reentrant)

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        found = losses(self(x[:, 1:]), y)
        return (found * WEIGHT[x[:, 0].long()] if self.weighs else found).mean()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class Manual(Module):
    """Optimises by hand."""

    def __init__(self, weighs: bool) -> None:
        super().__init__(weighs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


def trained(
    weighs: bool, kind: Any = Module, wrap: Any = None, settings: Any = dict, **kwargs: Any
) -> tuple[pl.LightningModule, AlignPrune | None]:
    """A module after two epochs of four batches, and the callback that weighted it."""
    torch.manual_seed(0)
    module = kind(weighs)
    prune = (
        None if weighs else AlignPrune(policy=Weighs(), score=LossScore(), window=2, seed=1, storage_dtype="float32")
    )
    callbacks = [] if prune is None else [prune]
    trainer = make_trainer(*callbacks, **{"max_epochs": 2, **settings(), **kwargs})
    # Lightning's own would shuffle.
    sampler = DistributedSampler(DATA, trainer.world_size, trainer.global_rank, shuffle=False)
    loader = DataLoader(DATA, batch_size=8, sampler=sampler if trainer.world_size > 1 else None)
    trainer.fit(module if wrap is None else wrap(module), loader)
    return module, prune


def difference(**kwargs: Any) -> float:
    """How far the two ways are apart in the parameters, relative to how far they have come."""
    (ours, prune), (meant, _) = trained(False, **kwargs), trained(True, **kwargs)
    assert prune is not None
    assert bool(prune.store.last_loss().isfinite().all())
    torch.manual_seed(0)
    start = {name: value.detach().clone() for name, value in Module(False).state_dict().items()}
    whole = [whole_of(module.state_dict()) for module in (ours, meant)]
    apart = sum(float((a - b).square().sum()) for a, b in zip(whole[0].values(), whole[1].values(), strict=True))
    come = sum(float((value - start[name]).square().sum()) for name, value in whole[1].items())
    return (apart / come) ** 0.5


def whole_of(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters, of which a rank may have a part."""
    parts = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in parts.items()}
