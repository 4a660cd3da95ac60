"""The simulation of many ranks and real processes select the same, and --check fails where the formula does not hold."""

from __future__ import annotations

import re
import sys

import pytest

from helpers import load_script

SAMPLES = "200003"


@pytest.fixture
def script(monkeypatch):
    module = load_script("simulate_shards")
    monkeypatch.setitem(sys.modules, "simulate_shards", module)  # by which the processes that it starts know it
    monkeypatch.syspath_prepend(module.__file__.rpartition("/")[0])

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["simulate_shards.py", "--samples", SAMPLES, "--check", *arguments])
        module.main()

    run.module = module
    return run


def selections(printed):
    return set(re.findall(r"(infobatch|small_loss) keeps ([\d,]+) of sum ([\d,]*\d)", printed))


def test_many_ranks_in_turn_and_two_processes_select_the_same(script, capsys):
    printed = []
    for arguments in (["--ranks", "1"], ["--ranks", "5", "--window", "3"], ["--processes", "2"]):
        script(*arguments)
        printed.append(capsys.readouterr().out)
    assert selections(printed[0]) == selections(printed[1]) == selections(printed[2])
    assert len(selections(printed[0])) == 2
    assert "missed" not in "".join(printed)
    # Half of the samples of each of the two belong to the other.
    assert "process 1: trajectories 3.6 MB, 3.6 by the formula; losses 0.4 MB sent" in printed[2]
    assert "added up: 524,288, 524,288" in printed[1]


def test_what_is_not_as_the_formula_says_is_named_and_fails_the_check(script, monkeypatch, capsys):
    monkeypatch.setattr(script.module, "formula", lambda shard, window: shard.size)
    with pytest.raises(SystemExit) as end:
        script("--ranks", "2")
    assert end.value.code == 1
    assert "missed: rank 1 holds 3,600,080 bytes, not 100,001" in capsys.readouterr().out
