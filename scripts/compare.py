"""The runs of a sweep as a table: one option of the command line down, another across.

python scripts/train.py -m pruning=infobatch,seta score=loss,das seed=0,1,2
python scripts/compare.py multirun/2026-11-24/12-00-00 [--rows pruning] [--columns score] [--figure test_acc] [--markdown]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.report.run_files import SUMMARY, read_summary
from tables import markdown, on_terminal, spread

Cells = dict[tuple[str, str], list[float]]


def read(folder: Path) -> list[dict[str, Any]]:
    """The summaries of all runs below ``folder``."""
    paths = sorted(folder.rglob(SUMMARY), key=lambda path: [(len(part), part) for part in path.parts])
    summaries = [read_summary(path.parent) for path in paths]  # run 9 comes before run 10
    if not summaries:
        raise SystemExit(f"error: {folder} is given, but a folder with the runs of a sweep (summary.json) is expected.")
    return summaries


def value(summary: dict[str, Any], name: str) -> Any:
    """A figure, setting or option of a run."""
    found = summary["options"].get(name, summary.get(name))
    if found is None:
        known = ", ".join([*summary["options"], *(key for key in summary if key != "options")])
        raise SystemExit(f"error: {name} is given, but a run has no such figure or option; there are {known}.")
    return found


def cells(summaries: list[dict[str, Any]], rows: str, columns: str, figure: str) -> Cells:
    """The figures of the runs that share a row and a column, as with several seeds, in percent."""
    found: Cells = defaultdict(list)
    for summary in summaries:
        found[str(value(summary, rows)), str(value(summary, columns))].append(100 * float(value(summary, figure)))
    return found


@sentences()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default="pruning", help="the option that differs from row to row")
    parser.add_argument("--columns", default="score", help="the option that differs from column to column")
    parser.add_argument("--figure", default="test_acc", help="test_acc, best_acc, saved, noise_kept or pruning_time")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table instead of one for the terminal")
    arguments = parser.parse_args()
    summaries = read(arguments.folder)
    found = cells(summaries, arguments.rows, arguments.columns, arguments.figure)
    columns = list(dict.fromkeys(column for _, column in found))
    head = [f"{arguments.rows} \\ {arguments.columns}", *columns]
    body = [
        [row, *(spread(found.get((row, column), [])) for column in columns)]
        for row in dict.fromkeys(row for row, _ in found)
    ]
    if arguments.markdown:
        print("\n".join(markdown(head, body)))
    else:
        on_terminal(f"{arguments.figure} in percent, {len(summaries)} runs", head, body)


if __name__ == "__main__":
    main()
