"""What a callback knows of a run that its copy has made, in another process or in this one."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alignprune_pl import AlignPrune
from helpers import N, Plain, make_data, make_loader, make_trainer


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    where = tmp_path_factory.mktemp("started")
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(
        [sys.executable, str(here / "started.py"), str(where)],
        check=True,
        timeout=200,
        capture_output=True,
        env=environment,
        cwd=where,
    )
    return json.loads((where / "said.json").read_text())


def test_what_processes_that_the_trainer_has_started_find_is_known_to_the_callers_objects(said):
    forked, notebook, spawned = said["runs"]
    assert spawned == forked
    assert forked["state"] == [16, 2]
    assert notebook["state"] == [16, 1]
    assert notebook["on disk"] > 0
    for name in ("history", "plan", "losses", "suspects", "policy", "summary", "on disk"):
        assert notebook[name] == said["alone"][name], name
    for run in said["runs"]:
        assert len(run["history"]) == run["rows"] == 5
        assert run["summary"]["saved"] == run["history"][-1]["saved"] > 0
        assert run["policy"] == run["suspects"]
        assert run["folder's"] == {**run["summary"], "test_loss": run["on disk"]}


def test_what_could_not_be_sent_back_is_refused_before_training(said):
    assert "could not be sent back from the processes that the strategy starts" in said["refused"]
    assert "define policy and score at the top of a module" in said["refused"]


def test_what_comes_back_may_be_large_and_of_a_callback_that_was_made_in_another_process(said):
    assert said["large"] == [20_000, 1]


def test_what_cannot_be_sent_in_the_end_costs_no_weights_and_is_told(said):
    message, is_same = said["lost"]
    assert "ran in another process, from which what it has found did not come back" in message
    assert is_same == "False"


def test_the_original_of_a_copy_that_ran_elsewhere_tells_so_too(said):
    assert "has not run itself, but a copy of it" in said["original"]


def fitted(prune, **trainer):
    run = make_trainer(prune, **trainer)
    run.fit(Plain(), make_loader(make_data()[0]))
    return run


def make(**arguments):
    return AlignPrune(make_data()[1], score="loss", seed=1, **arguments)


def test_a_callback_whose_copy_has_run_tells_where_to_ask():
    prune = make()
    ran = copy.deepcopy(copy.deepcopy(prune))
    fitted(ran)
    assert len(ran.history) == 5
    asked = [
        lambda: prune.history,
        prune.suspects,
        prune.summary,
        prune.suspicion,
        lambda: prune.plan,
        lambda: prune.store,
    ]
    for ask in asked:
        with pytest.raises(RuntimeError, match=r"not run itself, but a copy of it.*in trainer\.callbacks"):
            ask()
    fitted(prune)
    assert len(prune.history) == 5


def test_a_run_here_is_not_taken_for_one_that_was_lost_before():
    prune = make()
    prune._lost = "of an earlier run"
    with pytest.raises(RuntimeError, match=r"did not come back \(of an earlier run\)"):
        _ = prune.history
    fitted(prune)
    assert len(prune.history) == 5


def test_a_callback_that_ran_and_is_copied_answers_for_itself():
    prune = make()
    fitted(prune)
    fitted(copy.deepcopy(prune))
    assert len(prune.history) == 5


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda prune: pickle.loads(pickle.dumps(prune))])
def test_a_callback_that_ran_can_be_copied_and_its_copy_goes_on(copied, tmp_path):
    prune = make()
    run = fitted(prune, max_epochs=2)
    path = tmp_path / "half.ckpt"
    run.save_checkpoint(path)
    other = copied(prune)
    assert other.history == prune.history
    assert other.plan.digest() == prune.plan.digest()
    assert torch.equal(other.store.losses().nan_to_num(-1), prune.store.losses().nan_to_num(-1))
    assert len(other.suspicion()) == N
    assert len(other.state_dict()) == len(prune.state_dict()) > 0
    runs = []
    for callback in (other, make()):
        torch.manual_seed(0)
        make_trainer(callback, max_epochs=4).fit(Plain(), make_loader(make_data()[0]), ckpt_path=path)
        runs.append([row["kept"] for row in callback.history])
    assert runs[0] == runs[1]
    assert len(runs[0]) == 4
