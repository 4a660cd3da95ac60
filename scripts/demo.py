"""Train the same network three times on digits with 40 % wrong labels, and compare: ``make demo``.

python scripts/demo.py [key=value ...], as scripts/train.py takes them
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.report import write_comparison
from alignprune_pl.report.run_files import read_summary
from benchmark import Cell, prepare, run
from tables import on_terminal

FOLDER = Path("outputs/demo")
TRAININGS = {
    "plain training": ("pruning=none", "score=loss"),
    "InfoBatch + DAS (the paper)": ("pruning=infobatch",),
    "calibrated": ("pruning=calibrated",),
}
SETTINGS = ("dataset=digits", "noise=sym40", "reference.share=0.1", "seed=0", "report=true")
WORDS = """\
accuracy: on the test set, after the last epoch.
saved: of the samples passed in plain training. On a network this small it saves no time.
wrong labels kept: among the samples trained on, all epochs.
InfoBatch keeps samples with a high loss, and wrong labels have one.\
"""


@sentences()
def main() -> None:
    given = tuple(sys.argv[1:])
    console = Console()
    prepare(threads=1)  # a network this small is no faster with more
    print("Digits with 40 % wrong labels: the same network is trained on them three times.")
    body, folders = [], []
    for name, method in TRAININGS.items():
        cell = Cell("digits", method[0].partition("=")[2], "sym40", 0, (*SETTINGS, *method, *given))
        with console.status(f"{name} ..."):
            seconds = run(cell, FOLDER)
        folders.append(FOLDER / cell.path)
        summary = read_summary(folders[-1])
        figures = [f"{100 * summary[key]:.1f} %" for key in ("test_acc", "saved", "noise_kept")]
        print(f"{name}: {summary['epochs']:.0f} epochs in {seconds:.0f} s")
        body.append([name, *figures])
    page = write_comparison(folders, FOLDER / "comparison.html")[0]
    on_terminal("", ["", "accuracy", "saved", "wrong labels kept"], body)
    print(WORDS)
    print(f"Open {os.path.relpath(page)} to see the three side by side.")


if __name__ == "__main__":
    main()
