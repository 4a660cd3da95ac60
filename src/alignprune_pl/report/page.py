"""A run's report: one page that needs no other file, and its plots as pictures."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from alignprune_pl.report.plots import (
    draw_accuracy,
    draw_matrix,
    draw_noise,
    draw_precision,
    draw_roc,
    draw_scores,
    draw_suspects,
    draw_trajectories,
    groups,
    most_suspect_shown,
)
from alignprune_pl.report.run_files import RunFiles, read_run, readable
from alignprune_pl.report.theme import DARK, LIGHT, Drawing, data_uri, png
from alignprune_pl.report.whole_file import replaced


@dataclass(frozen=True)
class Plot:
    """A plot of a page.

    Attributes:
        name: Of its file.
        title: Its heading.
        words: What it shows, which also stands for it where pictures are not seen.
        draw: Draws it.
    """

    name: str
    title: str
    words: str
    draw: Drawing


def write_report(folder: Path) -> list[Path]:
    """Write ``report.html`` into a run's folder, and its plots as PNG files into ``report``.

    Returns:
        What was written, the page first.

    Raises:
        ValueError: If the folder is not that of a finished run.
    """
    run = read_run(folder)
    shown = plots_of(run)
    pictures = write_pictures(shown, folder / "report")
    content = {
        "title": title_of(run),
        "subtitle": subtitle_of(run),
        "details": [
            f"policy: {run.summary['policy']}",
            f"score: {run.summary['score']}",
            f"reference: {run.summary['reference_from']}",
        ],
        "cards": cards_of(run),
        "table": None,
        "plots": embedded(shown, pictures),
        "suspects": _suspects(run),
        "caution": run.caution,
        "conclusion": run.summary.get("conclusion", ""),
        "footer": footer_of([run]),
    }
    page = folder / "report.html"
    with replaced(page) as file:
        file.write(rendered(content).encode())
    return [page, *(path for paths in pictures.values() for path in paths)]


def plots_of(run: RunFiles) -> list[Plot]:
    """The plots that there are data for."""
    what = " and of ".join(name for name, _ in groups(run))
    before = run.summary.get("trained_before", 0)
    earlier = f"; the {before:,} samples trained before the run are counted at the end only" if before else ""
    of_each = f"{len(run.record['shown']):,} samples drawn at random"
    shown = [
        Plot(
            "trajectories",
            "Trajectories",
            f"What was observed over the epochs of samples that are {what}, of {of_each}; forty of each as faint lines.",
            partial(draw_trajectories, run),
        ),
        Plot(
            "scores",
            "Score",
            f"The last scores of samples that are {what}.",
            partial(draw_scores, run),
        ),
        Plot(
            "accuracy",
            "Accuracy and cost",
            f"By epoch; a probe counts as a third{earlier}.",
            partial(draw_accuracy, run),
        ),
    ]
    if run.mask is not None or run.noise_rate is not None:
        estimated = "" if run.noise_rate is None else ", and how many there are estimated to be"
        words = f"By epoch: how many of those trained on{estimated}."
        shown.append(Plot("noise", run.wrong_labels.capitalize(), words, partial(draw_noise, run)))
    if run.ranked is not None:
        shown += detection_of({"": run})
    if not run.has_predictions:
        return shown
    words = "How often a sample of each class (row) bears each label (column)"
    if "clean_label" in run.labels:
        shown.append(Plot("noise-matrix", "Label noise", f"{words}.", partial(draw_matrix, run, True)))
    words = f"{words}, if the suspected ones are what the network predicts and the others what they are labelled."
    words = f"{words} {run.caution}".rstrip()
    shown.append(Plot("noise-matrix-estimated", "Label noise as estimated", words, partial(draw_matrix, run, False)))
    if "thumbnails" in run.record:
        words = "The images with the most suspect labels: the given label, the predicted one, and the score."
        shown.append(Plot("suspects", "Most suspect images", words, partial(draw_suspects, run)))
    return shown


def detection_of(runs: dict[str, RunFiles], which: str = "") -> list[Plot]:
    """How well the scores of runs find wrong labels; ``which`` of several they are, as a sentence."""
    unscored = sum(run.unscored for run in runs.values())
    left_out = f"Samples without a score are left out, {unscored:,} of them." if unscored else ""
    roc = "The last score as a detector, over all thresholds; the dotted line is chance."
    precision = "How many of those that the score suspects are wrong, against how many of the wrong ones it suspects."
    roc, precision = (" ".join(filter(None, (words, left_out, which))) for words in (roc, precision))
    return [
        Plot("roc", "Finding wrong labels: ROC", roc, partial(draw_roc, runs)),
        Plot("precision", "Finding wrong labels: precision and recall", precision, partial(draw_precision, runs)),
    ]


def write_pictures(shown: Iterable[Plot], folder: Path) -> dict[str, tuple[Path, Path]]:
    """Draw each plot for light and dark pages: the two files by its name."""
    written = {}
    for plot in shown:
        paths = folder / f"{plot.name}.png", folder / f"{plot.name}-dark.png"
        for path, theme in zip(paths, (LIGHT, DARK), strict=True):
            with replaced(path) as file:
                file.write(png(plot.draw, theme))
        written[plot.name] = paths
    return written


def embedded(shown: Iterable[Plot], pictures: dict[str, tuple[Path, Path]]) -> list[dict[str, str]]:
    """What the page has of each plot; the suspects are a part of the page itself."""
    return [
        {
            "name": plot.name,
            "title": plot.title,
            "words": plot.words,
            "light": data_uri(pictures[plot.name][0].read_bytes()),
            "dark": data_uri(pictures[plot.name][1].read_bytes()),
        }
        for plot in shown
        if plot.name != "suspects"
    ]


def _suspects(run: RunFiles) -> list[dict[str, str]]:
    """Cards of the most suspect samples, with pictures where there are any."""
    if not run.has_predictions:
        return []
    labels, predicted, classes = run.labels["label"], run.record["predicted"], run.classes
    cards = []
    images = run.record.get("thumbnails")
    for place, at in enumerate(most_suspect_shown(run)):
        image = None if images is None else images[place]
        truth = _truth(run, at)
        cards.append(
            {
                "image": "" if image is None else data_uri(_pixels(image)),
                "size": "small" if image is not None and image.shape[0] < 64 else "large",
                "given": readable(classes[labels[at]]),
                "predicted": readable(classes[predicted[at]]),
                "score": f"{run.suspicion[at]:.3g}",
                # Without an estimate of how many are wrong it would say more than is known.
                "probability": "" if run.noise_rate is None else f"{run.wrong_probability[at]:.0%}",
                "place": f"{run.labels['train_index'][at]}",
                "truth": truth,
            }
        )
    return cards


def _truth(run: RunFiles, at: int) -> str:
    """What is known of a label."""
    if run.mask is not None and run.mask[at]:
        return "wrong"
    return "correct" if run.is_truth_known else ""


def _pixels(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def title_of(run: RunFiles) -> str:
    """What was trained on."""
    return ", ".join(filter(None, (run.summary["dataset"], run.summary["noise"])))


def subtitle_of(run: RunFiles) -> str:
    """By which method, on how much."""
    summary = run.summary
    options = "".join(f"{group} {summary['options'][group]}, " for group in _METHOD if summary["options"].get(group))
    held_out = f"{summary['reference_samples']:,} reference samples" if summary["reference_samples"] else "no reference"
    return f"{options}{summary['train_samples']:,} training samples, {held_out}, seed {summary['seed']}"


_METHOD = ("pruning", "score", "model", "experiment")

FIGURES = {
    "test_acc": ("test accuracy", "after the last epoch"),
    "saved": ("samples saved", "not trained on; a probe counts as a third"),
    "pruning_time": ("time for pruning", "of the training"),
    "noise_kept": ("wrong labels kept", "of all samples trained on"),
    "noise_rate": ("wrong labels", "in the training data"),
    "estimated_noise_rate": ("estimated wrong labels", "in the training data"),
}


def cards_of(run: RunFiles) -> list[dict[str, str]]:
    """The figures at the end that there are."""

    def named(name: str) -> str:
        return name.replace("wrong labels", run.wrong_labels) if not name.startswith("estimated") else name

    return [
        {"name": named(name), "value": f"{100 * run.summary[key]:.1f} %", "words": words}
        for key, (name, words) in FIGURES.items()
        if key in run.summary
    ]


def footer_of(runs: list[RunFiles]) -> str:
    """The versions behind the figures."""
    versions = {
        f"alignprune-pl {run.summary['alignprune_pl']}, torch {run.summary['torch']}, Lightning {run.summary['lightning']}"
        for run in runs
    }
    return "; ".join(sorted(versions))


def rendered(content: dict[str, Any]) -> str:
    """The page with this content; everything in it is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("alignprune_pl.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(content)
