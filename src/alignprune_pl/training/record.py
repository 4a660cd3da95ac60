"""What a report is drawn from: some samples' trajectories, and in the end every sample's score and prediction."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from alignprune_pl.callback import AlignPrune
from alignprune_pl.core.distributed import all_reduce_sum
from alignprune_pl.core.streams import stream

_MOST_PROBABILITIES = 20_000_000  # 40 MB; those of more samples and classes are not kept


class RunRecord(pl.Callback):
    """Follows a run for its report. Stands after :class:`~alignprune_pl.AlignPrune`.

    In training it keeps the trajectories of the same few samples over all epochs, of which the store remembers the last
    ones only. In ``trainer.predict`` over the training samples, with a ``predict_step`` that gives logits, it keeps what
    the network says of each.

    Args:
        prune: The callback that it follows.
        samples: How many trajectories are kept at most.
        seed: By which these samples are drawn.

    Attributes:
        shown: int64[k], the samples whose trajectories are kept, in ascending order; empty before the first epoch.

    Raises:
        ValueError: If ``samples`` < 1.
    """

    def __init__(self, prune: AlignPrune, samples: int = 5000, seed: int = 0) -> None:
        if samples < 1:
            raise ValueError(f"samples={samples} is given, but at least 1 trajectory is expected.")
        self.prune = prune
        self.samples = samples
        self.seed = seed
        self.shown = torch.empty(0, dtype=torch.int64)
        self._epochs: list[Tensor] = []
        self._reference: list[float] = []
        self._said: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget another run."""
        if stage == "fit" and trainer.current_epoch == 0:
            self.shown, self._epochs, self._reference, self._said = torch.empty(0, dtype=torch.int64), [], [], {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the epoch has shown of the samples and of the reference."""
        store = self.prune.store
        if len(self.shown) == 0:
            order = torch.randperm(store.num_samples, generator=stream(self.seed, "shown"))
            self.shown = order[: self.samples].sort().values
        self._catch_up(store.epochs - 1)
        self._epochs.append(store.newest()[self.shown.to(store.newest().device)].cpu())
        self._reference.append(float(store.newest_reference.value.double().nanmean()))  # NaN of an empty one

    def _catch_up(self, epochs: int) -> None:
        """Add epochs that ended without us, as one does whose last batch a run resumes from: what is remembered of them."""
        store, missed = self.prune.store, epochs - len(self._epochs)
        if missed <= 0:
            return
        known = min(missed, store.window - 1)
        for _ in range(missed - known):
            self._epochs.append(torch.full((len(self.shown),), math.nan))
            self._reference.append(math.nan)
        columns = store.losses(known + 1)[:, :-1].cpu()[self.shown]
        self._epochs += list(columns.T.contiguous())
        self._reference += store.reference(known + 1)[:-1].tolist()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make room for what the network says."""
        self._said = {}
        self._at = trainer.global_rank

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the class that each sample is taken for, and the probabilities of that and of its label."""
        probabilities, labels = outputs.float().softmax(dim=1).cpu(), batch[1].cpu()
        n, classes = self.prune.store.num_samples, probabilities.shape[1]
        if not self._said:
            self._said = {name: torch.zeros(n) for name in ("seen", "predicted", "p_predicted", "p_label")}
            if n * classes <= _MOST_PROBABILITIES:
                self._said["probabilities"] = torch.zeros(n, classes)
        # Ranks take turns over the samples, as Lightning's sampler for predictions deals them.
        at = self._at + trainer.world_size * torch.arange(len(labels))
        self._at += trainer.world_size * len(labels)
        largest, predicted = probabilities.max(dim=1)
        self._said["seen"][at] = 1
        self._said["predicted"][at] = predicted.float()
        self._said["p_predicted"][at] = largest
        self._said["p_label"][at] = probabilities.gather(1, labels[:, None]).squeeze(1)
        if "probabilities" in self._said:
            self._said["probabilities"][at] = probabilities

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put together what the ranks have kept; nothing stays of predictions for a part of the samples."""
        for name, kept in self._said.items():
            self._said[name] = all_reduce_sum(kept.to(pl_module.device)).cpu()
        if self._said and not bool(self._said.pop("seen").all()):
            self._said = {}

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """What there is, by name.

        Returns:
            ``shown`` int64[k], ``trajectories`` float32[k, epochs], NaN where a sample was not observed, and
            ``reference_trajectory`` float32[epochs], NaN where there is none; ``suspicion`` float32[n], the score turned so
            that high is suspect. After predictions ``predicted`` int64[n], ``p_predicted`` and ``p_label`` float32[n], and
            ``probabilities`` float16[n, C] where they are not too many.
        """
        kept: dict[str, Tensor] = {
            "shown": self.shown,
            "trajectories": torch.stack(self._epochs, dim=1) if self._epochs else torch.empty(0, 0),
            "reference_trajectory": torch.tensor(self._reference, dtype=torch.float32),
            "suspicion": self.prune.suspicion(),
            **self._said,
        }
        if self._said:
            kept["predicted"] = self._said["predicted"].long()
        if "probabilities" in kept:
            kept["probabilities"] = kept["probabilities"].half()
        return {name: array.numpy() for name, array in kept.items()}

    def state_dict(self) -> dict[str, Any]:
        """The trajectories so far."""
        return {"shown": self.shown, "epochs": list(self._epochs), "reference": list(self._reference)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the epochs of the interrupted run."""
        self.shown = state_dict["shown"]
        self._epochs, self._reference = list(state_dict["epochs"]), list(state_dict["reference"])
