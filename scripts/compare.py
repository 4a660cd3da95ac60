"""The runs of a sweep as a table: one option of the command line down, another across.

python scripts/train.py -m pruning=infobatch,seta score=loss,das seed=0,1,2
python scripts/compare.py multirun/2026-11-24/12-00-00 [--rows pruning] [--columns score] [--figure test_acc] [--markdown]

A row or a column may also be a setting, such as pruning.ratio. A cell is the mean of runs that differ in their seed alone.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.report.run_files import CONFIG, SUMMARY, read_config, read_summary
from alignprune_pl.report.settings import all_settings, differing, settings_of
from tables import markdown, on_terminal, spread

SHOWN = 3  # of the settings that differ

Cells = dict[tuple[str, str], list[float]]


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its figures and options, and its settings."""

    folder: Path
    summary: dict[str, Any]
    config: dict[str, Any]

    @property
    def options(self) -> dict[str, str]:
        """The options of the command line, by their groups."""
        return {group: str(option) for group, option in self.summary["options"].items()}


def read(folder: Path) -> list[Run]:
    """All runs below ``folder``."""
    paths = sorted(folder.rglob(SUMMARY), key=lambda path: [(len(part), part) for part in path.parts])
    runs = [Run(path.parent, read_summary(path.parent), read_config(path.parent)) for path in paths]  # 9 before 10
    if not runs:
        raise SystemExit(f"error: {folder} is given, but a folder with the runs of a sweep (summary.json) is expected.")
    return runs


def value(run: Run, name: str) -> Any:
    """A figure, option or setting of a run."""
    found = run.summary["options"].get(name, run.summary.get(name))
    found = all_settings(run.config).get(name) if found is None else found
    if found is None:
        known = ", ".join([*run.summary["options"], *(key for key in run.summary if key != "options")])
        raise SystemExit(
            f"error: {name} is given, but a run has no such figure or option; there are {known}, and the settings of "
            f"{run.folder / CONFIG}, such as data.batch_size."
        )
    return found


def cells(runs: list[Run], rows: str, columns: str, figure: str) -> Cells:
    """The figures of the runs that share a row and a column, as with several seeds, in percent."""
    found: Cells = defaultdict(list)
    first: dict[tuple[str, str], Run] = {}
    for run in runs:
        cell = str(value(run, rows)), str(value(run, columns))
        check_alike(run, first.setdefault(cell, run))
        found[cell].append(100 * float(value(run, figure)))
    return found


def check_alike(run: Run, first: Run) -> None:
    """Refuse a run that cannot be averaged with another one of its cell.

    Raises:
        SystemExit: If they differ in more than their seed.
    """
    names = differing(settings_of(first.config), settings_of(run.config))
    if names:
        # One option makes several settings, of its own group or, as an experiment does, of others.
        options = [name for name in differing(first.options, run.options) if name != "logger"]
        names = [*options, *(name for name in names if name.partition(".")[0] not in options)]
        shown = f"{', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        raise SystemExit(
            f"error: {first.folder} and {run.folder} are given for one cell, but runs that differ in their seed alone are "
            f"expected, and {shown} {'differ' if len(names) > 1 else 'differs'}; give {names[0]} as --rows or --columns, or "
            "a folder of fewer runs."
        )


@sentences()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default="pruning", help="the option or setting that differs from row to row")
    parser.add_argument("--columns", default="score", help="the option or setting that differs from column to column")
    parser.add_argument("--figure", default="test_acc", help="test_acc, best_acc, saved, noise_kept or pruning_time")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table instead of one for the terminal")
    arguments = parser.parse_args()
    runs = read(arguments.folder)
    found = cells(runs, arguments.rows, arguments.columns, arguments.figure)
    columns = list(dict.fromkeys(column for _, column in found))
    head = [f"{arguments.rows} \\ {arguments.columns}", *columns]
    body = [
        [row, *(spread(found.get((row, column), [])) for column in columns)]
        for row in dict.fromkeys(row for row, _ in found)
    ]
    if arguments.markdown:
        print("\n".join(markdown(head, body)))
    else:
        on_terminal(f"{arguments.figure} in percent, {len(runs)} runs", head, body)


if __name__ == "__main__":
    main()
