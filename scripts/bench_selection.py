"""What an epoch's end costs: every score and policy on a million samples, and SeTa's k-means beside scikit-learn's.

python scripts/bench_selection.py [--samples 1280000] [--check]

Times are the best of some rounds, on the threads given. Beside them stands what the same machine can do in the same
process: one pass over the bytes of the trajectories, and one shuffle of as many indices. With --check the command fails
where a bar is missed: a score takes 6 passes at most (12 with Spearman's correlation) and a plan 3.5 shuffles, up to ten
million samples; k-means takes 1/50 of scikit-learn's time with an inertia of at most 1.001 times its own; ten million
samples stay within 3 GB in all.
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

from alignprune_pl.core.planner import Planner
from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.policies import POLICIES
from alignprune_pl.policies.kmeans import kmeans_1d
from alignprune_pl.scores import SCORES, AlignmentScore, Score

WINDOW = 10
BASE = 1_280_000
TIMES_BASE = (4, 8)  # larger sets: scores and plans apart
PASSES, SPEARMAN_PASSES, SHUFFLES, GIGABYTES = 6.0, 12.0, 3.5, 3.0
KMEANS_RATIO, KMEANS_INERTIA = 50.0, 1.001


def scores_of_interest() -> dict[str, Score]:
    """Every registered score with its defaults, and the variants of DAS."""
    variants: dict[str, Score] = {name: SCORES.get(name)() for name in SCORES.names()}
    variants["das (mask)"] = AlignmentScore(missing="mask")
    variants["das (cosine)"] = AlignmentScore(correlation="cosine")
    variants["das (spearman)"] = AlignmentScore(correlation="spearman")
    return variants


def filled_store(n: int, scores: dict[str, Score]) -> tuple[TrajectoryStore, dict[str, Any]]:
    """Trajectories of a run that prunes three samples in ten, and what scores remember of all epochs but the last."""
    generator = torch.Generator().manual_seed(0)
    store = TrajectoryStore(n, WINDOW)
    for epoch in range(WINDOW + 2):
        states = {name: scored(score, store) for name, score in scores.items()}
        # Losses that fall, and more slowly for some.
        loss = torch.rand(n, generator=generator).clamp_(min=1e-7).log_().neg_().mul_(0.8**epoch)
        seen = (torch.rand(n, generator=generator) >= (0.3 if epoch else 0.0)).nonzero().squeeze(1)
        store.record(seen, loss[seen])
        store.close_epoch(0.8**epoch)
    return store, states


def scored(score: Any, store: TrajectoryStore) -> dict[str, Any]:
    score(store)
    state: dict[str, Any] = score.state_dict()
    return state


def best(run: Callable[[], Any], rounds: int, before: Callable[[], Any] = lambda: None) -> float:
    """Seconds of the fastest of some rounds, after one to warm up; ``before`` each of them is not counted."""
    times = []
    for _ in range(rounds + 1):
        before()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


class Bench:
    """One store of ``n`` samples, and what it takes to score it and to plan by the score."""

    def __init__(self, n: int, rounds: int) -> None:
        self.scores = scores_of_interest()
        self.store, self.states = filled_store(n, self.scores)
        self.rounds = rounds

    def pair(self, policy: str, score: str) -> float:
        """Seconds of score and plan at the end of an epoch."""
        planner = self.planner(policy, score)
        epochs = iter(range(1, 10**6))
        return best(
            lambda: planner.make(self.store, planner.scores(self.store), next(epochs), None, True),
            self.rounds,
            self.back(score),
        )

    def score(self, score: str) -> float:
        """Seconds of the score alone."""
        planner = self.planner("none", score)
        return best(lambda: planner.scores(self.store), self.rounds, self.back(score))

    def plan(self, policy: str) -> float:
        """Seconds of the plan alone, by DAS."""
        planner = self.planner(policy, "das")
        scored, epochs = planner.scores(self.store), iter(range(1, 10**6))
        return best(lambda: planner.make(self.store, scored, next(epochs), None, True), self.rounds)

    def yardsticks(self) -> dict[str, float]:
        """Seconds of a pass over as many bytes as the trajectories have, and of a shuffle of as many indices."""
        n = self.store.num_samples
        ring, index = torch.ones(WINDOW, n, dtype=torch.bfloat16), torch.arange(n)
        return {
            "pass": best(lambda: ring.float().sum(dim=0), 3 * self.rounds),
            "shuffle": best(lambda: index[torch.randperm(n)], 3 * self.rounds),
        }

    def planner(self, policy: str, score: str) -> Planner:
        """Of a policy that is new and a score that is not."""
        return Planner(POLICIES.get(policy)(), self.scores[score], seed=0)

    def back(self, score: str) -> Callable[[], None]:
        """To what the score remembered before the last epoch."""
        part: Any = self.scores[score]
        return lambda: part.load_state_dict(self.states[score])


def measure(n: int, rounds: int, pairs: bool) -> dict[str, Any]:
    bench = Bench(n, rounds)
    yardsticks = bench.yardsticks()
    seconds: dict[str, Any]
    if pairs:
        seconds = {score: {policy: bench.pair(policy, score) for policy in POLICIES.names()} for score in bench.scores}
    else:
        seconds = {
            "scores": {score: bench.score(score) for score in bench.scores},
            "plans": {policy: bench.plan(policy) for policy in POLICIES.names()},
        }
    # The machine's speed may have changed meanwhile.
    yardsticks = {name: max(second, yardsticks[name]) for name, second in bench.yardsticks().items()}
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "yardsticks": yardsticks, "gigabytes": gigabytes}


def measure_apart(n: int, rounds: int, threads: int, pairs: bool) -> dict[str, Any]:
    """The same in a process of its own, whose peak of memory in GB is then this one's alone."""
    command = [sys.executable, __file__, "--measure", str(n), "--rounds", str(rounds), "--threads", str(threads)]
    done = subprocess.run([*command, *(["--pairs"] if pairs else [])], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: measuring {n:,} samples failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def bar(score: str, yardsticks: dict[str, float]) -> float:
    """The seconds that score and plan may take."""
    passes = SPEARMAN_PASSES if "spearman" in score else PASSES
    return passes * yardsticks["pass"] + SHUFFLES * yardsticks["shuffle"]


def shown(yardsticks: dict[str, float]) -> str:
    """What the machine can do."""
    return ", ".join(f"a {name} takes {1000 * second:.1f} ms" for name, second in yardsticks.items())


def inertia(values: torch.Tensor, groups: torch.Tensor) -> float:
    """Squares of the distances to the means of the groups, summed."""
    values, groups = values.double(), groups.long()
    means = torch.bincount(groups, weights=values) / torch.bincount(groups)
    return float((values - means[groups]).square().sum())


def bench_kmeans(n: int, rounds: int, missed: list[str]) -> Table:
    """SeTa's grouping beside scikit-learn's with its defaults, in turn on the same threads."""
    draw = torch.Generator().manual_seed(0)
    normal, uniform = torch.randn(n, generator=draw), torch.rand(n, generator=draw).clamp_(min=1e-7)
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


def bench_pairs(n: int, rounds: int, threads: int, missed: list[str]) -> Table:
    """Score and plan together, every score with every policy."""
    measured = measure_apart(n, rounds, threads, pairs=True)
    seconds, yardsticks = measured["seconds"], measured["yardsticks"]
    table = Table(title=f"score + plan of {n:,} samples x {WINDOW} epochs, in ms", caption=shown(yardsticks))
    table.add_column("score")
    for policy in POLICIES.names():
        table.add_column(policy, justify="right")
    for score, by_policy in seconds.items():
        table.add_row(score, *(f"{1000 * second:.0f}" for second in by_policy.values()))
        missed += [
            f"{score} in {policy}, {n:,} samples: {second:.3f} s (bar {bar(score, yardsticks):.3f} s)"
            for policy, second in by_policy.items()
            if second > bar(score, yardsticks)
        ]
    return table


def bench_sizes(n: int, rounds: int, threads: int, missed: list[str]) -> Table:
    """Scores and plans apart, for larger and larger sets."""
    sizes = [n, *(n * times for times in TIMES_BASE)]
    measured = [measure_apart(size, rounds, threads, pairs=False) for size in sizes]
    table = Table(
        title=f"ns a sample, {WINDOW} epochs", caption="memory: the peak of the whole process, libraries included"
    )
    table.add_column("score or plan")
    for size in sizes:
        table.add_column(f"{size:,} samples", justify="right")
    for part in ("scores", "plans"):
        for name in measured[0]["seconds"][part]:
            figures = [
                f"{1e9 * each['seconds'][part][name] / size:.0f}" for each, size in zip(measured, sizes, strict=True)
            ]
            table.add_row(name if part == "scores" else f"plan: {name}", *figures)
        table.add_section()
    for name in measured[0]["yardsticks"]:
        figures = [f"{1e9 * each['yardsticks'][name] / size:.0f}" for each, size in zip(measured, sizes, strict=True)]
        table.add_row(f"the machine: a {name}", *figures)
    table.add_row("memory", *(f"{each['gigabytes']:.2f} GB" for each in measured))
    for each, size in zip(measured, sizes, strict=True):
        seconds, yardsticks, gigabytes = each["seconds"], each["yardsticks"], each["gigabytes"]
        slowest = max(seconds["plans"], key=seconds["plans"].__getitem__)
        for score, second in seconds["scores"].items():
            total = second + seconds["plans"][slowest]
            most = bar(score, yardsticks)
            if total > most:
                missed.append(f"{score} + {slowest}, {size:,} samples: {total:.3f} s (bar {most:.3f} s)")
        if gigabytes > GIGABYTES:
            missed.append(f"{size:,} samples take {gigabytes:.2f} GB (bar {GIGABYTES:.0f} GB)")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=BASE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.rounds, arguments.pairs)))
        return
    missed: list[str] = []
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(bench_kmeans(arguments.samples, arguments.rounds, missed))
    for part in (bench_pairs, bench_sizes):
        console.print(part(arguments.samples, arguments.rounds, arguments.threads, missed))
    print(f"{arguments.threads} threads, torch {torch.__version__}, best of {arguments.rounds} rounds")
    for line in missed:
        print(f"missed: {line}")
    if missed and arguments.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
