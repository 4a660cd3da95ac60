"""Probes: training samples that are passed forward after an epoch without being trained on."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignprune_pl.core.trajectory import Observed
from alignprune_pl.fit import loop
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.forward_pass import Evaluation, LossFunction


def probe(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    capture: LossCapture,
    loss_fn: LossFunction | None,
    samples: Tensor,
    data: Dataset[Any] | None = None,
) -> Observed:
    """What some training samples show, evaluated as the reference is.

    Args:
        trainer: The running Trainer.
        module: Its module.
        capture: Knows which losses of ``training_step`` are trained on.
        loss_fn: ``loss_fn(module, batch) -> float[b]`` in place of the captured losses.
        samples: int64[p], indices into the training set.
        data: The training set as it is to be looked at, sample by sample; by default itself, augmented if it is.

    Returns:
        float32[p] on the CPU, the same on all ranks; NaN where a loss is not finite.
    """
    if len(samples) == 0:
        return Observed(torch.empty(0, dtype=torch.float32))
    loader = loop.evaluation_loader(trainer, data)
    return Evaluation(trainer, module, capture, loss_fn, "probe").observe(loader, samples)
