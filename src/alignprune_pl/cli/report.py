"""Draw the reports of finished runs: ``alignprune-report``, ``python scripts/report.py``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.report import write_comparison, write_report


@sentences()
def main() -> None:
    """The command ``alignprune-report``."""
    parser = argparse.ArgumentParser(
        prog="alignprune-report",
        description="Write report.html and its pictures into a run's folder; of several runs, a page that compares them.",
    )
    parser.add_argument("folder", type=Path, nargs="+", help="of a finished run, such as outputs/DATE/TIME")
    parser.add_argument("--output", type=Path, help="the page that compares several runs, by default comparison.html")
    parser.add_argument(
        "--full", type=Path, help="of a run on the same data that pruned nothing, to compare one run with"
    )
    arguments = parser.parse_args()
    # A sweep has files of its own beside its runs.
    folders = [folder for folder in arguments.folder if not folder.is_file()] or arguments.folder
    if len(folders) > 1 and arguments.full is not None:
        raise ValueError(
            f"--full {arguments.full} is given with {len(folders)} runs, but one is expected; give one run, or put the full "
            "training among the folders."
        )
    if len(folders) > 1:
        written = write_comparison(folders, arguments.output or Path("comparison.html"))
    elif arguments.output is None:
        written = write_report(folders[0], arguments.full)
    else:
        raise ValueError(f"--output {arguments.output} is given, but one run's page is report.html in its folder.")
    print(f"{os.path.relpath(written[0])}, and {len(written) - 1} pictures in {os.path.relpath(written[1].parent)}")
