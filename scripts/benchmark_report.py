"""The runs of a suite as tables (Markdown, CSV) and plots; used by benchmark.py."""

from __future__ import annotations

import math
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from alignprune_pl.report.csv_table import csv_of
from alignprune_pl.report.run_files import SUMMARY, read_epochs, read_summary
from alignprune_pl.report.whole_file import replaced
from page_blocks import block_of, fill_block
from tables import markdown, spread

# What runs note the versions of: its name, and that of its module.
NOTED = {"torch": "torch", "Lightning": "lightning", "alignprune-pl": "alignprune_pl"}
BARS_OF = ("full", "infobatch", "calibrated", "oracle")

Run = dict[str, Any]
Runs = dict[tuple[str, str, str], list[Run]]
BySeed = dict[int, float]


# Bars of calibrated pruning, in points of accuracy and percent. Where full training loses LOSES to the oracle, it is to be
# better than the host by far, near the oracle and cheap; everywhere it is to be no worse than full training and the host.
NO_WORSE, CLEAN, LOSES, ABOVE_INFOBATCH, SAVED = 0.5, 0.3, 8.0, 10.0, 40.0
WITHIN_ORACLE, WITHIN_ORACLE_PEOPLE, WITHIN_ORACLE_HIGH, HIGH_NOISE = 2.5, 4.0, 8.0, 70.0
SMALL_NOISE, ESTIMATE = 15.0, 4.0


def read(places: Sequence[tuple[str, str, str, Path]]) -> Runs:
    """The finished runs by (model, row, column)."""
    found: Runs = defaultdict(list)
    for model, row, column, folder in places:
        if (folder / SUMMARY).exists():
            run: Run = read_summary(folder)
            run["ended"] = (folder / SUMMARY).stat().st_mtime
            run["epochs"] = read_epochs(folder)
            found[model, row, column].append(run)
    return found


def by_epoch(run: Run, name: str) -> list[float]:
    """A logged figure in each epoch; NaN where there is none."""
    missing = np.full(len(run["epochs"]["epoch"]), math.nan)
    return [float(value) for value in run["epochs"].get(f"pruning/{name}", missing)]


def figures(run: Run) -> dict[str, float]:
    """What of a run stands in the tables, in percent."""
    last = {name: by_epoch(run, name)[-1] for name in ("noise_kept", "average_precision", "auroc")}
    known = {
        "accuracy": run["test_acc"],
        "best": math.nan if run["best_acc"] is None else run["best_acc"],
        "saved": run["saved"],
        "noise_kept": last["noise_kept"],
        "average_precision": last["average_precision"],
        "auroc": last["auroc"],
        "estimated": run.get("estimated_noise_rate", math.nan),
        "true": run.get("noise_rate", math.nan),
    }
    return {name: 100 * value for name, value in known.items()}


def mean_of(runs: list[Run], name: str) -> float:
    """The mean of a figure over runs; NaN of none."""
    return _mean([figures(run)[name] for run in runs])


def written(runs: list[Run], name: str) -> str:
    """Mean and, of several runs, standard deviation; a dash where it is not known."""
    return spread([figures(run)[name] for run in runs])


def of_figure(runs: Runs, suite: dict[str, Any], model: str, name: str) -> list[str]:
    """Rows down, columns across; without the columns of other networks."""
    columns = columns_of(runs, suite, model)
    body = [[row, *(written(runs[model, row, column], name) for column in columns)] for row in suite["rows"]]
    # Trained on fewer samples from the start, the oracle prunes nothing of them.
    body = [line for line in body if not (name == "saved" and line[0].endswith("oracle"))]
    return markdown(["", *columns], [line for line in body if any(cell != "-" for cell in line[1:])])


def columns_of(runs: Runs, suite: dict[str, Any], model: str) -> list[str]:
    """The columns that the network has runs of."""
    return [column for column in suite["columns"] if any(runs[model, row, column] for row in suite["rows"])]


def true_rates(runs: Runs, suite: dict[str, Any], model: str) -> list[str]:
    """A line with the share of wrong labels in the data, where a row estimates it."""
    found = [
        next(
            (
                written(runs[model, row, column], "true")
                for row in suite["rows"]
                if written(runs[model, row, column], "estimated") != "-"
            ),
            "-",
        )
        for column in columns_of(runs, suite, model)
    ]
    return markdown([], [["*true*", *found]])[2:]


def bars(runs: Runs, suite: dict[str, Any], model: str) -> list[str]:
    """Each bar of calibrated pruning, and whether it is met; to the figures as they are, not as they are printed.

    Compared are the seeds that the rows of ``BARS_OF`` have in a column, with small_loss those of them that it has too.
    Beside a mean stands its standard error over these seeds.
    """
    body = []
    for column in suite["columns"]:
        here = [runs[model, row, column] for row in BARS_OF if runs[model, row, column]]
        shared = set.intersection(*({run["seed"] for run in row} for row in here)) if here else set()

        def of(row: str, name: str, column: str = column, shared: set[int] = shared) -> BySeed:
            return {run["seed"]: figures(run)[name] for run in runs[model, row, column] if run["seed"] in shared}

        full, host, told, oracle, mine = (
            of(row, "accuracy") for row in ("full", "infobatch", "small_loss", "oracle", "calibrated")
        )
        saved, true, estimated = (of("calibrated", name) for name in ("saved", "true", "estimated"))
        noise = _mean([*true.values()])
        checks = [
            ("points above full", _above(mine, full), -CLEAN if noise == 0 else -NO_WORSE),
            ("points above infobatch", _above(mine, host), -NO_WORSE),
        ]
        if 0 < noise <= SMALL_NOISE:
            checks.append(("points above small_loss", _above(mine, told), -NO_WORSE))
            checks.append(("points that the estimate is off", _above(estimated, true), -ESTIMATE))
        if _mean(_above(oracle, full)) >= LOSES:
            people = any(run.get("options", {}).get("noise") == "human" for run in runs[model, "calibrated", column])
            allowed = WITHIN_ORACLE_PEOPLE if people else WITHIN_ORACLE
            allowed = WITHIN_ORACLE_HIGH if noise > HIGH_NOISE else allowed
            checks[1] = ("points above infobatch", _above(mine, host), ABOVE_INFOBATCH)
            checks.append(("points above the oracle", _above(mine, oracle), -allowed))
            checks.append(("% saved", [*saved.values()], SAVED))
        for what, values, least in checks:
            figure = -abs(_mean(values)) if what == "points that the estimate is off" else _mean(values)
            if not math.isnan(figure):  # its runs are there
                error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
                met = "yes" if figure >= least else "**no**"
                body.append([column, what, f"{figure:+.2f}{error}", f"{least:+.1f}", met])
    return markdown(["", "calibrated pruning", "measured", "at least", "met"], body)


def _mean(values: list[float]) -> float:
    return statistics.mean(values) if values else math.nan


def _above(some: BySeed, others: BySeed) -> list[float]:
    """By how much, of each seed that both have."""
    return [some[seed] - others[seed] for seed in sorted(some.keys() & others.keys())]


def machine() -> str:
    """The processor and Python that runs have here."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return f"{len(names) or '?'} cores of {processor}, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def versions(runs: Runs) -> str:
    """What the runs were made with, as they have noted it: all versions that occur."""
    every = [run for here in runs.values() for run in here]
    found = {name: sorted({run.get(key, "?") for run in every}) for name, key in NOTED.items()}
    return ", ".join(f"{name} {' and '.join(of)}" for name, of in found.items())


def overview(runs: Runs, suite: dict[str, Any]) -> list[str]:
    """All networks in one table: full training / calibrated pruning, with what it has saved / oracle; means."""
    body = []
    for model in suite["models"]:
        line = [model]
        for column in suite["columns"]:
            full, mine, oracle = (runs[model, row, column] for row in ("full", "calibrated", "oracle"))
            parts = [
                short(full, "accuracy"),
                f"**{short(mine, 'accuracy')}** ({short(mine, 'saved', 0)})",
                short(oracle, "accuracy"),
            ]
            line.append(" / ".join(parts if oracle else parts[:2]) if full and mine else "")
        body.append(line)
    return markdown(["", *suite["columns"]], body)


def short(runs: list[Run], name: str, digits: int = 1) -> str:
    """A mean without its deviation."""
    return f"{mean_of(runs, name):.{digits}f}"


def report(suite: dict[str, Any], runs: Runs, wanted: int, made_on: str = "") -> str:
    """The whole suite in Markdown, of whose ``wanted`` runs these are there; and on which machine, where it is known."""
    done = sum(map(len, runs.values()))
    seeds = ", ".join(map(str, sorted({run["seed"] for here in runs.values() for run in here})))
    day = date.fromtimestamp(max(run["ended"] for here in runs.values() for run in here))
    made = ", ".join(filter(None, (made_on, versions(runs))))
    lines = [
        f"# {suite['title']}",
        "",
        f"{done} of {wanted} runs, seeds {seeds}: mean and standard deviation, in percent. {made}; {day}.",
        "",
        "Settings of all runs: " + " ".join(f"`{setting}`" for setting in suite["settings"]) + ".",
        "",
    ]
    if suite.get("bars"):
        lines += ["Full training / **calibrated pruning** (samples saved) / oracle:", "", *overview(runs, suite), ""]
    for model in suite["models"]:
        lines += [f"## {model}: " + " ".join(f"`{setting}`" for setting in suite["models"][model]), ""]
        for title, name in (
            ("Test accuracy after the last epoch", "accuracy"),
            ("Samples saved, a probe counted as a third of one trained on", "saved"),
            ("Wrong labels among those trained on in the last epoch", "noise_kept"),
            ("Average precision of the score for finding wrong labels, after the last epoch", "average_precision"),
        ):
            lines += [f"{title}:", "", *of_figure(runs, suite, model, name), ""]
        estimates = of_figure(runs, suite, model, "estimated")
        if len(estimates) > 2:
            lines += ["Wrong labels in the data, and as a method estimates them at the end:", ""]
            lines += [*estimates[:2], *true_rates(runs, suite, model), *estimates[2:], ""]
        if suite.get("bars"):
            lines += ["Bars:", "", *bars(runs, suite, model), ""]
    return "\n".join(lines)


def mean_by_epoch(runs: list[Run], name: str) -> list[float]:
    """The mean over runs in each epoch, in percent."""
    return [100 * statistics.mean(values) for values in zip(*(by_epoch(run, name) for run in runs), strict=True)]


def plot(
    suite: dict[str, Any], runs: Runs, model: str, path: Path, draw: Callable[[Any, str], None], name: str
) -> Path:
    """One small plot for each column, in a row."""
    with mpl.rc_context({"font.size": 9}):
        columns = columns_of(runs, suite, model) or list(suite["columns"])
        figure, axes = plt.subplots(1, len(columns), figsize=(2.6 * len(columns), 2.8), squeeze=False, sharey=True)
        for axis, column in zip(axes[0], columns, strict=True):
            draw(axis, column)
            axis.set_title(column)
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.3)
        axes[0][0].set_ylabel(name)
        handles = {
            label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=len(handles) or 1, frameon=False)
        figure.tight_layout(rect=(0, 0.1, 1, 1))
        with replaced(path) as file:
            figure.savefig(file, format="png", dpi=110)
        plt.close(figure)
    return path


def plots(suite: dict[str, Any], runs: Runs, folder: Path) -> list[Path]:
    """The estimated noise rate, and the wrong labels kept by each method, over the epochs."""
    written_to = []
    for model in suite["models"]:

        def estimate(axis: Any, column: str, model: str = model) -> None:
            for run in runs[model, "calibrated", column]:
                axis.plot(
                    [100 * v for v in by_epoch(run, "estimated_noise_rate")],
                    color="C0",
                    label="estimated, a line a seed",
                )
                true = 100 * run.get("noise_rate", math.nan)
                axis.axhline(true, color="black", linestyle="--", linewidth=1, label="true")

        def kept(axis: Any, column: str, model: str = model) -> None:
            for number, row in enumerate(suite["rows"]):
                if not row.endswith("oracle") and runs[model, row, column]:
                    noise = mean_by_epoch(runs[model, row, column], "noise_kept")
                    axis.plot(noise, color=f"C{number}", label=row, linewidth=2.5 if row == "calibrated" else 1.2)

        if any(runs[model, "calibrated", column] for column in suite["columns"]):
            path = folder / f"{model}-estimated-noise-rate.png"
            written_to.append(plot(suite, runs, model, path, estimate, "wrong labels, %"))
        path = folder / f"{model}-noise-kept.png"
        written_to.append(plot(suite, runs, model, path, kept, "wrong among the kept, %"))
    return written_to


def block_of_suite(page: Path, name: str) -> str:
    """Which block of a suite a page has: that of all its report, or that of how many runs there are and the first table.

    Raises:
        SystemExit: If the page is not there, or has neither.
    """
    return block_of(page, f"suite {name}", f"overview of suite {name}")[0]


def put_into_page(page: Path, name: str, text: str, pictures: Sequence[Path]) -> None:
    """Replace what a page has between the two comments of a suite by its report, one heading deeper, or by its overview.

    The pictures of a whole report go to the folder ``images`` beside the page.

    Raises:
        SystemExit: If the page is not there, or has no such comments.
    """
    block = block_of_suite(page, name)
    body = [f"#{line}" if line.startswith("#") else line for line in text.splitlines()[2:]]  # without the title
    if block.startswith("overview"):
        body, pictures = overview_of(body), ()
    for picture in pictures:
        copy = page.parent / "images" / f"{name}-{picture.name}"
        write(copy, picture.read_bytes())
        caption = picture.stem.replace("-", " ")
        body += ["", f"![Suite {name}, {caption}, by epoch](images/{copy.name})"]
    fill_block(page, block, body)


def overview_of(report: list[str]) -> list[str]:
    """The lines of a report that say how many runs there are, and its first table with the line above it."""
    first = next(number for number, line in enumerate(report) if line.startswith("|"))
    size = next((number for number, line in enumerate(report[first:]) if not line.startswith("|")), None)
    return [report[0], "", report[first - 2], "", *report[first:][:size]]


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole."""
    with replaced(path) as file:
        file.write(content)


def write_report(
    suite: dict[str, Any],
    places: Sequence[tuple[str, str, str, Path]],
    wanted: int,
    folder: Path,
    pages: Sequence[Path] = (),
    made_on: str = "",
) -> list[Path]:
    """Write results.md, results.csv and the plots, and put them into the pages; their paths."""
    mpl.use("Agg")
    runs = read(places)
    if not runs:
        raise SystemExit(f"error: {folder} is given, but no finished run is there; run the suite first.")
    write(folder / "results.md", report(suite, runs, wanted, made_on).encode())
    head = ["model", "row", "column", "seed", *figures(next(iter(runs.values()))[0])]
    lines = [
        [*cell, run["seed"], *(round(value, 4) for value in figures(run).values())]
        for cell, here in sorted(runs.items())
        for run in here
    ]
    write(folder / "results.csv", csv_of(head, lines))
    pictures = plots(suite, runs, folder)
    for page in pages:
        put_into_page(page, folder.name, (folder / "results.md").read_text(), pictures)
    return [folder / "results.md", folder / "results.csv", *pictures]
