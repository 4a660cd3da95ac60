"""The bench of an epoch's end measures every score with every policy, and --check fails where a bar is missed."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import SimpleNamespace

import pytest

from alignprune_pl.policies import POLICIES
from alignprune_pl.scores import SCORES
from helpers import ROOT, run_script


@cache
def measured(*command: str):
    """What the bench measures in a process of its own, once for all tests."""
    return run_script(command[1], *command[2:], cwd=ROOT)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = importlib.import_module("bench_selection")
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=lambda command, **_: measured(*command)))
    arguments = ["--samples", "2000", "--rounds", "1", "--threads", "1", "--check"]
    monkeypatch.setattr(sys, "argv", ["bench_selection.py", *arguments])
    return module


def test_every_score_and_policy_is_measured_at_every_size(bench, monkeypatch, capsys):
    # Nothing is timed here: at this size the bars mean nothing.
    for bar, value in {"KMEANS_RATIO": 0, "PASSES": 1e9, "SPEARMAN_PASSES": 1e9}.items():
        monkeypatch.setattr(bench, bar, value)
    bench.main()
    printed = capsys.readouterr().out
    pairs, sizes = printed.split("ns a sample")
    for score in SCORES.names():
        cells = next(line for line in pairs.splitlines() if f"│ {score} " in line).split("│")[2:-1]
        assert len(cells) == len(POLICIES.names())
        assert all(cell.strip().isdigit() for cell in cells)
        assert f"│ {score} " in sizes
    assert all(f"plan: {policy} " in sizes for policy in POLICIES.names())
    assert "16,000 samples" in sizes
    assert "missed" not in printed


def test_a_missed_bar_is_named_and_fails_the_check(bench, monkeypatch, capsys):
    for bar, value in {"KMEANS_RATIO": 1e9, "PASSES": 1e-9, "SHUFFLES": 1e-9, "GIGABYTES": 1e-9}.items():
        monkeypatch.setattr(bench, bar, value)
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert end.value.code == 1
    printed = capsys.readouterr().out
    for words in (
        "missed: k-means, DAS, 5 groups: ratio",
        "missed: das in seta, 2,000 samples",
        "16,000 samples: ",
        "16,000 samples take",
    ):
        assert words in printed
