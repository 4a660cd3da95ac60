"""Draw the README's picture from the runs in docs/runs/real.tar.xz: accuracy by epoch, half of the labels wrong.

python scripts/draw_accuracy.py [--output docs/images/accuracy.png]
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

RUNS = Path(__file__).parents[1] / "docs/runs/real.tar.xz"
CELL = re.compile(r"real/head/(\w+)/sym50/\d+/epochs\.csv")
LINES = {  # words, colour, style, and where the words stand beside the last point
    "oracle": ("correct labels alone", "#59636e", ":", "bottom"),
    "calibrated": ("calibrated", "#0072b2", "-", "top"),
    "full": ("plain training", "#d55e00", "-", "center"),
}
ACCURACY = "val/acc"


def curves(archive: Path) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Epochs and test accuracies in percent of each run, by its method."""
    found = defaultdict(list)
    with tarfile.open(archive) as files:
        for name in sorted(files.getnames()):
            match = CELL.fullmatch(name)
            member = files.extractfile(name) if match else None
            if match and member and match[1] in LINES:
                rows = csv.DictReader(io.TextIOWrapper(member, encoding="utf-8"))
                shown = [(int(row["epoch"]) + 1, 100 * float(row[ACCURACY])) for row in rows if is_validated(row)]
                found[match[1]].append(tuple(np.array(values) for values in zip(*shown, strict=True)))
    return found


def is_validated(row: dict[str, str]) -> bool:
    return row[ACCURACY].lower() not in ("", "nan")


def draw(found: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> Figure:
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for method, (name, colour, style, place) in LINES.items():
        epochs = found[method][0][0]
        values = np.stack([accuracies for _, accuracies in found[method]])
        middle, deviation = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else 0.0
        axes.plot(epochs, middle, style, color=colour, linewidth=2.2, marker="o", markersize=4)
        axes.fill_between(epochs, middle - deviation, middle + deviation, color=colour, alpha=0.2, linewidth=0)
        axes.annotate(f" {name} {middle[-1]:.1f} %", (epochs[-1], middle[-1]), color=colour, va=place, fontsize=10)
    last = max(int(epochs[-1]) for epochs, _ in found["full"])
    axes.set(xlabel="epoch", ylabel="test accuracy, %", xlim=(3, last * 1.28), xticks=range(4, last + 1, 4))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("CIFAR-10, half of the labels wrong: an MLP on pretrained features", loc="left", fontsize=11)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images/accuracy.png"))
    arguments = parser.parse_args()
    draw(curves(RUNS)).savefig(arguments.output, dpi=150, metadata={"Software": None})
    print(arguments.output)


if __name__ == "__main__":
    main()
