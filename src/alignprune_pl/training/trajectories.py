"""The trajectories of the same few samples over a whole run, for its report."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.streams import stream
from alignprune_pl.core.trajectory import TrajectoryStore


class Trajectories:
    """Keeps, over all epochs, what was observed of some samples; the store remembers its last epochs only.

    Args:
        most: How many samples are drawn at most.
        seed: By which they are drawn.

    Attributes:
        shown: int64[k], the samples, in ascending order; empty before the first epoch.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most = most
        self.seed = seed
        self.shown = torch.empty(0, dtype=torch.int64)
        self._epochs: list[Tensor] = []
        self._reference: list[float] = []

    def catch_up(self, store: TrajectoryStore) -> None:
        """Take over the epochs that the store has closed since: the newest, and what it remembers of those before it."""
        if len(self._epochs) >= store.epochs:
            return
        if len(self.shown) == 0:
            order = torch.randperm(store.num_samples, generator=stream(self.seed, "shown"))
            self.shown = order[: self.most].sort().values
        missed = store.epochs - 1 - len(self._epochs)
        known = min(missed, store.window - 1)
        for _ in range(missed - known):
            self._epochs.append(torch.full((len(self.shown),), math.nan))
            self._reference.append(math.nan)
        columns = store.losses(known + 1)[:, :-1].cpu()[self.shown]
        self._epochs += list(columns.T.contiguous())
        self._reference += store.reference(known + 1)[:-1].tolist()
        newest = store.newest()
        self._epochs.append(newest[self.shown.to(newest.device)].cpu())
        self._reference.append(float(store.newest_reference.value.double().nanmean()))  # NaN of an empty one

    def tensors(self) -> dict[str, Tensor]:
        """What there is.

        Returns:
            ``shown`` int64[k], ``trajectories`` float32[k, epochs], NaN where a sample was not observed, and
            ``reference_trajectory`` float32[epochs], NaN where there is none.
        """
        return {
            "shown": self.shown,
            "trajectories": torch.stack(self._epochs, dim=1) if self._epochs else torch.empty(0, 0),
            "reference_trajectory": torch.tensor(self._reference, dtype=torch.float32),
        }

    def state_dict(self) -> dict[str, Any]:
        """The trajectories so far."""
        return {"shown": self.shown, "epochs": list(self._epochs), "reference": list(self._reference)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epochs of an interrupted run."""
        self.shown = state["shown"]
        self._epochs, self._reference = list(state["epochs"]), list(state["reference"])
