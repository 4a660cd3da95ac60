"""The transition matrix of each noise model on a data set's real labels and images: a table of rates and a picture.

python scripts/noise_matrices.py matrices.png dataset=fashion_mnist dataset.root=/usr/share/datasets/fashion-mnist
python scripts/noise_matrices.py human.png dataset=cifar10n --noise noise.annotation=aggregate --noise noise=sym40

Each --noise is what the training script would be given, `noise=sym40 noise.over=all` for two settings. By default every
model that needs neither people nor a file, at 40 %, and an example of a matrix of one's own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table
from torch import Tensor

from alignprune_pl.cli.command_line import CONFIGS, add_ratios
from alignprune_pl.data import NoisyData
from alignprune_pl.noise import transition_matrix

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MODELS = ("clean", "sym40", "sym40 noise.over=all", "asym40", "pairflip40", "instance40")


def noisy(overrides: list[str]) -> NoisyData:
    """The data set with its noise, as the training script makes it."""
    add_ratios(overrides)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides)
    return NoisyData(instantiate(cfg.dataset.benchmark), instantiate(cfg.noise), cfg.reference.share, seed=cfg.seed)


def example(num_classes: int) -> str:
    """A matrix as a user would write it: even classes keep 90 %, odd ones lose 30 % to the two that follow."""
    rows = [[0.0] * num_classes for _ in range(num_classes)]
    for c in range(num_classes):
        kept, lost = (0.9, (0.1, 0.0)) if c % 2 == 0 else (0.7, (0.2, 0.1))
        rows[c][c] = kept
        for step, share in enumerate(lost, start=1):
            rows[c][(c + step) % num_classes] += share
    return f"matrix noise.matrix={json.dumps(rows, separators=(',', ':'))}"


def draw(matrices: dict[str, Tensor], classes: tuple[str, ...], path: Path) -> None:
    """One picture, a square for each noise model."""
    columns = min(4, len(matrices))
    rows = -(-len(matrices) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 4.4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(matrices) :]:
        axis.set_axis_off()
    for axis, (name, matrix) in zip(axes.flat, matrices.items(), strict=False):
        shown = axis.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("label given")
        axis.set_ylabel("true class")
        if len(classes) <= 20:
            axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
            axis.set_yticks(range(len(classes)), classes, fontsize=7)
            for (a, b), share in np.ndenumerate(matrix.numpy()):
                if share >= 0.005:
                    text = f"{share:.2f}".lstrip("0")
                    axis.text(
                        b, a, text, ha="center", va="center", fontsize=6.5, color="white" if share > 0.5 else "black"
                    )
    figure.colorbar(shown, ax=axes, shrink=0.6, label="share of the true class")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("overrides", nargs="*", help="what the training script would be given, such as dataset=cifar10")
    parser.add_argument("--noise", action="append", help="a noise model with its settings; repeat it")
    arguments = parser.parse_args()
    models = [noise.removeprefix("noise=") for noise in arguments.noise or MODELS]
    table = Table(title="Wrong labels in percent, of all and by true class")
    for column in ("noise", "all", "least", "most", "its most frequent wrong label takes"):
        table.add_column(column, justify="left" if column == "noise" else "right")
    matrices: dict[str, Tensor] = {}
    if not arguments.noise:
        models.append(example(noisy([*arguments.overrides, "noise=clean"]).num_classes))
    for model in models:
        data = noisy([*arguments.overrides, *f"noise={model}".split()])
        if data.clean_labels is None or data.noise_mask is None:
            raise SystemExit(f"error: {data.benchmark.name}'s clean labels are not known, but a matrix goes from them.")
        matrix = transition_matrix(data.clean_labels, data.labels, data.num_classes)
        by_class = 1 - matrix.diagonal()
        wrong = matrix.clone().fill_diagonal_(0)
        largest = wrong.max(dim=1).values[by_class > 0] / by_class[by_class > 0]
        share = f"{100 * largest.mean():.1f}" if len(largest) else "-"
        rate = 100 * float(data.noise_mask.double().mean())
        name = "matrix" if model.startswith("matrix") else model.replace(" noise.", ", ")
        table.add_row(name, *(f"{figure:.2f}" for figure in (rate, 100 * by_class.min(), 100 * by_class.max())), share)
        matrices[f"{name}: {rate:.2f} % wrong"] = matrix
    draw(matrices, data.benchmark.classes, arguments.picture)
    Console().print(table)
    print(f"picture: {arguments.picture}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
