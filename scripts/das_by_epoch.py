"""The paper's score against the loss: how well each finds the wrong labels, epoch by epoch, as a figure and a table.

python scripts/benchmark.py suite=das
python scripts/das_by_epoch.py docs/images/das-by-epoch.csv benchmarks/das/*/*/*/*
python scripts/das_by_epoch.py docs/images/das-by-epoch.csv

A run is in a folder MODEL/ROW/COLUMN/SEED and remembers all its epochs. Each epoch is recorded again, and the scores are
asked of the last ten and of all so far. What they find of all runs goes into the CSV file. The figure beside it (.png) is
drawn of that file, and the tables are printed of it in Markdown. Without runs the file is only read.

DAS is taken as the paper has it, low is suspect. Were it high, the AUROC would be 100 less the one given.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.core.contracts import Scores
from alignprune_pl.core.epoch_metrics import noise_auroc
from alignprune_pl.report.csv_table import csv_of, read_table
from alignprune_pl.report.run_files import read_summary
from alignprune_pl.report.theme import LIGHT
from alignprune_pl.report.whole_file import replaced
from alignprune_pl.scores import AlignmentScore, LossScore, MeanLossScore, Score
from compare_scores import Recorded, check_alike, read, replayed
from tables import markdown

N = 10
"""The window of the paper, and its warm-up: after so many epochs a run uses DAS for the first time."""
SCORES: dict[str, Score] = {
    "loss": LossScore(),
    "mean_loss": MeanLossScore(window=N),
    "das": AlignmentScore(window=N),
    "das_masked": AlignmentScore(window=N, missing="mask"),
    "das_spearman": AlignmentScore(window=N, correlation="spearman"),
    "das_cosine": AlignmentScore(window=N, correlation="cosine"),
    "mean_loss, all epochs": MeanLossScore(),
    "das, all epochs": AlignmentScore(),
}
SHOWN = tuple(name for name in SCORES if name != "das_masked")  # where nothing is pruned it is das
LOWEST = 1.1
"""The reference no longer falls from the first epoch on in which its loss is at most so many times its lowest one."""

MEDIANS = ("das_of_right", "das_of_wrong")
HEAD = ("model", "row", "column", "seed", "epoch", "reference_loss", *SCORES, *MEDIANS)

Line = dict[str, Any]
Kind = tuple[str, str, str]


def measured(run: Recorded) -> list[Line]:
    """After each epoch the reference's loss, the AUROC of each score in percent, and DAS of right and wrong labels."""
    lines: list[Line] = []
    for epoch, store in enumerate(replayed(run, max(2, run.epochs)), start=1):
        found = {name: Scores(score(store), score.low_is) for name, score in SCORES.items()}
        line: Line = {"epoch": epoch, "reference_loss": round(run.reference[epoch - 1].item(), 4)}
        line |= {name: round(100 * noise_auroc(scores.suspicion, run.mask), 2) for name, scores in found.items()}
        for name, of in zip(MEDIANS, (~run.mask, run.mask), strict=True):
            line[name] = round(found["das"].values[of].nanmedian().item(), 3)
        lines.append(line)
    return lines


def measure(run_dirs: Sequence[Path]) -> list[Line]:
    """The lines of all runs, which are named by their folders.

    Raises:
        SystemExit: If a folder is not that of a run of losses with a reference, or runs that differ in more than their
            seed are given as the same kind.
    """
    lines: list[Line] = []
    first: dict[Kind, Recorded] = {}
    for run_dir in run_dirs:
        run = read(run_dir)
        if run.own or run.reference.isnan().all():
            raise SystemExit(
                f"error: {run_dir} is given, but a run that records losses and has a reference is expected; train it with "
                "score=loss or score=das and a reference."
            )
        model, row, column = run_dir.resolve().parts[-4:-1]
        seed = read_summary(run_dir)["seed"]
        check_alike(run_dir, run, first.setdefault((model, row, column), run), f"{model}/{row}/{column}")
        lines += [{"model": model, "row": row, "column": column, "seed": seed, **line} for line in measured(run)]
    return lines


def falls_until(lines: list[Line]) -> int:
    """The first epoch of a run in which the reference's loss is close to its lowest one."""
    lowest = min(line["reference_loss"] for line in lines)
    return next(line["epoch"] for line in lines if line["reference_loss"] <= LOWEST * lowest)


def moments(lines: list[Line], score: str) -> tuple[float, float, float, float]:
    """A score's AUROC in one run, NaN where it is not known.

    Returns:
        The mean over the epochs in which the reference still falls, and the one when it no longer does, when DAS is first
        used and at the end.
    """
    values = [line[score] for line in lines]
    until = falls_until(lines)
    falling = [value for value in values[: until - 1] if not math.isnan(value)]
    return (
        statistics.mean(falling) if falling else math.nan,
        values[until - 1],
        values[N - 1] if len(values) >= N else math.nan,
        values[-1],
    )


def by_kind(lines: list[Line]) -> dict[Kind, dict[int, list[Line]]]:
    """The lines of each run by model, row and column, and by seed."""
    found: dict[Kind, dict[int, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        found[line["model"], line["row"], line["column"]][line["seed"]].append(line)
    return found


def rounded(values: Sequence[float]) -> str:
    """The mean over runs; a dash where one of them has none."""
    return "-" if any(map(math.isnan, values)) else f"{statistics.mean(values):.0f}"


def table(lines: list[Line], row: str) -> list[str]:
    """A line for each model and column: how long the reference falls, and the moments of each score."""
    body = []
    for (model, of, column), runs in by_kind(lines).items():
        if of == row:
            until = sorted(falls_until(run) for run in runs.values())
            epochs = str(until[0]) if until[0] == until[-1] else f"{until[0]} to {until[-1]}"
            by_score = [zip(*(moments(run, score) for run in runs.values()), strict=True) for score in SHOWN]
            cells = [" / ".join(map(rounded, of_score)) for of_score in by_score]
            body.append([model, column, str(len(runs)), epochs, *cells])
    return markdown(["model", "labels", "seeds", "falls until", *SHOWN], sorted(body))


def averaged(runs: dict[int, list[Line]], name: str) -> list[float]:
    """The mean over seeds in each epoch; NaN where a run has none."""
    return [statistics.mean(line[name] for line in at) for at in zip(*runs.values(), strict=True)]


def draw(lines: list[Line], row: str, path: Path) -> None:
    """A panel for each model and column, the AUROC above and the reference's loss below."""
    kinds = {(model, column): runs for (model, of, column), runs in by_kind(lines).items() if of == row}
    models, columns = (list(dict.fromkeys(kind[place] for kind in kinds)) for place in (0, 1))
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            2 * len(models),
            len(columns),
            figsize=(3.1 * len(columns) + 0.6, 3.6 * len(models) + 0.5),
            squeeze=False,
            sharex="row",
            height_ratios=[3, 1] * len(models),
            layout="constrained",
        )
        for (model, column), runs in kinds.items():
            upper, lower = axes[2 * models.index(model) :, columns.index(column)][:2]
            _panel(upper, lower, runs)
            upper.set_title(f"{model}, {column}")
        for upper, lower in zip(axes[::2, 0], axes[1::2, 0], strict=True):
            upper.set_ylabel("AUROC, %")
            lower.set_ylabel("reference's loss")
        handles, labels = next(axis.get_legend_handles_labels() for axis in axes.flat if axis.lines)
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        with replaced(path) as file:
            figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        plt.close(figure)


def _panel(upper: Any, lower: Any, runs: dict[int, list[Line]]) -> None:
    epochs = [line["epoch"] for line in next(iter(runs.values()))]
    for name in SHOWN:
        colour = LIGHT.series[SHOWN.index(name.partition(",")[0])]
        style = "--" if "," in name else "-"  # of all epochs
        width = 2.2 if name.startswith("das") and "_" not in name else 1.3
        upper.plot(epochs, averaged(runs, name), color=colour, label=name, linewidth=width, linestyle=style)
    upper.axhline(50, color="black", linewidth=0.8, linestyle=":")
    upper.set_ylim(0, 100)
    lower.plot(epochs, averaged(runs, "reference_loss"), color=LIGHT.ink)
    lower.set_xlabel("epoch")
    until = statistics.mean(falls_until(run) for run in runs.values())
    for axis in (upper, lower):
        axis.axvline(until, color="grey", linewidth=0.8, linestyle="--")
        axis.grid(alpha=0.3)


@sentences()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the CSV file")
    parser.add_argument("run_dirs", nargs="*", type=Path, metavar="RUN_DIR")
    parser.add_argument("--row", default="full", help="the row of the suite that is drawn")
    arguments = parser.parse_args()
    mpl.use("Agg")
    if arguments.run_dirs:
        measured_lines = measure(arguments.run_dirs)
        with replaced(arguments.file) as file:
            file.write(csv_of(HEAD, ([line[name] for name in HEAD] for line in measured_lines)))
    columns = read_table(arguments.file)
    lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    rows = list(dict.fromkeys(line["row"] for line in lines))
    if arguments.row not in rows:
        raise SystemExit(
            f"error: --row {arguments.row} is given, but {arguments.file} has no such row; valid are: {', '.join(rows)}."
        )
    draw(lines, arguments.row, arguments.file.with_suffix(".png"))
    for row in rows:
        print("\n".join([f"{row}:", "", *table(lines, row), ""]))


if __name__ == "__main__":
    main()
