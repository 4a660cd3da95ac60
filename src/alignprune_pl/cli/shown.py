"""What a run's samples show, read again from the data set that the run's settings name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from alignprune_pl import data
from alignprune_pl.data import Benchmark, ImageFiles
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
    dataset = run.config.get("dataset")
    settings = dict((dataset.get("benchmark") if isinstance(dataset, dict) else None) or {})
    # Settings come with a folder from anywhere, and what they name is run.
    name = re.fullmatch(r"alignprune_pl\.data\.(\w+)", str(settings.get("_target_")))
    if name is None or name[1] not in data.__all__ or "_target_" in str([*settings.values()]):
        raise ValueError("the run's settings name no data set of this package")
    if "download" in settings:
        settings["download"] = False
    try:
        benchmark = instantiate(settings)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | OSError):  # the sentence of our own check
            raise error.__cause__ from None
        raise ValueError(str(error).splitlines()[0]) from error
    other = _other(run, benchmark)
    if other:
        raise ValueError(f"{benchmark.name} is no longer what the run trained on ({other})")
    return Shown(benchmark.train.inputs, run.labels["train_index"].tolist())


def _other(run: RunFiles, benchmark: Benchmark) -> str:
    """In what a data set differs from what a run trained on; nothing if it is the same as far as is known."""
    index, inputs = run.labels["train_index"], benchmark.train.inputs
    reference = run.labels.get("reference_index", np.empty(0))
    if list(benchmark.classes) != run.classes:
        return f"it has {len(benchmark.classes)} classes, the run {len(run.classes)}, or other names"
    if len(index) + len(reference) > len(inputs) or index.max(initial=0) >= len(inputs):
        return f"it has {len(inputs):,} samples, the run {len(index) + len(reference):,} and number {index.max():,}"
    if "paths" in run.record:
        paths = np.array(inputs.paths())[index].tolist() if isinstance(inputs, ImageFiles) else []
        if [os.fsencode(path) for path in paths] != run.record["paths"].tolist():
            return "its images have other paths"
    if "clean_label" in run.labels and benchmark.clean_labels is not None:
        known, kept = benchmark.clean_labels, run.labels["clean_label"]
    elif run.summary["noise"] == "Given()" and not run.config.get("labels"):
        known, kept = benchmark.train.labels, run.labels["label"]
    else:
        return ""
    return "its labels are others" if (known.numpy()[index] != kept).any() else ""
