"""Two gloo processes of which each has its own samples alone: together they select and learn what one would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from alignprune_pl import TrajectoryStore
from alignprune_pl.core.plan import permutation
from alignprune_pl.core.streams import stream
from helpers import ROOT, N
from test_ddp import check_goes_on_in_steps
from two_processes import run_part
from two_shards import EPOCHS, HOSTS, MASK, every_epoch, gradient, held, large_run, rank, selection

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


def run(part, folder):
    return run_part(part, folder, rank)


@cache
def one_process(host):
    """What one process selects, with a host or with a score that remembers."""
    return selection("infobatch", "ema_loss") if host == "ema_loss" else selection(host)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run("selection", tmp_path_factory.mktemp("selection"))


@pytest.mark.parametrize("host", [*HOSTS, "ema_loss"])
def test_two_ranks_select_together_what_one_does_with_the_same_losses(ranks, host):
    alone = one_process(host)
    for epoch in range(EPOCHS):
        one, two = (ranks[r][host]["selected"][epoch] for r in (0, 1))
        assert {sample % 2 for sample, _ in one} <= {0}
        assert {sample % 2 for sample, _ in two} <= {1}
        assert sorted([*map(tuple, one), *map(tuple, two)]) == alone["selected"][epoch]
    sizes = {len(epoch) for epoch in alone["selected"]}
    assert sizes == {N} if host == "none" else min(sizes) < N
    losses = [ranks[i % 2][host]["losses"][i // 2] for i in range(N)]
    assert losses == alone["losses"]


@pytest.mark.parametrize("host", HOSTS)
def test_each_kept_sample_is_trained_once_and_ranks_have_as_many_batches(ranks, host):
    uneven = 0
    for epoch in range(EPOCHS):
        trained = [ranks[r][host]["trained"][epoch] for r in (0, 1)]
        kept = [[sample for sample, _ in ranks[r][host]["selected"][epoch]] for r in (0, 1)]
        assert len(trained[0]) == len(trained[1]) == max(map(len, kept))
        for r, (samples, own) in enumerate(zip(trained, kept, strict=True)):
            assert sorted(samples[: len(own)]) == own  # what is repeated comes last
            assert set(samples) == set(own)
            order = permutation(len(own), stream(1, "order", epoch, r)).tolist()  # of the rank's own
            assert samples[: len(own)] == [own[place] for place in order]
        uneven = max(uneven, abs(len(kept[0]) - len(kept[1])))
    assert uneven > (0 if host == "none" else 1)


@pytest.mark.parametrize("host", HOSTS)
def test_figures_are_of_all_ranks(ranks, host):
    alone = one_process(host)
    for name in ("history", "summary"):
        assert ranks[0][host][name] == ranks[1][host][name] == alone[name]
    for epoch, row in enumerate(alone["history"]):
        samples = [sample for sample, _ in alone["selected"][epoch]]
        assert row["kept"] == len(samples)
        assert row["noise_kept"] == pytest.approx(float(MASK[samples].float().mean()))
        assert not {"auroc", "average_precision"} & set(row)


def test_the_gradient_of_a_step_is_the_mean_over_all_ranks_of_weighted_samples(tmp_path):
    ranks = run("gradients", tmp_path)
    assert ranks[0]["gradients"] == ranks[1]["gradients"]
    step, padded, weights_seen = 0, 0, set()
    for epoch in range(3):
        seen = [set(), set()]
        batches = [[batch for e, batch in rank["batches"] if e == epoch] for rank in ranks]
        for pair in zip(*batches, strict=True):
            wanted = []
            for r, batch in enumerate(pair):
                weights = [ranks[r]["weights"][epoch][str(i)] if i not in seen[r] else 0.0 for i in batch]
                padded += weights.count(0.0)
                weights_seen |= set(weights)
                seen[r] |= set(batch)
                wanted.append(gradient(batch, weights))
            torch.testing.assert_close(torch.tensor(ranks[0]["gradients"][step]), sum(wanted) / 2, rtol=1e-4, atol=1e-6)
            step += 1
    assert step == len(ranks[0]["gradients"])
    # What is repeated with weight zero is recorded no second time, and in no other epoch.
    for rank_ in ranks:
        assert rank_["observed"] == [len(epoch) for epoch in rank_["weights"]]
    assert padded > 1
    assert weights_seen == {0.0, 1.0, 2.0}


def test_a_resumed_run_goes_on_as_the_uninterrupted_one_on_as_many_ranks(tmp_path):
    ranks = run("resume", tmp_path)
    check_goes_on_in_steps(ranks)
    assert ranks[0]["whole"]["plan"] != ranks[1]["whole"]["plan"]


def test_losses_that_are_not_finite_are_counted_over_all_ranks_once(tmp_path):
    for rank_ in run("nonfinite", tmp_path):
        assert rank_["counts"] == [[9, 18, 27], [9, 18, 27]]


def test_one_process_goes_on_from_the_checkpoint_of_two(tmp_path):
    ranks = run("saves", tmp_path)
    state = torch.load(tmp_path / "two" / "2.ckpt")["callbacks"]["AlignPrune"]
    store = TrajectoryStore(N, window=3)
    store.load_state_dict(state["store"])  # the form is that of a store of all samples
    assert store.epochs == 3
    alone = one_process("ema_loss")
    resumed = selection("infobatch", "ema_loss", ckpt_path=tmp_path / "two" / "2.ckpt")
    assert resumed["selected"] == alone["selected"][3:]
    for name in ("history", "losses"):
        assert resumed[name] == alone[name]
    assert ranks[0]["history"] == alone["history"]
    (within,) = (tmp_path / "steps").glob("*.ckpt")
    with pytest.raises(MisconfigurationException, match="with 1 samples a batch on 2 ranks, but this run has 1 on 1"):
        selection("infobatch", "ema_loss", ckpt_path=within)


def test_two_processes_go_on_from_the_checkpoint_of_one(tmp_path):
    within = ModelCheckpoint(tmp_path / "one", filename="within", every_n_train_steps=210, save_top_k=1, monitor=None)
    alone = selection("infobatch", "ema_loss", every_epoch(tmp_path / "one"), within, enable_checkpointing=True)
    ranks = run("goes_on", tmp_path)
    for epoch in range(3, EPOCHS):
        both = [tuple(item) for rank in ranks for item in rank["selected"][epoch - 3]]
        assert sorted(both) == alone["selected"][epoch]
    for rank_ in ranks:
        assert rank_["history"] == alone["history"]
    assert [ranks[i % 2]["losses"][i // 2] for i in range(N)] == alone["losses"]


def test_a_rank_holds_its_part_and_exchanges_nothing_that_grows_with_the_samples(tmp_path):
    for rank_ in run("sizes", tmp_path):
        # The border of a selection may be found a digit earlier, but no number of numbers is another one.
        assert set(rank_["told of 80000"]) == set(rank_["told of 160000"])
        assert max(rank_["told of 80000"]) < 80_000
        for n in (80_000, 160_000):
            part = rank_[f"held of {n}"]
            assert part < 0.55 * held(large_run(n)._run)
            assert part < 60 * n / 2


def test_the_measuring_script_runs_and_tells_what_both_processes_hold(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PL_GLOBAL_SEED"}
    for arguments in ([], ["--sharded"]):
        command = [sys.executable, str(ROOT / "scripts/measure_sharded_run.py"), "--samples", "5000", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        told = re.findall(r"rank (\d): [\d,]+ MB more at the peak, .*; kept 5,000, (\d,\d+), \d,\d+", done.stdout)
        assert sorted(rank_ for rank_, _ in told) == ["0", "1"]
        assert len({kept for _, kept in told}) == 1


def test_the_first_rank_writes_the_state_and_others_give_none(tmp_path):
    first, second = run("states", tmp_path)
    assert min(first["given"]) > 10 * N
    assert second["given"] == [0, 0]
    for rank_, own in ((first, 102), (second, 101)):
        assert rank_["state"] == rank_["failed"] == {}
        assert rank_["suspicion"] == own
        assert "got 1 samples for 2 processes, but each owns at least one" in rank_["few"]
        assert "The ranks plan epoch 0 with other policies, scores or seeds" in rank_["seeds"]
