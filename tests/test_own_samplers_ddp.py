"""Two gloo processes with a sampler or batch sampler of the user's own: one draw, asked once, shared out evenly."""

from __future__ import annotations

import pytest

from alignprune_pl.core.sampler import all_but
from test_own_batches import left, of_epoch
from two_loaders import rank
from two_processes import run_part


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_part("draws", tmp_path_factory.mktemp("draws"), rank)


def batches(seen, epoch):
    return [batch for at, batch in seen["batches"] if at == epoch]


def test_one_rank_is_asked_once_an_epoch_and_its_draw_is_that_of_both(ranks):
    assert ranks[0]["samples"]["drawn"] == ranks[1]["samples"]["drawn"]
    assert [len(draw) for draw in ranks[0]["samples"]["drawn"]] == [151] * 3
    # For three epochs and that which would come next: how much there is, and what.
    assert [seen["asked"] for seen in ranks] == [4, 0]
    assert [seen["told"] for seen in ranks] == [8, 8]
    assert [seen["told of a usual loader"] for seen in ranks] == [0, 0]


@pytest.mark.parametrize("kind", ["samples", "dropping"])
def test_two_processes_share_the_draw_less_what_is_left_out(ranks, kind):
    first, second = (seen[kind] for seen in ranks)
    for epoch, draw in enumerate(first["drawn"]):
        keep = [i for i in draw if epoch == 0 or i % 2 == 0]
        one, other = ([i for batch in batches(seen, epoch) for i in batch] for seen in (first, second))
        assert [*map(len, batches(first, epoch))] == [*map(len, batches(second, epoch))]
        together = [i for pair in zip(one, other, strict=True) for i in pair]
        kept = int(first["kept"][epoch])
        waits = 0 if kind == "dropping" else len(keep) - kept
        keep = [keep[place] for place in all_but(len(keep), waits, epoch)]
        assert together[:kept] == keep[:kept]
        assert together[kept:] == keep[: len(together) - kept]  # a sample that is repeated with weight zero
        assert len(keep) - kept + waits < (32 if kind == "dropping" else 8)
    assert first["last"] == second["last"]
    assert first["full"] == ([144 - 144 % 32] * 3 if kind == "dropping" else [151] * 3)
    trained = {i for seen in (first, second) for _, batch in seen["batches"] for i in batch}
    assert first["last"] == pytest.approx([i if i in trained else -1 for i in range(203)], rel=1e-4)


def test_two_processes_take_batches_of_ones_own_in_turn(ranks):
    for epoch in range(3):
        whole = left(epoch)
        for number, seen in enumerate(ranks):
            share = whole[number::2]
            assert batches(seen["batches"], epoch) == share
            assert seen["batches"]["kept"][epoch] == sum(map(len, whole))
            assert seen["batches"]["full"][epoch] == sum(map(len, of_epoch(epoch)))
    assert ranks[0]["batches"]["last"] == ranks[1]["batches"]["last"]


def test_a_sampler_that_fails_on_the_first_rank_ends_the_others_too(ranks):
    assert ranks[0]["failed"] == "'mine' after 0 batches"
    assert ranks[1]["failed"].startswith(
        "The sampler Fails could not be asked for epoch 0 on the first rank; see its error."
    )


def test_a_batch_sampler_that_would_be_asked_on_each_rank_is_refused(ranks):
    for seen in ranks:
        assert (
            "use_distributed_sampler=False) with 2 processes and a Buckets, which each would" in seen["not shared out"]
        )
        assert seen["not shared out"].endswith("after 0 batches")


def test_a_resumed_run_goes_on_on_both_ranks(tmp_path):
    for seen in run_part("resume", tmp_path, rank):
        for kind in ("samples", "batches"):
            assert len(set(seen[kind]["kept"])) > 2, kind
            assert seen[kind]["steps"] == dict.fromkeys(("3", "5", "9", "12"), [True] * 3), kind
