"""Train third-party projects with AlignPrune, check each from outside, and write docs/works-with.md.

`make compat` sets up an environment with all of them (some gigabytes, ten minutes) and runs this in it. Each training is a
process of its own; `compat/spy.py` says what is checked and how.

python scripts/compat.py [NAME ...] [--no-page]
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "works-with.md"


@dataclass(frozen=True)
class Project:
    """A training.

    Attributes:
        name: The project.
        package: Whose version is shown; empty for code in a project's style.
        trains: What is trained, for the page.
        where: File and function below compat/.
    """

    name: str
    package: str
    trains: str
    where: str


PROJECTS = tuple(
    Project(*line)
    for line in (
        (
            "lightning-hydra-template",
            "",
            "its module, written anew: metrics called with the loss",
            "plain:hydra_template",
        ),
        ("transformers", "transformers", "GPT-2, causal, loss inside", "text:gpt2"),
        ("transformers", "transformers", "Llama, causal, loss inside", "text:llama"),
        ("transformers", "transformers", "BERT, masked tokens, loss inside", "text:bert"),
        ("transformers", "transformers", "ViT, loss inside", "text:vit"),
        ("torchvision", "torchvision", "`sigmoid_focal_loss`, several labels", "vision:torchvision_focal"),
        ("torchvision", "torchvision", "ResNet-18, label smoothing", "vision:torchvision_resnet"),
        ("timm", "timm", "ViT, `Mixup`, `SoftTargetCrossEntropy`", "vision:timm_mixup"),
        ("timm", "timm", "ResNet-10t, `AsymmetricLossMultiLabel`", "vision:timm_asymmetric"),
        ("kornia", "kornia", "random flips, `FocalLoss`", "vision:kornia_focal"),
        ("kornia", "kornia", "`SSIMLoss` between images", "vision:kornia_ssim"),
        ("MONAI", "monai", "UNet, `DiceCELoss`", "vision:monai_dice"),
        ("MONAI", "monai", "UNet, `DiceLoss(batch=True)`", "vision:monai_batch_dice"),
        ("segmentation-models-pytorch", "segmentation-models-pytorch", "Unet, `LovaszLoss`", "vision:smp_lovasz"),
        ("segmentation-models-pytorch", "segmentation-models-pytorch", "Unet, Dice + cross-entropy", "vision:smp_sum"),
        ("torchgeo", "torchgeo", "`SemanticSegmentationTask`, cross-entropy", "vision:torchgeo_segmentation"),
        ("torchgeo", "torchgeo", "`SemanticSegmentationTask`, Jaccard", "vision:torchgeo_jaccard"),
        (
            "torch-uncertainty",
            "torch-uncertainty",
            "`ClassificationRoutine`",
            "vision:torch_uncertainty_classification",
        ),
        ("torch-uncertainty", "torch-uncertainty", "the same, its own mixup", "vision:torch_uncertainty_mixup"),
        ("torch-uncertainty", "torch-uncertainty", "deep ensemble of three", "vision:torch_uncertainty_ensemble"),
        ("chemprop", "chemprop", "`MPNN`, regression on molecules", "graphs:chemprop"),
        ("PyTorch Geometric", "torch-geometric", "GCN, classes of graphs", "graphs:torch_geometric"),
        ("PyTorch Geometric", "torch-geometric", "GCN, classes of nodes", "graphs:torch_geometric_nodes"),
        ("lightly", "lightly", "SimCLR, `NTXentLoss`", "pairs:lightly_simclr"),
        ("lightly", "lightly", "SimSiam, `NegativeCosineSimilarity`", "pairs:lightly_simsiam"),
        ("lightly", "lightly", "Barlow Twins", "pairs:lightly_barlow"),
        ("pytorch-metric-learning", "pytorch-metric-learning", "`TripletMarginLoss`", "pairs:metric_learning_triplet"),
        ("pytorch-metric-learning", "pytorch-metric-learning", "`ArcFaceLoss`", "pairs:metric_learning_arcface"),
        ("pytorch-forecasting", "pytorch-forecasting", "Temporal Fusion Transformer", "series:pytorch_forecasting_tft"),
        ("pytorch-forecasting", "pytorch-forecasting", "N-BEATS", "series:pytorch_forecasting_nbeats"),
        ("darts", "darts", "N-BEATS", "series:darts"),
        ("neuralforecast", "neuralforecast", "MLP, windows of series", "series:neuralforecast"),
        ("neuralforecast", "neuralforecast", "MLP, sampled windows", "series:neuralforecast_sampled"),
        ("pytorch-tabular", "pytorch-tabular", "category embedding, classes", "series:pytorch_tabular"),
    )
)


def tried(project: Project, folder: Path) -> dict[str, Any]:
    """The figures of one training, or what stopped it."""
    output = folder / f"{project.where.replace(':', '-')}.json"
    command = [sys.executable, str(HERE / "compat" / "one.py"), project.where, str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": "TimeoutExpired", "message": "not done in ten minutes", "remark": ""}
    if not output.exists():
        return {"error": "no figures", "message": ran.stderr.strip().splitlines()[-1], "remark": ""}
    return json.loads(output.read_text())


def cells(project: Project, row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    version = importlib.metadata.version(project.package) if project.package else "-"
    head = [project.name, version, project.trains]
    remarks = [row["remark"]] if row["remark"] else []
    if "error" in row:
        is_refused = row["error"] == "MisconfigurationException"
        remarks.append(
            row["message"].split("; ")[0] if is_refused else f"{row['error']}: {row['message'].splitlines()[0]}"
        )
        return [*head, "refused" if is_refused else "fails", "-", "-", "-", "; ".join(remarks)]
    ids = f"{row['right_ids']} of {row['batches']}"
    observed = observes(row)
    if row["correlation"] is not None:
        observed += f", r = {row['correlation']:.6f}"
    elif row["parts"] is not None:
        remarks.append(f"the shares add up to the loss within {error_of(row['parts'])}")
    reference = "-" if row["reference"] is None else error_of(row["reference"])
    gradient = f"{error_of(row['gradient'])} ({row['unweighted']:.2f})"
    return [*head, ids, gradient, observed, reference, "; ".join(remarks)]


def error_of(difference: float) -> str:
    return f"{difference:.0e}" if difference else "0"


def observes(row: dict[str, Any]) -> str:
    """What is recorded of a sample, in three words."""
    if "norm" in row["observes"]:
        return "norm of the gradient"
    return (
        "a part of the loss" if "a part" in row["observes"] else "its loss" if row["how"] != "output" else "its share"
    )


HEAD = (
    "project",
    "version",
    "what was trained",
    "ids right",
    "gradient",
    "observed of a sample",
    "reference",
    "remarks",
)


def page(lines: list[list[str]], projects: int) -> str:
    """The documentation's page."""
    version = importlib.metadata.version
    machine = f"{os.cpu_count()} cores of {processor()}, one thread a training, Python {platform.python_version()}"
    table = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
    worked = [line for line in lines if line[4] != "-"]
    return f"""# Works with

{len(lines)} small trainings of {projects} projects, each for two epochs with random weights and random subsets of synthetic
data. {len(worked)} of them trained; the others are refused before the first update, or fail as their line says.

| {" | ".join(HEAD)} |
|{"---|" * len(HEAD)}
{table}

- **ids right**: in how many batches the recorded indices are those of the data in the batch, read from the data.
- **gradient**: the largest relative error of what the optimiser sees in a step, against the weighted loss computed
  independently. In brackets is the smallest error that leaving the weights out would give.
- **observed**: with the correlation to the independent value of each sample. *Its loss* is the loss as trained, *its share*
  what a sample counts for in a loss that couples the batch.
- **reference**: the relative difference of the reference set's mean loss, where there was one.

The spy in `scripts/compat/spy.py` shares no code with the package's capture. A loss that is a sum over samples is computed
for each sample. That is done by the project's own function, or by a training step on that sample alone. Where a loss couples
samples, rows of the gradient at the network's output are weighted. The package does so too where it observes the norm. Where
the loss has rows of its own, as `TripletMarginLoss` has, its weights act on these, and the two are not comparable.

A step that draws or shuffles its samples anew, and has as many as the batch, is not recognised. neuralforecast with
`windows_batch_size` equal to `batch_size` trains, but weights and losses are then those of other samples.

Not tried: lightning-bolts 0.7.0, which pip cannot install beside Lightning 2.6. Nor torchgeo from 0.9 and scvi-tools 1.5,
which need Python 3.12. Nothing is said of data sets, pretrained weights or long trainings of these projects.

{datetime.date.today().isoformat()}, by `make compat`: {machine}; torch {version("torch")}, Lightning {version("lightning")},
torchmetrics {version("torchmetrics")}, alignprune-pl {version("alignprune-pl")} at commit {commit()}.
The versions are pinned in `scripts/compat/requirements.txt`.
"""


def commit() -> str:
    command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names of projects; all by default, and only then the page")
    parser.add_argument("--no-page", action="store_true")
    arguments = parser.parse_args()
    chosen = [one for one in PROJECTS if not arguments.names or any(name in one.where for name in arguments.names)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [tried(one, Path(folder)) for one in track(chosen, "Training", console=Console(stderr=True))]
    lines = [cells(one, row) for one, row in zip(chosen, rows, strict=True)]
    table = Table(*HEAD[:-1])
    for line in lines:
        table.add_row(*line[:-1])
    Console(width=160).print(table)
    for line in lines:
        if line[4] == "-":
            print(f"{line[0]}, {line[2]}: {line[-1]}")
    if not arguments.names and not arguments.no_page:
        PAGE.write_text(page(lines, len({one.name for one in chosen})))
        print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
