"""The training script's classifier: an ordinary LightningModule that knows nothing of pruning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from alignprune_pl.core.checking import check_number, check_word

_FEW_CLASSES = 10  # of which being among the five largest says little


class Classifier(pl.LightningModule):
    """Trains a network with mean cross-entropy; logs ``train/loss``, ``val/loss``, ``val/acc`` and ``test/acc``.

    With more than ten classes it also logs ``test/acc_top5``, the share of labels among the five largest logits. Further
    parts that are evaluated log the same with their name behind it, ``test/acc_NAME``.

    Args:
        network: Inputs float32[b, ...], such as images [b, C, H, W], to logits float32[b, classes].
        num_classes: The number of classes.
        optimizer: Parameters to optimiser.
        scheduler: Optimiser to a scheduler; None for a constant rate. One that is stepped with every batch is also
            given ``total_steps``, the run's.
        interval: ``"epoch"`` or ``"step"``, when the scheduler is stepped.
        label_smoothing: Of the training loss, in [0, 1).
        evaluated: The names of the evaluated parts, in the order of their loaders.

    Raises:
        ValueError: If ``interval`` or ``label_smoothing`` is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        interval: str = "epoch",
        label_smoothing: float = 0.0,
        evaluated: Sequence[str] = ("test",),
    ) -> None:
        super().__init__()
        self.network = network
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.interval = check_word("interval", interval, ("epoch", "step"))
        self.label_smoothing = check_number("label_smoothing", label_smoothing, "[0, 1)", "a share", "0.1 is usual")
        self.suffixes = ["", *(f"_{name}" for name in evaluated[1:])]
        self.val_acc = nn.ModuleList(MulticlassAccuracy(num_classes, average="micro") for _ in evaluated)
        self.test_acc = nn.ModuleList(MulticlassAccuracy(num_classes, average="micro") for _ in evaluated)
        fives = evaluated if num_classes > _FEW_CLASSES else ()
        self.test_top5 = nn.ModuleList(MulticlassAccuracy(num_classes, average="micro", top_k=5) for _ in fives)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Take the weights of a checkpoint.

        Raises:
            ValueError: If they are of another network.
        """
        try:
            return super().load_state_dict(*args, **kwargs)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip().rstrip(".")
            raise ValueError(
                f"a checkpoint of another network is given ({reason}); give the model=... and the data set that it was made "
                "with, or another checkpoint."
            ) from None

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of a batch of inputs."""
        logits: Tensor = self.network(inputs)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy of the batch."""
        inputs, labels = batch
        loss = F.cross_entropy(self(inputs), labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Follow loss and accuracy."""
        inputs, labels = batch
        logits, suffix = self(inputs), self.suffixes[dataloader_idx]
        accuracy = cast(MulticlassAccuracy, self.val_acc[dataloader_idx])
        accuracy(logits, labels)
        self.log(f"val/loss{suffix}", F.cross_entropy(logits, labels), add_dataloader_idx=False)
        self.log(f"val/acc{suffix}", accuracy, prog_bar=True, add_dataloader_idx=False)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Accuracy of the finished network."""
        inputs, labels = batch
        logits, suffix = self(inputs), self.suffixes[dataloader_idx]
        for name, metrics in (("acc", self.test_acc), ("acc_top5", self.test_top5)):
            if len(metrics):
                accuracy = cast(MulticlassAccuracy, metrics[dataloader_idx])
                accuracy(logits, labels)
                self.log(f"test/{name}{suffix}", accuracy, add_dataloader_idx=False)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The logits of a batch's inputs."""
        logits: Tensor = self(batch[0])
        return logits

    def configure_optimizers(self) -> Any:
        """The optimiser, and the scheduler if there is one."""
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if self.interval == "step" and not math.isfinite(steps):
            raise ValueError("A schedule of steps needs a run of known length; set trainer.max_epochs or max_steps.")
        scheduler = self.make_scheduler(optimizer, **({"total_steps": int(steps)} if self.interval == "step" else {}))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}
