"""How well each score finds the wrong labels, epoch by epoch, in the trajectories that runs have recorded.

python scripts/train.py dataset=fashion_mnist noise=sym50 trainer.max_epochs=30 callback.window=30
python scripts/compare_scores.py RUN_DIR... [--epochs 5,10,20,30] [--window 10] [--markdown]

A run keeps all its losses if its window is as long as the run. Each epoch is then recorded again, and every score asked.
Of a run whose score observes something else than losses there is its own score alone, as the run has measured it.
There is a table for each kind of run, a policy under a noise, with the mean and standard deviation over those given.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.core.contracts import Scores
from alignprune_pl.core.epoch_metrics import noise_auroc, noise_average_precision
from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.report.run_files import SUMMARY, read_config, read_epochs, read_labels, read_summary
from alignprune_pl.report.settings import differing, settings_of
from alignprune_pl.scores import SCORES
from tables import markdown, on_terminal, spread

FIGURES = {"AUROC": noise_auroc, "average precision": noise_average_precision}
REGISTERED = ("loss", "mean_loss", "ema_loss", "trajectory", "das", "loss_difference")


@dataclass(frozen=True)
class Recorded:
    """What a run has recorded.

    Attributes:
        kind: Its policy and noise.
        settings: All others but the seed and the score, by name.
        epochs: T.
        own: By figure, what the run has measured of its own score in each epoch, in [0, 1], with the score's name; empty
            where the losses are known.
        losses: float32[n, T], NaN where a sample was not observed.
        reference: float32[T], NaN where there is no reference.
        mask: bool[n], the wrong labels.
        labels: int64[n], as they are given.
    """

    kind: str
    settings: dict[str, str]
    epochs: int
    own: dict[str, dict[str, list[float]]]
    losses: Tensor
    reference: Tensor
    mask: Tensor
    labels: Tensor


def read(run_dir: Path) -> Recorded:
    """The trajectories of a run.

    Raises:
        SystemExit: If they are not there as a whole, or nobody knows which labels are wrong.
    """
    checkpoint, summary_file = run_dir / "checkpoints" / "last.ckpt", run_dir / SUMMARY
    if not (checkpoint.exists() and summary_file.exists()):
        raise SystemExit(
            f"error: {run_dir} is given, but the folder of a finished run with its checkpoints/last.ckpt is expected."
        )
    summary, labels = read_summary(run_dir), read_labels(run_dir)
    state = next(s for s in torch.load(checkpoint, weights_only=True)["callbacks"].values() if "store" in s)["store"]
    is_of_losses = summary.get("observes", "loss") == "loss"
    if is_of_losses and state["epochs"] > state["window"]:
        raise SystemExit(
            f"error: {run_dir} is given, but a run that remembers all its epochs is expected, and this one remembers "
            f"{state['window']} of {state['epochs']}; train it with callback.window={state['epochs']}."
        )
    if "noise_mask" not in labels or not labels["noise_mask"].any():
        raise SystemExit(f"error: {run_dir} is given, but a run with labels that are known to be wrong is expected.")
    store = TrajectoryStore(state["num_samples"], state["window"], state["ring"].dtype, len(state["pair"]) > 0)
    store.load_state_dict(state)
    kind = f"{summary['options']['pruning']}, {summary['noise']}"
    mask, given = (torch.from_numpy(labels[name]) for name in ("noise_mask", "label"))
    own = {}
    if not is_of_losses:
        columns = zip(FIGURES, ("auroc", "average_precision"), strict=True)
        by_epoch = read_epochs(run_dir)
        own = {figure: {summary["observes"]: by_epoch[f"pruning/{c}"].tolist()} for figure, c in columns}
    settings = settings_of(read_config(run_dir))
    settings = {name: value for name, value in settings.items() if not name.startswith("score.")}
    return Recorded(kind, settings, state["epochs"], own, store.losses(), store.reference(), mask, given)


def check_alike(run_dir: Path, run: Recorded, first: Recorded, kind: str) -> None:
    """Refuse a run that cannot be averaged with another one.

    Raises:
        SystemExit: If they differ in more than seed and score.
    """
    names = sorted(differing(first.settings, run.settings))
    if names:
        raise SystemExit(
            f"error: {run_dir} is given, which is not of a kind with another run of {kind}: {', '.join(names)} "
            "differ; give runs that differ in their seed and score alone."
        )


def ranks(values: Tensor) -> Tensor:
    """Each value's place among all that are known, from 0 to 1 and equal for equal ones; the middle for the others."""
    known = ~values.isnan()
    place = torch.full_like(values, 0.5)
    order = values[known].unique(return_inverse=True)[1].float()
    place[known] = order / order.max().clamp(min=1) if len(order) else order
    return place


def in_class(values: Tensor, labels: Tensor) -> Tensor:
    """Each value's place among those of its label."""
    place = torch.empty_like(values)
    for c in labels.unique():
        place[labels == c] = ranks(values[labels == c])
    return place


# Features of the window, high where suspect.
FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "median in the window": lambda losses: losses.nanmedian(dim=1).values,
    "lowest in the window": lambda losses: _extreme(losses, torch.amin, torch.inf),
    "highest in the window": lambda losses: _extreme(losses, torch.amax, -torch.inf),
    "deviation in the window": lambda losses: _variance(losses).sqrt(),
}
COMBINATIONS = {"trajectory, das 9 : 1": (0.9, 0.1), "trajectory, das 1 : 1": (0.5, 0.5)}


def _extreme(losses: Tensor, of: Callable[..., Tensor], instead: float) -> Tensor:
    value = of(losses.nan_to_num(instead), dim=1)
    return torch.where(value.isfinite(), value, torch.nan)


def _variance(losses: Tensor) -> Tensor:
    return (losses - losses.nanmean(dim=1, keepdim=True)).square().nanmean(dim=1)


def replayed(run: Recorded, window: int) -> Iterator[TrajectoryStore]:
    """One store that remembers so many epochs, after each epoch of the run."""
    store = TrajectoryStore(len(run.mask), window, torch.float32)
    for losses, reference in zip(run.losses.T, run.reference.tolist(), strict=True):
        observed = (~losses.isnan()).nonzero().squeeze(1)
        store.record(observed, losses[observed])
        store.close_epoch(reference)
        yield store


def suspicions(run: Recorded, window: int) -> list[dict[str, Tensor]]:
    """Every score after every epoch, turned so that high is suspect, float32[n] each."""
    scores = {name: SCORES.make(name) for name in REGISTERED}
    by_epoch = []
    for store in replayed(run, window):
        found = {name: Scores(score(store), score.low_is).suspicion for name, score in scores.items()}
        found |= {name: feature(store.losses()) for name, feature in FEATURES.items()}
        found["trajectory, in its class"] = in_class(found["trajectory"], run.labels)
        for name, weights in COMBINATIONS.items():
            found[name] = sum(
                weight * ranks(found[part]) for weight, part in zip(weights, ("trajectory", "das"), strict=True)
            )
        by_epoch.append(found)
    return by_epoch


def measured(runs: list[Recorded], epochs: list[int], window: int) -> dict[str, list[list[str]]]:
    """The body of a table for each figure: a line a score, a column an epoch."""
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for run in runs:
        if run.own:
            for figure, scores in run.own.items():
                for (name, values), epoch in product(scores.items(), epochs):
                    found[figure, name, epoch].append(100 * values[epoch - 1])
            continue
        by_epoch = suspicions(run, window)
        for (figure, of), epoch in product(FIGURES.items(), epochs):
            for name, suspicion in by_epoch[epoch - 1].items():
                found[figure, name, epoch].append(100 * of(suspicion, run.mask))
    names = dict.fromkeys(name for _, name, _ in found)
    return {
        figure: [[name, *(spread(found[figure, name, epoch]) for epoch in epochs)] for name in names]
        for figure in FIGURES
    }


def counted(runs: list[Recorded]) -> str:
    """How many runs there are of losses and of another score, such as 3 + 3."""
    own = sum(bool(run.own) for run in runs)
    return " + ".join(str(count) for count in (len(runs) - own, own) if count)


@sentences()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--epochs", default="3,5,10,20,30", help="the epochs of the table, counted from 1")
    parser.add_argument("--window", type=int, default=10, help="the epochs that a score remembers")
    parser.add_argument("--markdown", action="store_true", help="Markdown tables instead of ones for the terminal")
    arguments = parser.parse_args()
    if not all(part.isdecimal() and int(part) > 0 for part in arguments.epochs.split(",")):
        raise SystemExit(f"error: --epochs {arguments.epochs} is given, but numbers from 1 are expected, such as 5,10.")
    if arguments.window < 2:
        raise SystemExit(f"error: --window {arguments.window} is given, but at least 2 epochs are expected.")
    kinds: dict[str, list[Recorded]] = defaultdict(list)
    for run_dir in arguments.run_dirs:
        run = read(run_dir)
        kinds[run.kind].append(run)
        check_alike(run_dir, run, kinds[run.kind][0], run.kind)
    for kind, runs in kinds.items():
        length = min(run.epochs for run in runs)
        epochs = [e for e in sorted({int(part) for part in arguments.epochs.split(",")}) if e <= length]
        if not epochs:
            raise SystemExit(f"error: --epochs {arguments.epochs} is given, but the runs end at epoch {length}.")
        for figure, body in measured(runs, epochs, arguments.window).items():
            title = f"{kind}: {figure} of each score, in percent, {counted(runs)} runs"
            head = ["score \\ after epoch", *map(str, epochs)]
            if arguments.markdown:
                print("\n".join([f"{title}:", "", *markdown(head, body), ""]))
            else:
                on_terminal(title, head, body)


if __name__ == "__main__":
    main()
