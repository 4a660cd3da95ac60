"""What a review of suspected labels is worth: whether probabilities hold, and how many labels a hundred decisions mend.

python scripts/review_worth.py RUN ... [--full RUN ...] [--folds 5] [--images FOLDER]
python scripts/review_worth.py RUN ... --decide 2000

The runs are of calibrated pruning, on labels of which it is known which are wrong. Those of one data set and noise differ in
their seed. With --full, runs of pruning=none with the same data, noises and seeds, the known labels play the reviewer, who
decides on a hundred labels at a time in the order that is compared:

- random;
- loss alone: that of full training, the highest first;
- cleanlab: its label quality, by a cross-validation of five networks that are trained plainly for 5 epochs;
- ours: by the probability that the audit tells;
- ours, as decided: the same, moved after each hundred by how the decisions on each pair of classes fell, as the page does.

With --decide the known labels decide on the first so many suspects, and the decisions are kept in the run's folder, as
alignprune-audit RUN --apply keeps a person's.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.core.mixture import wrong_probability
from alignprune_pl.report import RunFiles, read_run
from alignprune_pl.report.decisions import Decision, keep_decisions
from compare_cleanlab import check, check_installed, cross_validated
from tables import markdown, spread

BINS, AT_A_TIME, SHOWN = 15, 100, (500, 1000, 2000, 4000, 6000, 8000)
DECIDED_AT = "2026-01-01T00:00:00Z"  # by nobody, so that a person's decision is newer
PULL = 100  # decisions of a pair of classes that are made up, as in the page
COLOURS = {
    "random": "#59636e",
    "loss alone": "#d55e00",
    "cleanlab": "#b0579a",
    "ours": "#0072b2",
    "ours, as decided": "#00875f",
}


def calibration_error(probability: np.ndarray, wrong: np.ndarray) -> float:
    """The expected calibration error, with bins of equal width (Guo et al., ICML 2017), in percent."""
    at = np.minimum((probability * BINS).astype(int), BINS - 1)
    apart = [abs(probability[at == b].sum() - wrong[at == b].sum()) for b in range(BINS)]
    return 100 * sum(apart) / len(wrong)


def of_scores(run: RunFiles) -> np.ndarray:
    """What the scores alone and the estimated rate say: two normal distributions."""
    return wrong_probability(torch.from_numpy(run.suspicion), run.noise_rate).numpy()


def odds(share: np.ndarray) -> np.ndarray:
    share = share.clip(1e-4, 1 - 1e-4)
    return np.log(share / (1 - share))


def mended(order: Iterator[np.ndarray], wrong: np.ndarray) -> np.ndarray:
    """How many wrong labels each hundred decisions have found, summed."""
    return np.cumsum([wrong[at].sum() for at in order])


def fixed(ranking: np.ndarray) -> Iterator[np.ndarray]:
    order = np.argsort(-ranking, kind="stable")
    for start in range(0, max(SHOWN), AT_A_TIME):
        yield order[start : start + AT_A_TIME]


def as_decided(run: RunFiles, wrong: np.ndarray) -> Iterator[np.ndarray]:
    """The likeliest first, by the probability moved by what was decided of the same given and suggested class."""
    probability, classes = run.wrong_probability, len(run.classes)
    pair = run.labels["label"] * classes + run.record["predicted"]
    first, left = odds(probability), np.ones(len(pair), dtype=bool)
    now = first
    for _ in range(0, max(SHOWN), AT_A_TIME):
        rest = np.flatnonzero(left)
        chosen = rest[np.argsort(-now[rest], kind="stable")[:AT_A_TIME]]
        left[chosen] = False
        yield chosen
        sums = (np.bincount(pair[~left], part[~left], classes**2) for part in (left + 1.0, probability, wrong))
        count, expected, found = sums
        mean = np.divide(expected, count, out=np.full(len(count), 0.5), where=count > 0)
        now = first + (odds((found + PULL * mean) / (count + PULL)) - odds(mean))[pair]


def reviews(run: RunFiles, full: RunFiles, folds: int) -> dict[str, np.ndarray]:
    from cleanlab.rank import get_label_quality_scores  # after main has said how to get it

    wrong, labels = run.mask, run.labels["label"]
    if not np.array_equal(full.labels["label"], labels):
        raise ValueError(f"{full.folder} was trained on other labels than {run.folder}; give runs of the same seeds.")
    steps = np.arange(1, max(SHOWN) // AT_A_TIME + 1)
    return {
        "random": steps * AT_A_TIME * wrong.mean(),
        "loss alone": mended(fixed(-full.record["p_label"]), wrong),
        "cleanlab": mended(fixed(-get_label_quality_scores(labels, cross_validated(run, folds, 5))), wrong),
        "ours": mended(fixed(run.wrong_probability + 1e-6 * ranks(run.suspicion)), wrong),
        "ours, as decided": mended(as_decided(run, wrong), wrong),
    }


def ranks(values: np.ndarray) -> np.ndarray:
    """In [0, 1), for samples of one probability."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") / len(values)


def draw_reliability(groups: dict[str, list[RunFiles]]) -> Figure:
    figure = Figure(figsize=(2.4 * len(groups), 2.9), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    kinds = {"scores alone": ("#d55e00", of_scores), "measured": ("#0072b2", lambda run: run.wrong_probability)}
    for axes, (name, runs) in zip(panels, groups.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="#59636e", linewidth=1, linestyle=":")
        for kind, (colour, told) in kinds.items():
            probability = np.concatenate([told(run) for run in runs])
            wrong = np.concatenate([run.mask for run in runs])
            parts = np.array_split(np.argsort(probability, kind="stable"), BINS)
            points = [(probability[part].mean(), wrong[part].mean()) for part in parts]
            axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, linewidth=1.4, label=kind)
        axes.set(title=name, xlabel="probability told", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("share that is wrong")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def draw_reviews(curves: dict[str, dict[str, np.ndarray]]) -> Figure:
    figure = Figure(figsize=(5.2 * len(curves), 3.4), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for who, values in found.items():
            made = AT_A_TIME * np.arange(1, values.shape[1] + 1)
            axes.plot(made, values.mean(axis=0), color=COLOURS[who], label=who, linewidth=1.8)
        axes.set(title=name, xlabel="decisions", ylabel="wrong labels mended")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    return figure


def decide(run: RunFiles, first: int) -> Path:
    """Keep what the known labels say of the first suspects; the file of it."""
    given, clean = run.labels["label"], run.labels["clean_label"]
    decisions = []
    for at in sorted(run.issues[:first].tolist()):
        label = None if given[at] == clean[at] else int(clean[at])
        word = "keep" if label is None else "relabel"
        decisions.append(Decision(int(run.labels["train_index"][at]), word, label, DECIDED_AT))
    return keep_decisions(run, decisions)


def by_noise(folders: list[Path]) -> dict[str, list[RunFiles]]:
    """Runs whose wrong labels are known, by where these come from."""
    found: dict[str, list[RunFiles]] = {}
    for run in map(read_run, folders):
        check(run, 0)
        found.setdefault(name_of(run), []).append(run)
    return found


def name_of(run: RunFiles) -> str:
    """Whose labels these are, or which noise made them."""
    return run.config["noise"].get("annotation") or run.summary["options"]["noise"]


@sentences()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="of finished runs of calibrated pruning")
    parser.add_argument("--full", type=Path, nargs="+", default=[], help="of full training, for the reviews")
    parser.add_argument("--folds", type=int, default=5, help="of cleanlab's cross-validation")
    parser.add_argument("--decide", type=int, metavar="N", help="keep decisions on the first so many suspects instead")
    parser.add_argument("--images", type=Path, help="the folder that gets probabilities.png and review-worth.png")
    arguments = parser.parse_args()
    if arguments.full:
        check_installed()
    groups, full = by_noise(arguments.folder), by_noise(arguments.full)
    if arguments.decide is not None:
        for run in (run for runs in groups.values() for run in runs):
            print(os.path.relpath(decide(run, arguments.decide)))
        return
    body = []
    for name, runs in groups.items():
        rates = [(100 * run.mask.mean(), 100 * (run.noise_rate or 0)) for run in runs]
        errors = [
            [calibration_error(told, run.mask) for told in (of_scores(run), run.wrong_probability)] for run in runs
        ]
        body.append([name, *(spread(column) for column in (*zip(*rates, strict=True), *zip(*errors, strict=True)))])
    head = ["labels", "wrong, %", "estimated, %", "calibration error, scores alone, %", "measured, %"]
    print("\n".join(markdown(head, body)))
    pictures = {"probabilities.png": draw_reliability(groups)}
    curves: dict[str, dict[str, np.ndarray]] = {}
    for name, others in full.items():
        seeds = {run.config["seed"]: run for run in groups.get(name, [])}
        pairs = [(seeds[other.config["seed"]], other) for other in others if other.config["seed"] in seeds]
        found = [reviews(run, other, arguments.folds) for run, other in pairs]
        curves[name] = {who: np.stack([of_one[who] for of_one in found]) for who in found[0]}
        rows = [
            [who, *(spread((100 * values[:, at // AT_A_TIME - 1] / at).tolist()) for at in SHOWN)]
            for who, values in curves[name].items()
        ]
        print(f"\n{name}: wrong labels mended per hundred decisions, of the first so many\n")
        print("\n".join(markdown(["order", *(f"{at:,}" for at in SHOWN)], rows)))
    if curves:
        pictures["review-worth.png"] = draw_reviews(curves)
    if arguments.images:
        for file, figure in pictures.items():
            figure.savefig(arguments.images / file, dpi=160, metadata={"Software": None})


if __name__ == "__main__":
    main()
