"""What an epoch's end costs: every score and policy on a million samples, and SeTa's k-means beside scikit-learn's.

python scripts/bench_selection.py [--samples 1280000] [--check]

Times are the best of some rounds, on the threads given. With --check the command fails where a bar is missed: k-means in
at most 1/50 of scikit-learn's time with an inertia of at most 1.001 times its own; score and plan at 1.28 million samples
and a window of 10 in 0.25 s (1 s with Spearman's correlation); eight times the samples in at most ten times the time; and
ten million samples within 3 GB in all.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans

from alignprune_pl.planner import Planner
from alignprune_pl.policies import POLICIES
from alignprune_pl.policies.kmeans import kmeans_1d
from alignprune_pl.scores import SCORES, AlignmentScore, Score
from alignprune_pl.trajectory import TrajectoryStore

WINDOW = 10
BASE, LARGE = 1_280_000, 10_240_000
SECONDS, SPEARMAN_SECONDS, GROWTH, GIGABYTES = 0.25, 1.0, 10.0, 3.0
KMEANS_RATIO, KMEANS_INERTIA = 50.0, 1.001


def scores_of_interest() -> dict[str, Score]:
    """Every registered score with its defaults, and the variants of DAS."""
    variants: dict[str, Score] = {name: SCORES.get(name)() for name in SCORES.names()}
    variants["das (mask)"] = AlignmentScore(missing="mask")
    variants["das (cosine)"] = AlignmentScore(correlation="cosine")
    variants["das (spearman)"] = AlignmentScore(correlation="spearman")
    return variants


def filled_store(n: int) -> TrajectoryStore:
    """Trajectories of a run that prunes three samples in ten: losses that fall, at different speeds."""
    generator = torch.Generator().manual_seed(0)
    store = TrajectoryStore(n, WINDOW)
    for epoch in range(WINDOW + 2):
        loss = torch.rand(n, generator=generator).log_().neg_().mul_(0.8**epoch)
        pruned = torch.rand(n, generator=generator) < (0.3 if epoch else 0.0)
        seen = (~pruned).nonzero().squeeze(1)
        store.record(seen, loss[seen])
        store.close_epoch(0.8**epoch)
    return store


def best(run: Callable[[], Any], rounds: int) -> float:
    """Seconds of the fastest of some rounds, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def one_epoch(policy: str, score: Score, store: TrajectoryStore) -> Callable[[], None]:
    """Score and plan as at the end of an epoch, a new one each time it is called."""
    planner = Planner(POLICIES.get(policy)(), score, seed=0)
    epochs = iter(range(1, 10**6))

    def run() -> None:
        if hasattr(score, "reset"):
            score.reset()
        scores, low_is = planner.scores(store)
        planner.make(scores, low_is, next(epochs), None, shuffles=True)

    return run


def measure(n: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of score and plan, by score and policy."""
    store = filled_store(n)
    return {
        name: {policy: best(one_epoch(policy, score, store), rounds) for policy in POLICIES.names()}
        for name, score in scores_of_interest().items()
    }


def measure_apart(n: int, rounds: int, threads: int) -> tuple[dict[str, dict[str, float]], float]:
    """The same in a process of its own, whose peak of memory in GB is then this one's alone."""
    command = [sys.executable, __file__, "--measure", str(n), "--rounds", str(rounds), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: measuring {n:,} samples failed:\n{done.stderr}")
    measured = json.loads(done.stdout)
    return measured["seconds"], measured["gigabytes"]


def inertia(values: torch.Tensor, groups: torch.Tensor) -> float:
    """Squares of the distances to the means of the groups, summed."""
    values, groups = values.double(), groups.long()
    means = torch.bincount(groups, weights=values) / torch.bincount(groups)
    return float((values - means[groups]).square().sum())


def bench_kmeans(n: int, rounds: int, missed: list[str]) -> Table:
    """SeTa's grouping beside scikit-learn's with its defaults, in turn on the same threads."""
    draw = torch.Generator().manual_seed(0)
    normal, uniform = torch.randn(n, generator=draw), torch.rand(n, generator=draw)
    data = {
        "losses, exponential": uniform.log().neg(),
        "losses, log-normal": normal.exp(),
        "losses, late: 95 % near 0": torch.where(uniform < 0.95, uniform * 0.01, normal.abs() * 3),
        "DAS": (2 * normal).tanh(),
    }
    table = Table(title=f"1-D k-means of {n:,} scores")
    for column in ("scores", "groups", "scikit-learn", "ours", "ratio", "inertia, ours / theirs"):
        table.add_column(column, justify="left" if column == "scores" else "right")
    for name, values in data.items():
        for groups in (5, 10):
            column = values.view(-1, 1).numpy()
            fits: list[Any] = []
            theirs = best(lambda c=column, g=groups, f=fits: f.append(KMeans(g, random_state=0).fit(c)), 2)  # type: ignore[misc]
            ours = best(lambda v=values, g=groups: kmeans_1d(v, g), 3 * rounds)  # type: ignore[misc]
            ratio = theirs / ours
            tightness = inertia(values, kmeans_1d(values, groups)) / inertia(values, torch.from_numpy(fits[-1].labels_))
            table.add_row(
                name, str(groups), f"{theirs:.3f} s", f"{ours * 1000:.1f} ms", f"{ratio:.0f}", f"{tightness:.4f}"
            )
            if ratio < KMEANS_RATIO or tightness > KMEANS_INERTIA:
                missed.append(f"k-means, {name}, {groups} groups: ratio {ratio:.0f}, inertia {tightness:.4f}")
    return table


def bench_plans(small: int, rounds: int, threads: int, missed: list[str]) -> Table:
    """Score and plan at two sizes."""
    large = small * (LARGE // BASE)
    seconds, _ = measure_apart(small, rounds, threads)
    many_seconds, gigabytes = measure_apart(large, 1, threads)
    table = Table(
        title=f"score + plan, {small:,} samples x {WINDOW} epochs, in ms (x: times that for {large:,} samples)",
        caption=f"{large:,} samples: at most {gigabytes:.2f} GB in all",
    )
    table.add_column("score")
    for policy in POLICIES.names():
        table.add_column(policy, justify="right")
    for name, by_policy in seconds.items():
        row = []
        for policy, second in by_policy.items():
            growth = many_seconds[name][policy] / second
            row.append(f"{second * 1000:.0f} (x{growth:.1f})")
            bar = (SPEARMAN_SECONDS if "spearman" in name else SECONDS) * small / BASE
            if second > bar or growth > GROWTH * (large / small) / (LARGE / BASE):
                missed.append(f"{name} in {policy}: {second:.3f} s (bar {bar:.2f} s), x{growth:.1f} for {large:,}")
        table.add_row(name, *row)
    if gigabytes > GIGABYTES * large / LARGE:
        missed.append(f"{large:,} samples take {gigabytes:.2f} GB (bar {GIGABYTES:.0f} GB)")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=BASE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        seconds = measure(arguments.measure, arguments.rounds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "gigabytes": peak}))
        return
    missed: list[str] = []
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(bench_kmeans(arguments.samples, arguments.rounds, missed))
    console.print(bench_plans(arguments.samples, arguments.rounds, arguments.threads, missed))
    print(f"{arguments.threads} threads, torch {torch.__version__}, best of {arguments.rounds} rounds")
    for line in missed:
        print(f"missed: {line}")
    if missed and arguments.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
