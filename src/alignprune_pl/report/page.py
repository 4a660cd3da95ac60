"""A run's report: one page that needs no other file, and its plots as pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
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
    faint_lines,
    groups,
    most_suspect_shown,
)
from alignprune_pl.report.run_files import RunFiles, read_run, readable
from alignprune_pl.report.theme import DARK, LIGHT, Drawing, drawn
from alignprune_pl.report.whole_file import replaced
from alignprune_pl.report.worth import full_training, worth


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


def write_report(folder: Path, full: Path | None = None) -> list[Path]:
    """Write ``report.html`` into a run's folder, and its plots as PNG files into ``report``.

    Args:
        folder: The run's.
        full: That of a run on the same data that pruned nothing, to which the page compares this one.

    Returns:
        What was written, the page first.

    Raises:
        ValueError: If a folder is not that of a finished run, or the second one is no full training on the same data.
    """
    run = read_run(folder)
    panel = worth(run, None if full is None else full_training(full, run))
    plots, pictures = draw_all(plots_of(run), folder / "report")
    content = {
        "title": run.title,
        "subtitle": subtitle_of(run),
        "details": [
            f"policy: {run.summary['policy']}",
            f"score: {run.summary['score']}",
            f"reference: {run.summary['reference_from']}",
        ],
        "worth": {**panel, "conclusion": run.summary.get("conclusion", "")},
        "plots": plots,
        "suspects": _suspects(run),
        "caution": run.caution,
        "footer": footer_of([run]),
    }
    page = folder / "report.html"
    with replaced(page) as file:
        file.write(rendered(content).encode())
    return [page, *pictures]


def plots_of(run: RunFiles) -> list[Plot]:
    """The plots that there are data for."""
    kinds = " and ".join(name for name, _ in groups(run))
    before = run.summary.get("trained_before", 0)
    earlier = f" The {before:,} samples trained before the run are counted at the end only." if before else ""
    apart = f" The further apart the two, the better {run.wrong_labels} are found." if run.mask is not None else ""
    shown = [
        Plot(
            "trajectories",
            "Trajectories",
            f"What each sample shows epoch by epoch, of {len(run.record['shown']):,} drawn at random: {kinds}. "
            f"Bands hold the middle half. Up to {faint_lines(run)} samples of each kind are faint lines.",
            partial(draw_trajectories, run),
        ),
        Plot(
            "scores",
            "Scores",
            f"The last score of each sample: {kinds}.{apart}",
            partial(draw_scores, run),
        ),
        Plot(
            "accuracy",
            "Accuracy and cost",
            f"Epoch by epoch. A sample that is only probed counts as a third of one trained on.{earlier}",
            partial(draw_accuracy, run),
        ),
    ]
    if run.mask is not None or run.noise_rate is not None:
        parts = ["their share of the samples trained on"] if "pruning/noise_kept" in run.epochs else []
        parts += ["their share of the data as the run estimates it"] if run.noise_rate is not None else []
        words = f"Epoch by epoch: {', and '.join(parts)}." if parts else "Their share of the data."
        shown.append(Plot("noise", run.wrong_labels.capitalize(), words, partial(draw_noise, run)))
    if run.ranked is not None:
        shown += detection_of({"": run})
    if not run.has_predictions:
        return shown
    if "clean_label" in run.labels:
        words = "Each row is a true class. It shows how often samples of that class bear each label."
        shown.append(Plot("noise-matrix", "Label noise", words, partial(draw_matrix, run, True)))
    words = "The same as the run sees it. A suspected sample counts as the class that the network predicts."
    if "clean_label" not in run.labels:
        words = (
            "How often samples of each class (row) bear each label. A suspected sample counts as the class that the "
            "network predicts."
        )
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
    roc = "How many wrong labels the last score finds, against how many right ones it suspects."
    precision = "How many of the suspected labels are wrong, against how many of the wrong ones are found."
    roc, precision = (
        " ".join(filter(None, (words, "The dotted line is chance.", left_out, which))) for words in (roc, precision)
    )
    return [
        Plot("roc", "Finding wrong labels: ROC curve", roc, partial(draw_roc, runs)),
        Plot("precision", "Finding wrong labels: precision", precision, partial(draw_precision, runs)),
    ]


def draw_all(shown: Iterable[Plot], folder: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """Draw each plot once: what the page has of it, and the PNG files; the page has the suspects as a part of its own."""
    parts: list[dict[str, Any]] = []
    written = []
    for plot in shown:
        picture = drawn(plot.draw, plot.name, f"{plot.title}. {plot.words}")
        written.append(folder / f"{plot.name}.png")
        with replaced(written[-1]) as file:
            file.write(picture.png)
        if plot.name != "suspects":
            words = {"name": plot.name, "title": plot.title, "words": plot.words}
            parts.append({**words, "svg": Markup(picture.svg), "legend": picture.legend})
    return parts, written


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
                "image": "" if image is None else _pixels(image),
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


def _pixels(image: Any) -> str:
    """A picture within the page itself."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def subtitle_of(run: RunFiles) -> str:
    """By which method, on how much."""
    summary = run.summary
    options = "".join(f"{group} {summary['options'][group]}, " for group in _METHOD if summary["options"].get(group))
    held_out = f"{summary['reference_samples']:,} reference samples" if summary["reference_samples"] else "no reference"
    return f"{options}{summary['train_samples']:,} training samples, {held_out}, seed {summary['seed']}"


_METHOD = ("pruning", "score", "model", "experiment")


def footer_of(runs: list[RunFiles]) -> str:
    """The versions behind the figures."""
    versions = {
        f"alignprune-pl {run.summary['alignprune_pl']}, torch {run.summary['torch']}, Lightning {run.summary['lightning']}"
        for run in runs
    }
    return "; ".join(sorted(versions))


_EMPTY = {
    "light": LIGHT.variables,
    "dark": DARK.variables,
    **{"details": (), "worth": None, "comparison": None, "suspects": (), "caution": ""},
}


def rendered(content: dict[str, Any]) -> str:
    """The page with this content; everything in it is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("alignprune_pl.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render({**_EMPTY, **content})
