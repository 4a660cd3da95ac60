"""Representations: contrastive and self-supervised losses, metric learning."""

# ruff: noqa: D101, D102, as Lightning's hooks are documented there

import copy
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from plain import images, loader, numbers
from spy import Training
from torch import nn


def _backbone(outputs: int = 16) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 32), nn.ReLU(), nn.Linear(32, outputs))


class TwoViews(pl.LightningModule):
    """Two views of each image, a projection head, and a loss between them."""

    def __init__(self, head: nn.Module, loss: Any, predictor: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.head, self.loss, self.predictor = _backbone(32), head, loss, predictor

    def training_step(self, batch, batch_idx):
        x = batch[0]
        z = [self.head(self.backbone(view)) for view in (x + 0.1 * torch.randn_like(x), x.flip(-1))]
        if self.predictor is None:
            loss = self.loss(*z)
        else:
            p = [self.predictor(of) for of in z]
            loss = 0.5 * (self.loss(p[0], z[1].detach()) + self.loss(p[1], z[0].detach()))
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def lightly_simclr() -> Training:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    module = TwoViews(SimCLRProjectionHead(32, 32, 8), NTXentLoss())
    return Training(numbers, module, loader(images()), output="head", remark="couples the batch; two views")


def lightly_simsiam() -> Training:
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

    heads = SimSiamProjectionHead(32, 32, 8), SimSiamPredictionHead(8, 4, 8)
    module = TwoViews(heads[0], NegativeCosineSimilarity(), heads[1])

    def losses(module, batch):
        x = batch[0]
        z = [module.head(module.backbone(view)) for view in (x + 0.1 * torch.randn_like(x), x.flip(-1))]
        p = [module.predictor(of) for of in z]
        return -0.5 * (F.cosine_similarity(p[0], z[1].detach()) + F.cosine_similarity(p[1], z[0].detach()))

    return Training(numbers, module, loader(images()), losses=losses, remark="two views, a stopped gradient")


def lightly_barlow() -> Training:
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    module = TwoViews(BarlowTwinsProjectionHead(32, 32, 8), BarlowTwinsLoss())
    return Training(numbers, module, loader(images()), output="head", remark="couples the batch by its correlations")


class Embedding(pl.LightningModule):
    def __init__(self, loss: Any, miner: Any = None) -> None:
        super().__init__()
        self.net, self.loss, self.miner = _backbone(8), loss, miner

    def training_step(self, batch, batch_idx):
        z = self.net(batch[0])
        return self.loss(z, batch[1]) if self.miner is None else self.loss(z, batch[1], self.miner(z, batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def metric_learning_triplet() -> Training:
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    module = Embedding(TripletMarginLoss(), MultiSimilarityMiner())
    return Training(
        numbers, module, loader(images(48, classes=3), 12), output="net", remark="couples the batch; with a miner"
    )


def metric_learning_arcface() -> Training:
    from pytorch_metric_learning.losses import ArcFaceLoss
    from pytorch_metric_learning.reducers import DoNothingReducer

    loss = ArcFaceLoss(4, 8)

    def losses(module, batch):
        apart = copy.copy(module.loss)
        vars(apart)["_modules"] = {**vars(apart)["_modules"], "reducer": DoNothingReducer()}
        return apart(module.net(batch[0]), batch[1])["loss"]["losses"]

    return Training(
        numbers, Embedding(loss), loader(images()), losses=losses, remark="the loss has parameters of its own"
    )
