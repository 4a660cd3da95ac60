"""The bench of an epoch's end measures every score with every policy, and --check fails where a bar is missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from alignprune_pl.policies import POLICIES
from alignprune_pl.scores import SCORES

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def bench(before: str) -> subprocess.CompletedProcess[str]:
    arguments = ["--samples", "2000", "--rounds", "1", "--threads", "1", "--check"]
    code = f"import sys; import bench_selection as bench; {before}; sys.argv[1:] = {arguments}; bench.main()"
    return subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, timeout=300)


def test_every_score_and_policy_is_measured_at_every_size():
    # Nothing is timed here: at this size the bars mean nothing.
    done = bench("bench.KMEANS_RATIO = 0; bench.PASSES = bench.SPEARMAN_PASSES = 1e9")
    assert done.returncode == 0, done.stdout + done.stderr
    pairs, sizes = done.stdout.split("ns a sample")
    for score in SCORES.names():
        cells = next(line for line in pairs.splitlines() if f"│ {score} " in line).split("│")[2:-1]
        assert len(cells) == len(POLICIES.names())
        assert all(cell.strip().isdigit() for cell in cells)
        assert f"│ {score} " in sizes
    assert all(f"plan: {policy} " in sizes for policy in POLICIES.names())
    assert "16,000 samples" in sizes
    assert "missed" not in done.stdout


def test_a_missed_bar_is_named_and_fails_the_check():
    done = bench("bench.KMEANS_RATIO = 1e9; bench.PASSES = bench.SHUFFLES = 1e-9; bench.GIGABYTES = 1e-9")
    assert done.returncode == 1
    for words in (
        "missed: k-means, DAS, 5 groups: ratio",
        "missed: das in seta, 2,000 samples",
        "16,000 samples: ",
        "16,000 samples take",
    ):
        assert words in done.stdout
