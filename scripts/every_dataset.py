"""The training script with every data set and every noise model, from miniature files in the original formats.

python scripts/every_dataset.py [--datasets cifar10,csv] [--noises clean,sym40] [--jobs 2]

Writes the files with sample_files.py into a temporary folder, runs `python scripts/train.py dataset=... noise=...` for
each pair (two epochs of a small mlp), and prints the realised share of wrong labels and the test accuracy as a Markdown
table. Of this few images accuracy says nothing but that training ran. Pairs that the script refuses are listed with
its sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import sample_files

SCRIPTS = Path(__file__).resolve().parent
CLASSES = {
    "digits": 10,
    "fashion_mnist": 10,
    "cifar10": 10,
    "cifar10n": 10,
    "cifar100": 100,
    "cifar100n": 100,
    "webvision": 1000,
    "webvision_mini": 50,
    "clothing1m": 14,
    "imagenet": 1000,
    "tiny_imagenet": 200,
    "image_folder": 3,
    "csv": 3,
    "arrays": 3,
}
NOISES = ("clean", "given", "sym40", "asym40", "pairflip40", "instance40", "human", "matrix")
SMALL = [
    "model=mlp",
    "model.hidden=[16]",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "data.num_workers=0",
    "++dataset.image_size=16",
    "++dataset.reference_per_class=1",
]


def command(folder: Path, dataset: str, noise: str, run: Path) -> list[str]:
    """The training script's command line for one pair."""
    pair = [f"dataset={dataset}", f"noise={noise}", f"data_dir={folder}", f"hydra.run.dir={run}", *SMALL]
    if noise == "matrix":
        classes = CLASSES[dataset]
        rows = [[0.7 * (a == b) + 0.3 * (b == (a + 2) % classes) for b in range(classes)] for a in range(classes)]
        path = run.with_suffix(".txt")
        path.write_text("\n".join(" ".join(map(str, row)) for row in rows))
        pair.append(f"noise.matrix={path}")
    return [sys.executable, str(SCRIPTS / "train.py"), *pair]


def outcome(folder: Path, dataset: str, noise: str) -> dict[str, object]:
    """The summary of a run, or the sentence that refuses it."""
    run = folder / f"{dataset}-{noise}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = command(folder, dataset, noise, run)
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        summary: dict[str, object] = json.loads((run / "summary.json").read_text())
        return summary
    last = done.stderr.strip().splitlines()[-1]
    if not last.startswith("error: "):
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return {"refused": last.removeprefix("error: ")}


def cell(result: dict[str, object]) -> str:
    """A run in a few characters."""
    if "refused" in result:
        return "refused"
    wrong = f"{100 * float(str(result['noise_rate'])):.1f}" if "noise_rate" in result else "?"
    return f"{wrong} / {100 * float(str(result['test_acc'])):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=",".join(CLASSES))
    parser.add_argument("--noises", default=",".join(NOISES))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each on one thread")
    arguments = parser.parse_args()
    datasets, noises = arguments.datasets.split(","), arguments.noises.split(",")
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(arguments.jobs) as pool:
        folder = Path(scratch)
        sample_files.write_all(folder)
        pairs = list(product(datasets, noises))
        results = dict(zip(pairs, pool.map(lambda pair: outcome(folder, *pair), pairs), strict=True))
    head = ["wrong labels / test accuracy, %", *noises]
    body = [[dataset, *(cell(results[dataset, noise]) for noise in noises)] for dataset in datasets]
    for line in (head, ["---"] * len(head), *body):
        print("| " + " | ".join(line) + " |")
    refused = {pair: result["refused"] for pair, result in results.items() if "refused" in result}
    print(f"\n{len(pairs) - len(refused)} pairs ran, {len(refused)} were refused:")
    for (dataset, noise), sentence in refused.items():
        print(f"dataset={dataset} noise={noise}: {sentence}")


if __name__ == "__main__":
    main()
