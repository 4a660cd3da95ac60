"""What the network says of every training sample, with the labels that its loss has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from alignprune_pl.core.distributed import all_reduce_sum
from alignprune_pl.fit import loop
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.evaluation import evaluation_loader
from alignprune_pl.fit.forward_pass import ForwardPass
from alignprune_pl.fit.undisturbed import Watched, undisturbed

_MOST_PROBABILITIES = 20_000_000  # 40 MB


@dataclass(frozen=True)
class Predictions:
    """What a network takes the training samples for.

    Attributes:
        label: int64[n], what each is labelled, as the loss has it.
        predicted: int64[n], the class that it is taken for.
        p_predicted: float32[n], the probability of that class.
        p_label: float32[n], that of its label.
        probabilities: float16[n, C], of all classes; None where they would be more than 20 million.
        classes: C.
    """

    label: Tensor
    predicted: Tensor
    p_predicted: Tensor
    p_label: Tensor
    probabilities: Tensor | None
    classes: int


def predictions(
    trainer: pl.Trainer, module: pl.LightningModule, capture: LossCapture, num_samples: int, data: Dataset[Any] | None
) -> Predictions | None:
    """What the network says of each training sample, in eval mode; every rank evaluates its share of them.

    Args:
        trainer: The running Trainer.
        module: Its module.
        capture: Knows which losses of ``training_step`` are trained on.
        num_samples: n, the length of the training set.
        data: The training set as it is to be looked at; by default itself, augmented if it is.

    Returns:
        The same on all ranks, on the CPU. None where the module optimises by hand, its step fails in eval mode, or
        its loss has no logits and one class for each sample.
    """
    forward = ForwardPass(trainer, module, capture, None, "training samples")
    loader = evaluation_loader(trainer, data)
    if not module.automatic_optimization:
        return None  # its step would train
    device = module.device
    slots, kept = torch.zeros(4, num_samples), torch.empty(0)
    classes = missing = 0
    with undisturbed(trainer, module) as watched:
        for number, (batch, size, own) in enumerate(forward.batches(loader, torch.arange(num_samples))):
            found = _of_batch(forward, batch, number, size, watched)
            missing += found is None
            if number == 0 and bool(all_reduce_sum(torch.tensor(float(missing), device=device))):
                return None
            if found is None:
                continue
            probabilities, label = (part[: len(own)].cpu() for part in (found[0].softmax(dim=1), found[1]))
            if number == 0:
                classes = probabilities.shape[1]
                kept = torch.zeros(num_samples if num_samples * classes <= _MOST_PROBABILITIES else 0, classes)
            largest, predicted = probabilities.max(dim=1)
            of_label = probabilities.gather(1, label[:, None]).squeeze(1)
            slots[:, own] = torch.stack([label.float(), predicted.float(), largest, of_label])
            if len(kept):
                kept[own] = probabilities
    alike = all_reduce_sum(torch.tensor([float(missing), float(classes)], device=device)).tolist()
    if alike != [0.0, float(classes * trainer.world_size)]:
        return None
    slots, kept = (all_reduce_sum(part.to(device)).cpu() for part in (slots, kept))
    whole = kept.half() if len(kept) else None
    return Predictions(slots[0].long(), slots[1].long(), slots[2], slots[3], whole, classes)


def _of_batch(
    forward: ForwardPass, batch: Any, number: int, size: int, watched: Watched
) -> tuple[Tensor, Tensor] | None:
    """Logits float32[b, C] and labels int64[b] of a batch of ``size`` samples; None if there are none."""
    batch = loop.batch_on_device(forward.trainer, forward.module, batch)
    with forward.trainer.precision_plugin.train_step_context(), watched():
        try:
            step = loop.training_step(forward.trainer, forward.module, batch, number)
            found = forward.capture.classify(forward.module, step, size)
        except Exception as error:
            if number > 0:
                raise
            # A run shall not fail at its end for what only a report is drawn from.
            rank_zero_warn(
                "AlignPrune has no predictions for the training samples, as training_step fails in eval mode: "
                f"{type(error).__name__}: {error}"
            )
            return None
    return found if found is not None and len(found[0]) == size else None
