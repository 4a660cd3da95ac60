"""Several runs side by side: a table, and their figures over the epochs as plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignprune_pl.report.detection import Array
from alignprune_pl.report.page import Plot, detection_of, draw_all, footer_of, rendered
from alignprune_pl.report.plots import by_epoch, line_of, new_figure, percent
from alignprune_pl.report.run_files import RunFiles, accuracy_among, read_run
from alignprune_pl.report.same_data import other_data
from alignprune_pl.report.settings import settings_of
from alignprune_pl.report.whole_file import replaced

Groups = dict[str, list[RunFiles]]


@dataclass(frozen=True)
class _Figure:
    """A figure at a run's end: its name, of what it is, and which is best, with what the runs that have it did."""

    name: str
    words: str
    best: Literal["high", "low", ""] = ""
    done: str = ""


_FIGURES = {
    "test_acc": _Figure("test accuracy", "after the last epoch", "high", "reached the best test accuracy"),
    "saved": _Figure("samples saved", "a probe counts as a third", "high", "saved the most samples"),
    "noise_kept": _Figure("wrong labels kept", "of the samples trained on", "low", "kept the fewest wrong labels"),
    "noise_rate": _Figure("wrong labels", "in the data"),
    "estimated_noise_rate": _Figure("wrong labels", "in the data, estimated"),
    "pruning_time": _Figure("time for pruning", "of the run's time", "low"),
}
_BY_EPOCH = {
    "accuracy": ("accuracy", "Accuracy"),
    "pruning/saved": ("saved", "Samples saved so far"),
    "pruning/noise_kept": ("noise-kept", "Wrong labels among the kept"),
    "pruning/estimated_noise_rate": ("estimated-noise-rate", "Wrong labels as estimated"),
}


def write_comparison(folders: Iterable[Path], page: Path) -> list[Path]:
    """Write a page that compares runs, and its plots as PNG files into the folder of its name.

    Runs that differ in their seed alone are one: their mean and standard deviation are shown.

    Args:
        folders: The runs', at least two.
        page: The file, such as ``comparison.html``.

    Returns:
        What was written, the page first.

    Raises:
        ValueError: If there are fewer than two runs, or a folder is not that of a finished one.
    """
    if page.suffix != ".html":
        raise ValueError(f"{page} is given, but a page that ends in .html is expected.")
    runs = [read_run(folder) for folder in dict.fromkeys(Path(folder) for folder in folders)]
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run is given, but a comparison is of two or more; give more folders.")
    groups = grouped(runs)
    words = "Epoch by epoch."
    if len(groups) < len(runs):
        words = f"{words} The mean of runs that differ in their seed alone, and a standard deviation around it."
    shown = [
        Plot(name, title, words, partial(draw_by_epoch, groups, column))
        for column, (name, title) in _BY_EPOCH.items()
        if any(_column(run, column) is not None for run in runs)
    ]
    with_mask = {name: members[0] for name, members in groups.items() if members[0].ranked is not None}
    which = "Of runs that differ in their seed alone, the first." if len(groups) < len(runs) else ""
    shown += detection_of(with_mask, which) if with_mask else []
    plots, pictures = draw_all(shown, page.with_suffix(""))
    content = {
        "title": f"Comparison of {len(runs)} runs",
        "subtitle": "; ".join(dict.fromkeys(run.title for run in runs)),
        "comparison": {**table_of(groups), "verdict": verdict_of(groups), "notes": notes_of(groups)},
        "plots": plots,
        "footer": footer_of(runs),
    }
    with replaced(page) as file:
        file.write(rendered(content).encode())
    return [page, *pictures]


def _column(run: RunFiles, name: str) -> Array | None:
    """A figure by epoch, float64[epochs], the accuracy under whatever name it was logged; None if there is none."""
    return run.epochs.get(accuracy_among(list(run.epochs)) or "" if name == "accuracy" else name)


def grouped(runs: list[RunFiles]) -> Groups:
    """The runs that differ in their seed alone, by what tells them apart from the others."""
    same: dict[tuple[tuple[str, str], ...], list[RunFiles]] = {}
    for run in runs:
        same.setdefault(tuple(sorted({**settings_of(run.config), **_parts(run)}.items())), []).append(run)
    members = list(same.values())
    names = _told_apart([_options(each[0]) for each in members])
    # Where the options do not tell, single settings do, or what the runs say of themselves.
    for described in (lambda run: settings_of(run.config), _parts):
        for name in {name for name in names if names.count(name) > 1}:
            alike = [place for place, other in enumerate(names) if other == name]
            words = _told_apart([described(members[place][0]) for place in alike])
            for place, more in zip(alike, words, strict=True):
                names[place] = f"{name} {more}".strip()
    return {name or "all runs": each for name, each in zip(names, members, strict=True)}


def _told_apart(described: list[dict[str, str]]) -> list[str]:
    """Of each description what is not the same in all."""
    keys = dict.fromkeys(key for each in described for key in each)
    differing = [key for key in keys if len({each.get(key) for each in described}) > 1]
    return [" ".join(f"{key}={each[key]}" for key in differing if key in each) for each in described]


def _options(run: RunFiles) -> dict[str, str]:
    return {group: str(option) for group, option in run.summary["options"].items() if "@" not in group}


def _parts(run: RunFiles) -> dict[str, str]:
    return {name: str(run.summary[name]) for name in ("dataset", "noise", "policy", "score")}


def table_of(groups: Groups) -> dict[str, Any]:
    """The figures at the end: ``head``, and in ``body`` a line for each group of runs, of which cells may be the best."""
    keys = [key for key in _FIGURES if any(key in run.summary for members in groups.values() for run in members)]
    best = {key: best_of(groups, key) for key in keys}
    body = [
        {
            "name": f"{name} ({len(members)} seeds)" if len(members) > 1 else name,
            "cells": [{"text": _spread(members, key), "is_best": name in best[key]} for key in keys],
        }
        for name, members in groups.items()
    ]
    return {"head": [{"name": _FIGURES[key].name, "words": _FIGURES[key].words} for key in keys], "body": body}


def _values(runs: list[RunFiles], key: str) -> list[float]:
    return [100 * run.summary[key] for run in runs if key in run.summary]


def _spread(runs: list[RunFiles], key: str) -> str:
    values = _values(runs, key)
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{deviation} %"


def best_of(groups: Groups, key: str) -> list[str]:
    """The groups with the best figure as it is shown; none where no figure is best, or where all have the same."""
    figure = _FIGURES[key]
    means = {name: round(float(np.mean(values)), 1) for name, runs in groups.items() if (values := _values(runs, key))}
    if not figure.best or len(set(means.values())) < 2 or not _are_alike(groups):
        return []
    best = max(means.values()) if figure.best == "high" else min(means.values())
    return [name for name, mean in means.items() if mean == best]


def _are_alike(groups: Groups) -> bool:
    """Whether all runs are of one data set with one noise, so that one can be better than another."""
    first, *others = (run for members in groups.values() for run in members)
    return not any(other_data(first, other) for other in others)


def verdict_of(groups: Groups) -> str:
    """Which runs were the best at what, in words."""
    if not _are_alike(groups):
        return "The runs are of different data sets or noise, so that none of them is the best."
    if len(groups) == 1:
        return "The runs differ in their seed alone, so that none of them is the best."
    done: dict[tuple[str, ...], list[str]] = {}
    for key, figure in _FIGURES.items():
        best = best_of(groups, key)
        if best and figure.done:
            done.setdefault(tuple(best), []).append(f"{figure.done} ({_spread(groups[best[0]], key)})")
    said = [f"{_listed(names)} {_listed(words)}." for names, words in done.items()]
    return " ".join(said) or "The runs end with the same figures."


def _near_the_best(groups: Groups, key: str) -> list[str]:
    """The other groups whose mean is within a standard deviation of the best one, so that chance may have ranked them."""
    best, found = (
        best_of(groups, key),
        {name: values for name, runs in groups.items() if (values := _values(runs, key))},
    )
    spread = max((float(np.std(found[name], ddof=1)) for name in best if len(found[name]) > 1), default=0.0)
    others = [name for name in found if best and name not in best]
    return [name for name in others if abs(np.mean(found[name]) - np.mean(found[best[0]])) <= spread]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def notes_of(groups: Groups) -> list[str]:
    """What to bear in mind of the table."""
    notes = ["Bold is the best of its column."] if any(best_of(groups, key) for key in _FIGURES) else []
    for key, figure in _FIGURES.items():
        near = _near_the_best(groups, key) if figure.done else []
        if near:
            verb = "is" if len(near) == 1 else "are"
            notes.append(f"In {figure.name}, {_listed(near)} {verb} within a standard deviation of the best.")
    if any(len(members) > 1 for members in groups.values()):
        notes.append("Runs that differ in their seed alone are one line: mean ± standard deviation.")
    if any(len(members) == 1 for members in groups.values()):
        notes.append("Of a single run, another seed would give other figures.")
    return notes


def draw_by_epoch(groups: Groups, column: str) -> Figure:
    """A figure by epoch, a line for each group of runs that has it."""
    figure, axes = new_figure()
    for number, (name, members) in enumerate(groups.items()):
        columns = [(run.epochs["epoch"], _column(run, column)) for run in members]
        _draw_line(axes, [(at, values) for at, values in columns if values is not None], name, number)
    axes.set(xlabel="epoch")
    percent(axes.yaxis)
    by_epoch(axes)
    return figure


def _draw_line(axes: Axes, curves: list[tuple[Array, Array]], name: str, number: int) -> None:
    if not curves:
        return
    length = min(len(values) for _, values in curves)
    values = np.stack([values[:length] for _, values in curves])
    known = np.isfinite(values).all(axis=0)  # runs need not have been validated in each epoch
    values = values[:, known]
    at, look = curves[0][0][:length][known], line_of(number)
    axes.plot(at, values.mean(axis=0), label=name, **look)
    if len(values) > 1:
        middle, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
        axes.fill_between(at, middle - deviation, middle + deviation, color=look["color"], alpha=0.2, linewidth=0)
