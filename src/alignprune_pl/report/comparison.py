"""Several runs side by side: a table, and their figures over the epochs as plots."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignprune_pl.report.detection import Array
from alignprune_pl.report.page import (
    FIGURES,
    Plot,
    detection_of,
    embedded,
    footer_of,
    rendered,
    title_of,
    write_pictures,
)
from alignprune_pl.report.plots import PERCENT, by_epoch, legend_above, new_figure
from alignprune_pl.report.run_files import RunFiles, accuracy_among, read_run
from alignprune_pl.report.theme import Theme
from alignprune_pl.report.whole_file import replaced

Groups = dict[str, list[RunFiles]]

_NOT_DECIDING = ("seed", "ckpt_path", "logger", "report", "data_dir")

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
    words = "The mean of runs that differ in their seed alone, and a standard deviation around it."
    shown = [
        Plot(name, title, words, partial(draw_by_epoch, groups, column))
        for column, (name, title) in _BY_EPOCH.items()
        if any(_column(run, column) is not None for run in runs)
    ]
    with_mask = {name: members[0] for name, members in groups.items() if members[0].ranked is not None}
    which = "Of runs that differ in their seed alone, the first." if len(groups) < len(runs) else ""
    shown += detection_of(with_mask, which) if with_mask else []
    pictures = write_pictures(shown, page.with_suffix(""))
    content = {
        "title": f"{len(runs)} runs",
        "subtitle": "; ".join(dict.fromkeys(title_of(run) for run in runs)),
        "details": [],
        "cards": [],
        "conclusion": "",
        "table": table_of(groups),
        "plots": embedded(shown, pictures),
        "suspects": [],
        "footer": footer_of(runs),
    }
    with replaced(page) as file:
        file.write(rendered(content).encode())
    return [page, *(path for paths in pictures.values() for path in paths)]


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


def settings_of(config: dict[str, Any]) -> dict[str, str]:
    """All settings by their names, but the seeds, where a run resumed, and what decides nothing of how it ends."""
    every = leaves({key: value for key, value in config.items() if key not in _NOT_DECIDING})
    return {name: value for name, value in every.items() if name.rpartition(".")[2] != "seed"}


def leaves(node: object, path: str = "") -> dict[str, str]:
    """All settings of a mapping of mappings by their names, such as ``data.batch_size``."""
    if not isinstance(node, dict):
        return {path: str(node)}
    found: dict[str, str] = {}
    for key, value in node.items():
        found.update(leaves(value, f"{path}.{key}" if path else str(key)))
    return found


def table_of(groups: Groups) -> dict[str, list[object]]:
    """The figures at the end, a line for each group of runs."""
    keys = [key for key in FIGURES if any(key in run.summary for members in groups.values() for run in members)]
    head = ["runs", *(FIGURES[key][0] for key in keys)]
    body = [
        [f"{name} ({len(members)})" if len(members) > 1 else name, *(_spread(members, key) for key in keys)]
        for name, members in groups.items()
    ]
    return {"head": list(head), "body": list(body)}


def _spread(runs: list[RunFiles], key: str) -> str:
    values = [100 * run.summary[key] for run in runs if key in run.summary]
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{deviation} %"


def draw_by_epoch(groups: Groups, column: str, theme: Theme) -> Figure:
    """A figure by epoch, a line for each group of runs that has it."""
    figure, axes = new_figure(len(groups))
    for number, (name, members) in enumerate(groups.items()):
        columns = [(run.epochs["epoch"], _column(run, column)) for run in members]
        _draw_line(axes, [(at, values) for at, values in columns if values is not None], name, theme, number)
    axes.set(xlabel="epoch")
    axes.yaxis.set_major_formatter(PERCENT)
    by_epoch(axes)
    legend_above(figure, axes)
    return figure


def _draw_line(axes: Axes, curves: list[tuple[Array, Array]], name: str, theme: Theme, number: int) -> None:
    if not curves:
        return
    length = min(len(values) for _, values in curves)
    values = np.stack([values[:length] for _, values in curves])
    known = np.isfinite(values).all(axis=0)  # runs need not have been validated in each epoch
    values = values[:, known]
    colour, at = theme.series[number % len(theme.series)], curves[0][0][:length][known]
    axes.plot(at, values.mean(axis=0), color=colour, label=name)
    if len(values) > 1:
        middle, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
        axes.fill_between(at, middle - deviation, middle + deviation, color=colour, alpha=0.2, linewidth=0)
