"""What a run's samples show, read again from the data set that the run's settings name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignprune_pl.cli.data_again import opened
from alignprune_pl.data.files import Inputs
from alignprune_pl.report import RunFiles


class Shown(Sequence[Any]):
    """The inputs of a run's samples, by their position in it, read when they are asked for."""

    def __init__(self, inputs: Inputs, train_index: Sequence[int]) -> None:
        self._inputs = inputs
        self._train_index = train_index

    def __len__(self) -> int:
        return len(self._train_index)

    def __getitem__(self, at: Any) -> Any:
        return self._inputs[self._train_index[at]].numpy()


def shown_by(run: RunFiles) -> Shown:
    """The inputs of a run of the training script; nothing is downloaded for them.

    Raises:
        ValueError: If the run's settings name no data set of ours, or it is no longer what the run trained on.
        OSError: If it is not there.
    """
    return Shown(opened(run).train.inputs, run.labels["train_index"].tolist())
