"""Two gloo processes that read different shards of a stream: one plan, equally many batches, each sample trained once."""

from __future__ import annotations

import pytest
import torch

import stream_ranks
from helpers import N, make_data
from stream_ranks import rank
from two_processes import run_part

pytestmark = pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_part("stream", tmp_path_factory.mktemp("stream"), rank)


@pytest.fixture(scope="module")
def alone():
    return stream_ranks.alone()


def of_epoch(seen, epoch):
    return [batch for at, batch in seen["batches"] if at == epoch]


@pytest.mark.parametrize("kind", ["plain", "workers"])
def test_ranks_read_different_shards_have_equally_many_batches_and_train_each_kept_sample_once(ranks, kind):
    first, second = (seen[kind] for seen in ranks)
    for epoch in range(3):
        one, other = (of_epoch(seen, epoch) for seen in (first, second))
        assert len(one) == len(other)
        # A rank whose shard is over repeats its last batch, which does not count.
        own = [{i for batch in batches for i in batch} for batches in (one, other)]
        assert own[0] | own[1] == set(range(0, N, 1 + (epoch > 0)))
        assert own[0] & own[1] == set()
        assert {i % 3 for i in own[0]} == {0}
    assert first["keys"] == second["keys"] == list(range(N))
    assert first["digest"] == second["digest"]
    assert first["kept"] == second["kept"] == [N, 102, 102]
    assert first["full"] == second["full"] == [N] * 3
    assert first["losses"] == second["losses"]
    last = torch.tensor(first["losses"])[:, 2]
    assert last.tolist() == pytest.approx([i if i % 2 == 0 else -1 for i in range(N)], rel=1e-4)


def test_a_limit_and_dropped_batches_are_the_same_on_both_ranks(ranks):
    for kind, most in (("limited", 3), ("dropping", 8)):
        first, second = (seen[kind] for seen in ranks)
        for epoch in range(3):
            counts = [len(of_epoch(seen, epoch)) for seen in (first, second)]
            assert counts[0] == counts[1] <= most
        assert first["digest"] == second["digest"]
        assert first["kept"] == second["kept"]
        assert first["full"] == second["full"]


def test_the_selection_is_that_of_one_process_with_the_same_losses(ranks, alone):
    for seen in ranks:
        for kind in ("known", "calibrated"):
            for part in ("keys", "keep", "kept", "full"):
                assert seen[kind][part] == alone[kind][part], (kind, part)
        assert len(set(seen["known"]["kept"])) > 2
        assert seen["calibrated"]["rate"] == pytest.approx(alone["calibrated"]["rate"])
        assert seen["calibrated"]["kept"][1] < N


def test_the_gradient_of_a_batch_that_is_repeated_is_zero(ranks):
    """Both ranks end with the same parameters, though one has repeated batches."""
    first, second = (seen["plain"]["weights"] for seen in ranks)
    for name in first:
        if "running" not in name and "tracked" not in name:  # of batch norm, which each rank has for itself
            assert first[name] == second[name]


def test_a_rank_without_a_sample_ends_both(ranks):
    for seen in ranks:
        assert seen["single"].startswith("A rank has no sample of the training stream, while others have; split the st")


def test_a_resumed_run_goes_on_on_both_ranks_and_one_process_from_the_end_of_an_epoch(tmp_path):
    seen = run_part("resume", tmp_path, rank)
    for of_rank in seen:
        assert list(of_rank["steps"].values()) == [[True] * 4] * 3
    module = stream_ranks.Known()
    end = seen[0]["end"]
    prune = stream_ranks.fit(
        module,
        stream_ranks.Sharded(),
        policy=stream_ranks.InfoBatch(0.5),
        epochs=4,
        ckpt=str(tmp_path / f"s/{end}.ckpt"),
        devices=1,
        strategy="auto",
    )
    assert prune.plan.digest() == seen[0]["whole"]["digest"]
    assert [row["kept"] for row in prune.history] == seen[0]["whole"]["kept"]
    assert make_data()[0].tensors[0].shape[0] == N


def test_a_rank_of_whose_part_nothing_is_left_repeats_a_batch_also_where_it_has_had_none(tmp_path):
    """Of held samples, of an epoch that goes on after all of its part, of a plan that leaves all of that out."""
    for seen in run_part("nothing_left", tmp_path, rank):
        assert seen.pop("probed") == pytest.approx([1, 7, 13], rel=1e-4)
        assert len(seen) == 4
        for name, what in seen.items():
            assert what["batches"][0] == what["batches"][1] > 0, name
            assert what["figures"][0] == what["figures"][1], name
            assert what["losses"], name
