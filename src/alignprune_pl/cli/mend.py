"""What was decided in a review becomes labels to train on: ``alignprune-audit RUN --apply decisions.csv``."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import torch

from alignprune_pl.cli.data_again import kind_of, labels_before, opened, settings_of
from alignprune_pl.data import Benchmark, DataFileError
from alignprune_pl.data.mended import array, moves, table_of_images, table_of_places
from alignprune_pl.report import RunFiles
from alignprune_pl.report.decisions import Mended, keep_decisions, kept_files, mended, read_decisions
from alignprune_pl.report.run_files import CONFIG
from alignprune_pl.report.whole_file import replaced

# The data sets with a form of their own, by what makes them; of any other it is a table of places.
_ENDS = {"csv_files": ".csv", "arrays": ".npz", **dict.fromkeys(("image_folder", "imagenet", "tiny_imagenet"), ".json")}
# Settings that another training is not to be given.
_NOT_AGAIN = re.compile(r"[+~]*(labels|noise|ckpt_path|hydra)\b")


def apply(run: RunFiles, decisions: Path, output: Path | None) -> None:
    """Keep the decisions of a file in the run's folder, and write the labels by all that are there.

    Raises:
        ValueError: If the file, or ``output``, is none for this run, or its data set is no longer what it trained on.
        OSError: If a file cannot be read or written.
    """
    run.check_predictions()
    name = kind_of(run)
    end = _ENDS.get(name, ".csv")
    path = output or run.folder / f"mended{end}"
    if path.suffix.lower() != end:
        raise ValueError(f"--output {path} is given, but a file that ends in {end} is expected of this data set.")
    found, before = read_decisions(decisions, run), len(kept_files(run))
    benchmark = _benchmark(run) if name in _ENDS else None  # refused before anything is kept
    kept = keep_decisions(run, found)
    after = mended(run)
    content = _table(run, after) if benchmark is None else _own_form(run, name, benchmark, after)
    with replaced(path) as file:
        file.write(content)
    is_new = after.files > before
    are = "1 decision is" if len(found) == 1 else f"{len(found):,} decisions are"
    print(f"{are} {'kept' if is_new else 'there already'} as {os.path.relpath(kept)}.")
    files = "1 file" if after.files == 1 else f"{after.files} files"
    counts = f"{after.changed:,} are changed, {after.kept:,} kept and {int(after.is_left_out.sum()):,} left out"
    print(f"Of {len(after.labels):,} labels {counts}, by {files} of decisions.")
    print(os.path.relpath(path))
    print(_next(run, os.path.relpath(path)))


def _table(run: RunFiles, after: Mended) -> bytes:
    """Of the samples that the run trained on, and those of its reference with the labels that they had there."""
    stays = ~after.is_left_out
    index, labels = run.labels["train_index"][stays].tolist(), after.labels[stays].tolist()
    paths = [os.fsdecode(bytes(path)) for path in run.record["paths"][stays]] if "paths" in run.record else None
    if "reference_label" in run.labels:
        index += run.labels["reference_index"].tolist()
        labels += run.labels["reference_label"].tolist()
        paths = None if paths is None else paths + [""] * len(run.labels["reference_label"])
    return table_of_places(index, labels, run.classes, paths)


def _benchmark(run: RunFiles) -> Benchmark:
    try:
        return opened(run)
    except DataFileError as error:
        raise ValueError(f"{error} Relative paths start where the run was started.") from None
    except ValueError as error:
        raise ValueError(
            f"{run.folder} has labels that cannot be mended: {error}; restore the data set, or train and review again."
        ) from None


def _own_form(run: RunFiles, name: str, benchmark: Benchmark, after: Mended) -> bytes:
    labels = labels_before(run, benchmark)
    decided = torch.from_numpy(after.labels).masked_fill(torch.from_numpy(after.is_left_out), -1)
    labels[torch.from_numpy(run.labels["train_index"])] = decided
    if name == "csv_files":
        return table_of_images(Path(settings_of(run)["train"]), benchmark, labels)
    return array(labels) if name == "arrays" else moves(benchmark, labels)


def _next(run: RunFiles, path: str) -> str:
    """How to train on the labels."""
    if not settings_of(run):
        return "Train on its rows: index is a sample's place in your training data, and label its class's name."
    quoted = path if re.fullmatch("[A-Za-z0-9_./-]+", path) else "'" + path.replace("'", r"\'") + "'"
    if "given" not in run.summary:  # no command has trained it
        return f"Train on it with the settings of {run.folder / CONFIG} and {shlex.quote(f'labels={quoted}')}."
    again = [setting for setting in run.summary["given"] if not _NOT_AGAIN.match(setting)]
    return f"alignprune-train {shlex.join([*again, f'labels={quoted}'])}"
