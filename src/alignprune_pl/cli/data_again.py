"""The data set that a finished run's settings name, opened again."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor

from alignprune_pl import data
from alignprune_pl.data import Benchmark, ImageFiles, read_labels
from alignprune_pl.report import RunFiles


def settings_of(run: RunFiles) -> dict[str, Any]:
    """The settings of the run's data set; empty of a Trainer of one's own."""
    dataset = run.config.get("dataset")
    benchmark = dataset.get("benchmark") if isinstance(dataset, dict) else None
    return dict(benchmark) if isinstance(benchmark, dict) else {}


def kind_of(run: RunFiles) -> str:
    """What of :mod:`alignprune_pl.data` makes the run's data set, such as ``csv_files``; "" if it is none of ours."""
    settings = settings_of(run)
    name = re.fullmatch(r"alignprune_pl\.data\.(\w+)", str(settings.get("_target_")))
    # Settings come with a folder from anywhere, and what they name is run.
    is_ours = name is not None and name[1] in data.__all__ and "_target_" not in str([*settings.values()])
    return name[1] if is_ours and name else ""


def opened(run: RunFiles) -> Benchmark:
    """The data set as it is now; nothing is downloaded for it.

    Raises:
        ValueError: If the run's settings name no data set of ours, or it is damaged or no longer what the run trained on.
        OSError: If it is not there.
    """
    if not kind_of(run):
        raise ValueError("the run's settings name no data set of this package")
    settings = settings_of(run)
    if "download" in settings:
        settings["download"] = False
    try:
        benchmark: Benchmark = instantiate(settings)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | OSError):  # the sentence of our own check
            raise error.__cause__ from None
        raise ValueError(str(error).splitlines()[0]) from error
    other = _other(run, benchmark)
    if other:
        raise ValueError(f"{benchmark.name} is no longer what the run trained on ({other})")
    return benchmark


def labels_before(run: RunFiles, benchmark: Benchmark) -> Tensor:
    """The labels before noise that the run was given, int64[N]; -1 of samples that it was to leave out."""
    file = run.config.get("labels")
    return benchmark.train.labels.clone() if file is None else read_labels(benchmark, Path(str(file)))


def _other(run: RunFiles, benchmark: Benchmark) -> str:
    """In what a data set differs from what a run trained on; nothing if it is the same as far as is known."""
    index, inputs = run.labels["train_index"], benchmark.train.inputs
    if list(benchmark.classes) != run.classes:
        return f"it has {len(benchmark.classes)} classes, the run {len(run.classes)}, or other names"
    known = max(
        int(run.labels[name].max(initial=-1)) + 1 for name in ("train_index", "reference_index") if name in run.labels
    )
    if known > len(inputs):
        return f"it has {len(inputs):,} samples, the run had {known:,} at least"
    pairs: dict[str, tuple[list[Any], list[Any]]] = {}
    if "paths" in run.record:
        own = inputs.paths() if isinstance(inputs, ImageFiles) else [""] * len(inputs)
        pairs["path"] = [own[at] for at in index], [os.fsdecode(bytes(path)) for path in run.record["paths"]]
    if run.summary["noise"] == "Given()":
        pairs["label"] = labels_before(run, benchmark)[index].tolist(), run.labels["label"].tolist()
    if benchmark.clean_labels is not None and "clean_label" in run.labels:
        pairs["true label"] = benchmark.clean_labels[index].tolist(), run.labels["clean_label"].tolist()
    for what, (now, then) in pairs.items():
        differs = next((at for at, (a, b) in enumerate(zip(now, then, strict=True)) if a != b), None)
        if differs is not None:
            return f"the {what} of sample {int(index[differs])} was {then[differs]} and is {now[differs]}"
    return ""
