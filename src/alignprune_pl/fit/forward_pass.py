"""The losses of given samples in eval mode and without gradient, with nothing of the run disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import exceptions
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignprune_pl.core.distributed import all_reduce_sum
from alignprune_pl.core.trajectory import Observed
from alignprune_pl.fit import loop
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.evaluation import evaluation_loader, of_samples
from alignprune_pl.fit.progress import shown
from alignprune_pl.fit.twins import MisconfigurationException, twins
from alignprune_pl.fit.undisturbed import Watched, undisturbed

# (module, batch) -> float[b]; typed more closely, LightningCLI would refuse a function that is not.
LossFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class ForwardPass:
    """How samples are passed forward, and what they are called in messages.

    Attributes:
        trainer: The running Trainer.
        module: Its module.
        capture: Knows which losses of ``training_step`` are trained on.
        loss_fn: ``loss_fn(module, batch) -> float[b]`` in place of the captured losses.
        kind: What the batches are of, for messages.
    """

    trainer: pl.Trainer
    module: pl.LightningModule
    capture: LossCapture
    loss_fn: LossFunction | None
    kind: str

    def observe(self, loader: DataLoader[Any], samples: Tensor) -> Observed:
        """What each of ``samples`` shows, its loss; every rank evaluates its share of them.

        Args:
            loader: How they are loaded; its own sampler is replaced.
            samples: int64[m], indices into the loader's data set.

        Returns:
            float32[m] on the CPU, the same on all ranks; NaN where a loss is not finite. With their pairs, where they
            were seen.
        """
        # One slot a sample, filled by one rank: the result does not depend on how many ranks there are.
        slots = torch.zeros(3, len(samples), dtype=torch.float32)
        classes = 0
        with undisturbed(self.trainer, self.module) as watched:
            for number, (batch, size, own) in enumerate(self.batches(loader, samples)):
                observed = self.of_batch(batch, number, size, watched)
                losses = observed.value.float().cpu()[: len(own)]
                finite = losses.isfinite()
                slots[0, own] = torch.where(finite, losses, 0.0)
                slots[1, own] = finite.float()
                classes = max(classes, observed.classes)
                slots[2, own] = observed.pair_or_unknown()[: len(own)].cpu().float() + 1
        slots = all_reduce_sum(slots.to(self.module.device)).cpu()
        return Observed(slots[0] / slots[1], slots[2].long() - 1, classes)  # 0 / 0 is NaN

    def try_one(self, loader: DataLoader[Any], most: int) -> None:
        """Evaluate one batch, so that samples of the wrong form are told before training starts.

        Args:
            loader: How they are loaded.
            most: Samples of the batch, at most; it is passed with a graph of the whole network, as in training.

        Raises:
            MisconfigurationException: If the batch cannot be evaluated.
        """
        served = of_samples(self.trainer, loader, list(range(most)))
        how, mend = ("training_step", "") if self.loss_fn is None else ("loss_fn", ", or mend loss_fn")
        with undisturbed(self.trainer, self.module) as watched:
            batch = next(iter(served))  # what the data set raises says more than we could
            try:
                self.of_batch(batch, 0, min(loop.batch_size(served), most), watched)
            except twins(exceptions.MisconfigurationException):
                raise
            except Exception as error:
                raise MisconfigurationException(
                    f"The first {self.kind} batch failed in {how} with {type(error).__name__} ({error}); its samples must "
                    f"have the training set's form, so pass {_ARGUMENTS[self.kind]} made like the training set{mend}."
                ) from error

    def batches(self, loader: DataLoader[Any], samples: Tensor) -> Iterator[tuple[Any, int, Tensor]]:
        """This rank's share of the batches, as many as every other rank has.

        Args:
            loader: How they are loaded; its own sampler is replaced.
            samples: int64[m], indices into the loader's data set.

        Yields:
            A batch, how many samples it has, and the places in ``samples`` of those that are this rank's own, the first
            of them; others are another's.
        """
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        left = len(range(rank, len(samples), ranks))
        # Collectives inside the module (sharded parameters) need equally many batches on all ranks, so that a rank
        # which would have one sample less repeats one of another's.
        places = torch.arange(rank, rank + ranks * -(-len(samples) // ranks), ranks) % max(1, len(samples))
        served = of_samples(self.trainer, loader, samples[places].tolist())
        batches = shown(self.trainer, served, self.kind, len(served))
        for batch, at in zip(batches, places.split(loop.batch_size(served)), strict=True):
            yield batch, len(at), at[:left]
            left -= len(at[:left])

    def of_batch(self, batch: Any, number: int, size: int, watched: Watched) -> Observed:
        """What one batch of ``size`` samples shows, in a context of ``undisturbed``'s: float[size], on their device.

        Raises:
            MisconfigurationException: If there is not one loss a sample.
        """
        batch = loop.batch_on_device(self.trainer, self.module, batch)
        with self.trainer.precision_plugin.train_step_context(), watched():
            if self.loss_fn is not None:
                observed = Observed(self.loss_fn(self.module, batch))
            else:
                step = loop.training_step(self.trainer, self.module, batch, number)
                observed = self.capture.observe(self.module, step, size)
        losses: Any = observed.value
        if not isinstance(losses, Tensor) or losses.shape != (size,):
            given = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise MisconfigurationException(
                f"{'training_step' if self.loss_fn is None else 'loss_fn'} gave losses {given} for a {self.kind} batch of "
                f"{size} samples, but one for each is expected; return a tensor of shape [batch]."
            )
        return observed


_ARGUMENTS = {"reference": "a reference", "probe": "probe_data"}


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
    loader = evaluation_loader(trainer, data)
    return ForwardPass(trainer, module, capture, loss_fn, "probe").observe(loader, samples)
