"""The plots of one run."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from alignprune_pl.report.detection import Array, confusion, most_suspect
from alignprune_pl.report.run_files import RunFiles, accuracy_among, readable
from alignprune_pl.report.theme import DASHES, LIGHT

_WIDTH, _HEIGHT = 4.8, 3.3  # inches: all of one size, so that they stand in line, and readable on a phone
_FAINT_LINES, _FAINT_POINTS = 40, 2000  # of each part; of a long run fewer lines, or the page grows with its epochs
_SHARES = LinearSegmentedColormap.from_list("shares", [(*to_rgb(LIGHT.right), opacity) for opacity in (0.0, 1.0)])
_FLOOR = 1e-3  # nats; differences between smaller losses mean nothing
_NAMED_CLASSES = 20  # of more, names would be unreadable

OBSERVED = {
    "loss": "loss",
    "batch_loss": "mean loss of the batch",
    "el2n": "length of the error vector",
    "margin": "margin of the label's logit",
    "rival": "loss against the strongest other class",
}


def new_figure() -> tuple[Figure, Axes]:
    """One plot; its legend is added where it is shown."""
    figure = Figure((_WIDTH, _HEIGHT), layout="constrained")
    return figure, figure.add_subplot()


def plain(text: str) -> str:
    """Text that is shown as it is; letters of no known encoding, and those that no drawing may have, are marked."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", readable(text))


def percent(axis: Axis) -> None:
    """Shares in percent, without zeros that say nothing."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 2):g}%"))


def _log(axis: Axis) -> None:
    """Numbers as they are read: 0.01."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def groups(run: RunFiles) -> list[tuple[str, Array]]:
    """Parts of the samples, bool[n] each: correctly and wrongly labelled, or unsuspected and suspected."""
    if run.is_all_correct:
        return [("correctly labelled", np.ones(len(run.suspicion), dtype=bool))]
    if run.mask is not None:
        names = ("correctly labelled", "wrongly labelled") if run.is_truth_known else ("not made wrong", "made wrong")
        return list(zip(names, (~run.mask, run.mask), strict=True))
    suspected = np.zeros(len(run.suspicion), dtype=bool)
    suspected[run.suspects] = True
    return [("not suspected", ~suspected), ("suspected", suspected)]


def draw_trajectories(run: RunFiles) -> Figure:
    """Trajectories of both parts over the epochs, and the reference's."""
    figure, axes = new_figure()
    shown, lines = run.record["shown"], run.record["trajectories"]
    epochs = np.arange(lines.shape[1])
    for (name, part), colour in zip(groups(run), (LIGHT.right, LIGHT.wrong), strict=False):
        own = lines[part[shown]]
        own = own[np.isfinite(own).any(axis=1)] if len(own) else own
        if not len(own):
            continue
        for line in own[: faint_lines(run)]:
            seen = np.isfinite(line)  # an epoch in which a sample was left out is bridged
            axes.plot(epochs[seen], line[seen], color=colour, alpha=0.12, linewidth=0.7)
        seen_in = np.flatnonzero(np.isfinite(own).any(axis=0))
        low, middle, high = np.nanquantile(own[:, seen_in], [0.25, 0.5, 0.75], axis=0)
        axes.fill_between(seen_in, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(seen_in, middle, color=colour, label=f"{name} (median, quartiles)")
    reference = run.record["reference_trajectory"]
    if np.isfinite(reference).any():
        axes.plot(epochs, reference, color=LIGHT.reference, linestyle="--", label="clean reference (mean)")
    axes.set(xlabel="epoch", ylabel=OBSERVED.get(run.summary["observes"], "observed"))
    finite = lines[np.isfinite(lines)]
    if _spans_magnitudes(finite):
        axes.set_yscale("log")
        _log(axes.yaxis)
        axes.set_ylim(_FLOOR, 1.5 * float(np.quantile(finite, 0.995)))
    by_epoch(axes)
    return figure


def faint_lines(run: RunFiles) -> int:
    """Of how many samples of each part the own trajectory is drawn."""
    epochs = int(run.record["trajectories"].shape[1])
    return min(_FAINT_LINES, max(5, _FAINT_POINTS // max(1, epochs)))


def _spans_magnitudes(values: Array) -> bool:
    """Whether they are losses, of which most are near zero once they are learnt, so that a logarithm shows them best."""
    return len(values) > 0 and values.min() >= 0 and np.quantile(values, 0.9) > _FLOOR


def draw_scores(run: RunFiles) -> Figure:
    """The histogram of the last score."""
    figure, axes = new_figure()
    suspicion = run.suspicion.astype(np.float64)
    known = np.isfinite(suspicion)
    low, high = np.quantile(suspicion[known], [0, 0.998]) if known.any() else (0.0, 1.0)
    bins = np.linspace(low, max(high, low + 1e-6), 61)
    if _spans_magnitudes(suspicion[known]):
        bins = np.geomspace(_FLOOR, max(high, 2 * _FLOOR), 61)
        axes.set_xscale("log")
        _log(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    for (name, part), colour in zip(groups(run), (LIGHT.right, LIGHT.wrong), strict=False):
        values = np.clip(suspicion[part & known], bins[0], bins[-1])
        axes.hist(
            values,
            bins=bins.tolist(),
            histtype="stepfilled",
            color=colour,
            alpha=0.65,
            label=f"{name} ({part.sum():,})",
        )
    if 0 < len(run.suspects) < len(suspicion):
        at = suspicion[run.suspects[-1]]
        axes.axvline(at, color=LIGHT.ink, linestyle=":", linewidth=1.2)
        axes.annotate(
            "suspected from here →",
            (at, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0) if (suspicion[known] < at).mean() < 0.9 else (-4, 0),
            textcoords="offset points",
            ha="left" if (suspicion[known] < at).mean() < 0.9 else "right",
            va="top",
            fontsize=9,
        )
    axes.set(xlabel="score, high is suspect", ylabel="samples")
    return figure


def draw_accuracy(run: RunFiles) -> Figure:
    """Accuracy and what was saved by epoch."""
    figure, axes = new_figure()
    named = (
        (accuracy_among(list(run.epochs)) or "", "accuracy in validation"),
        ("pruning/kept_share", "samples kept in the epoch"),
        ("pruning/saved", "samples saved so far"),
    )
    for number, (column, name) in enumerate(named):
        if column in run.epochs:  # a run need not have been validated, or not in each epoch
            known = np.isfinite(run.epochs[column])
            axes.plot(run.epochs["epoch"][known], run.epochs[column][known], label=name, **line_of(number))
    axes.set(xlabel="epoch", ylim=(0, 1.02))
    percent(axes.yaxis)
    by_epoch(axes)
    return figure


def draw_noise(run: RunFiles) -> Figure:
    """Wrong labels by epoch: those kept, and how many there are estimated to be."""
    figure, axes = new_figure()
    named = (
        ("pruning/noise_kept", f"{run.wrong_labels} among the kept", LIGHT.wrong, "solid"),
        ("pruning/estimated_noise_rate", "estimated wrong labels in the data", LIGHT.series[3], "dashed"),
    )
    for column, name, colour, dash in named:
        if column in run.epochs:
            axes.plot(run.epochs["epoch"], run.epochs[column], color=colour, linestyle=dash, label=name)
    if "noise_rate" in run.summary:
        axes.axhline(
            run.summary["noise_rate"],
            color=LIGHT.ink,
            linestyle=":",
            linewidth=1.2,
            label=f"{run.wrong_labels} in the data",
        )
    axes.set(xlabel="epoch", ylim=(0, None))
    percent(axes.yaxis)
    by_epoch(axes)
    return figure


def line_of(number: int) -> dict[str, Any]:
    """How the line of a run looks, by its number among those of a plot."""
    return {"color": LIGHT.series[number % len(LIGHT.series)], "linestyle": DASHES[number % len(DASHES)]}


def by_epoch(axes: Axes) -> None:
    """Whole numbers below."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _ranked(run: RunFiles) -> tuple[Array, Array]:
    if run.ranked is None:
        raise ValueError(f"{run.folder} has no wrong labels and right ones that are known and have a score.")
    return run.ranked


def draw_roc(runs: dict[str, RunFiles]) -> Figure:
    """The ROC curve of the score for finding wrong labels, of each run by name."""
    figure, axes = new_figure()
    for number, (name, run) in enumerate(runs.items()):
        mask, suspicion = _ranked(run)
        false, true, _ = roc_curve(mask, suspicion)
        label = f"{name or 'the score'} (AUROC in finding wrong labels: {roc_auc_score(mask, suspicion):.3f})"
        axes.plot(false, true, label=label, **line_of(number))
    axes.plot([0, 1], [0, 1], color=LIGHT.ink, linestyle=":", linewidth=1)
    axes.set(xlabel="right labels suspected", ylabel="wrong labels found", xlim=(-0.02, 1.02), ylim=(0, 1.02))
    percent(axes.xaxis)
    percent(axes.yaxis)
    return figure


def draw_precision(runs: dict[str, RunFiles]) -> Figure:
    """The precision-recall curve, likewise."""
    figure, axes = new_figure()
    for number, (name, run) in enumerate(runs.items()):
        mask, suspicion = _ranked(run)
        precision, recall, _ = precision_recall_curve(mask, suspicion, drop_intermediate=True)
        average = average_precision_score(mask, suspicion)
        label = f"{name or 'the score'} (average precision in finding wrong labels: {average:.3f})"
        axes.plot(recall, precision, label=label, **line_of(number))
    for rate in {float(_ranked(run)[0].mean()) for run in runs.values()}:
        axes.axhline(rate, color=LIGHT.ink, linestyle=":", linewidth=1)
    axes.set(xlabel="wrong labels found (recall)", ylabel="wrong among suspected (precision)")
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
    percent(axes.xaxis)
    percent(axes.yaxis)
    return figure


def draw_matrix(run: RunFiles, true: bool) -> Figure:
    """How often a class bears another's label: as it is, or by the run, with suspects as it predicts them."""
    labels, classes = run.labels["label"], run.classes
    if true:
        supposed = run.labels["clean_label"]
    else:
        supposed = labels.copy()
        supposed[run.suspects] = run.record["predicted"][run.suspects]
    figure, axes = new_figure()
    image: Any = axes.imshow(
        confusion(supposed, labels, len(classes)), cmap=_SHARES, vmin=0, vmax=1, interpolation="none"
    )
    axes.grid(visible=False)
    axes.set(xlabel="given label", ylabel="true class" if true else "class as estimated")
    if len(classes) <= _NAMED_CLASSES:
        shown = [plain(name) for name in classes]
        axes.set_xticks(range(len(classes)), shown, rotation=90 if max(map(len, classes)) > 2 else 0, fontsize=9)
        axes.set_yticks(range(len(classes)), shown, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8, format=PercentFormatter(1))
    return figure


def draw_suspects(run: RunFiles) -> Figure:
    """The most suspect images with the label that they are given, the predicted one and the score."""
    images = run.record["thumbnails"]
    columns, rows = 4, -(-len(images) // 4)
    figure = Figure((_WIDTH, 1.6 * rows), layout="constrained")
    for place, (image, at) in enumerate(zip(images, most_suspect_shown(run), strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(image, interpolation="nearest" if image.shape[0] < 64 else "antialiased")
        axes.set_axis_off()
        given, predicted = (run.classes[which[at]] for which in (run.labels["label"], run.record["predicted"]))
        axes.set_title(f"{plain(given)}\n→ {plain(predicted)}\n{run.suspicion[at]:.3g}", fontsize=8, loc="center")
    return figure


def most_suspect_shown(run: RunFiles) -> Array:
    """The samples that there are pictures of or, without any, sixteen, int64[k]; the most suspect first."""
    return run.record["thumbnail_of"] if "thumbnail_of" in run.record else most_suspect(run.suspicion, 16)
