"""Trajectories that are shared out over ranks are those that one rank would have of all samples."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from alignprune_pl.core.contracts import Ask
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.sharded import PAIR_BYTES, Shard, ShardedStore
from alignprune_pl.core.streams import stream
from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.policies import InfoBatch, SeTa, SmallLoss
from alignprune_pl.policies.on_shards import infobatch_on_shards, small_loss_on_shards
from alignprune_pl.policies.seta_on_shards import seta_on_shards
from alignprune_pl.scores import AlignmentScore, LossScore, TrajectoryScore
from ranks import WORLDS, N, drawn, indices, shards
from two_processes import run_part

EPOCHS = 5


def epoch_of(epoch, n=N):
    """What an epoch trains on, with which losses, and on which of 28 places."""
    index = torch.randperm(n, generator=drawn(epoch))[: n if epoch == 0 else 7 * n // 10]
    loss = torch.rand(len(index), generator=drawn(100 + epoch)) * 0.8**epoch
    loss[5] = torch.nan
    return index, loss, torch.randint(0, 28, (len(index),), generator=drawn(200 + epoch))


def trained(world):
    """The stores of all ranks after some epochs, in which each trained samples of all."""
    stores = [ShardedStore(shard, window=3) for shard in shards(world)]
    for epoch in range(EPOCHS):
        index, loss, place = epoch_of(epoch)
        for rank, store in enumerate(stores):
            for half in (place % 2 == 0, place % 2 == 1):
                mine = half & (place % world == rank)
                store.record(index[mine], loss[mine])
        leaving = [store.leaving() for store in stores]
        for rank, store in enumerate(stores):
            store.receive(torch.cat([pairs[rank] for pairs in leaving]))
            store.own.close_epoch(0.8**epoch)
    return stores


def replicated():
    store = TrajectoryStore(N, window=3)
    for epoch in range(EPOCHS):
        index, loss, _ = epoch_of(epoch)
        store.record(index, loss)
        store.close_epoch(0.8**epoch)
    return store


@pytest.mark.parametrize("world", WORLDS)
def test_every_loss_arrives_at_the_rank_that_owns_its_sample(world):
    stores, whole = trained(world), replicated()
    for store in stores:
        mine = indices(store.shard)
        assert torch.equal(store.own.losses().nan_to_num(-1), whole.losses()[mine].nan_to_num(-1))
        assert torch.equal(store.own.last_loss().nan_to_num(-1), whole.last_loss()[mine].nan_to_num(-1))
    assert sum(store.own.nonfinite for store in stores) == whole.nonfinite == EPOCHS


@pytest.mark.parametrize("score", [LossScore, lambda: AlignmentScore(warm_up=2), TrajectoryScore])
@pytest.mark.parametrize("world", WORLDS)
def test_scores_of_one_sample_at_a_time_are_the_same_on_a_shard(world, score):
    whole = Planner(InfoBatch(), score(), 0).scores(replicated())
    assert whole.values.unique().numel() > N // 2
    for store in trained(world):
        own = Planner(InfoBatch(), score(), 0).scores(store.own)
        assert own.low_is == whole.low_is
        assert torch.equal(own.values.nan_to_num(-9), whole.values[indices(store.shard)].nan_to_num(-9))


@pytest.mark.parametrize("world", WORLDS)
def test_every_sample_has_one_owner_and_no_rank_has_one_more_than_another(world):
    owned = torch.cat([indices(shard) for shard in shards(world)])
    assert torch.equal(owned.sort().values, torch.arange(N))
    assert {shard.size for shard in shards(world)} <= {N // world, -(-N // world)}
    assert shards(world)[0].size == math.ceil(N / world)


@pytest.mark.parametrize(("dtype", "itemsize"), [(torch.bfloat16, 2), (torch.float32, 4)])
def test_memory_and_bytes_sent_are_those_of_the_formula(dtype, itemsize):
    window, world = 7, 4
    store = ShardedStore(Shard(N, world, 1), window, dtype)
    m = math.ceil(N / world)

    def held():
        own = [value for value in vars(store.own).values() if isinstance(value, torch.Tensor)]
        return sum(tensor.nbytes for tensor in [*own, *(part for pair in store._waiting for part in pair)])

    # Of no sample's are the reference's losses and the number of those that are not finite.
    rest = 4 * window + 4
    assert held() == m * (window * itemsize + 16) + rest
    index = torch.arange(100, 200)
    store.record(index, torch.rand(100))
    assert held() == m * (window * itemsize + 16) + rest + 12 * 100
    leaving = store.leaving()
    assert sum(pairs.nbytes for rank, pairs in enumerate(leaving) if rank != 1) == PAIR_BYTES * 75
    assert held() == m * (window * itemsize + 16) + rest


def test_a_state_goes_on_where_it_was_with_the_losses_that_waited():
    first = trained(4)[2]
    first.record(torch.tensor([2, 6, 7]), torch.tensor([0.5, 0.25, 0.125]))
    second = ShardedStore(first.shard, window=3)
    second.load_state_dict(first.state_dict())
    for store in (first, second):
        assert [len(pairs) for pairs in store.leaving()] == [0, 0, 2, 1]
    assert torch.equal(first.own.losses().nan_to_num(-1), second.own.losses().nan_to_num(-1))
    with pytest.raises(ValueError, match=r"are for \(samples, ranks, rank\) = \(1003, 4, 2\), but this one has"):
        ShardedStore(Shard(N, 4, 1), window=3).load_state_dict(first.state_dict())


def test_what_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match="num_samples=3 is given"):
        Shard(3, world_size=4)
    with pytest.raises(ValueError, match="rank=4 is given, but a rank of 4"):
        Shard(8, world_size=4, rank=4)
    with pytest.raises(ValueError, match=r"own 2,147,483,648 of 4,294,967,296 samples"):
        Shard(1 << 32, world_size=2)
    assert Shard(1 << 32, world_size=3).size < 1 << 31
    store = ShardedStore(Shard(8, 2, 0))
    with pytest.raises(ValueError, match=r"record got index torch.int64\[2\] and loss \[3\]"):
        store.record(torch.arange(2), torch.rand(3))
    for wrong in (8, -1):
        store.record(torch.tensor([0, wrong]), torch.rand(2))
        with pytest.raises(ValueError, match="the data set has 8; record the index"):
            store.leaving()
    with pytest.raises(RuntimeError, match="shared out over 2 ranks, but no processes work together"):
        store.close_epoch()


# ---- two processes --------------------------------------------------------------------------------------------


def two_ranks(part):
    """One of two processes: its store, scores and plans after some epochs, and what it has sent."""
    rank = int(os.environ["LOCAL_RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    result = run(Shard(N, 2, rank))
    Path(f"rank{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def run(shard):
    store, score, plans = ShardedStore(shard, window=3), AlignmentScore(warm_up=2), []
    for epoch in range(EPOCHS):
        index, loss, place = epoch_of(epoch)
        for part in range(4):
            mine = (place % 4 == part) & (place % shard.world_size == shard.rank)
            store.record(index[mine], loss[mine])
            if epoch == 1:
                store.exchange()  # as often as one likes
        store.close_epoch(0.8**epoch)
        scores = Planner(InfoBatch(), score, 0).scores(store.own)
        for plan in (
            infobatch_on_shards(InfoBatch(0.4), scores, Ask(epoch, stream(0, "plan", epoch)), shard),
            small_loss_on_shards(SmallLoss(0.3), scores, Ask(epoch, stream(0, "plan", epoch)), shard),
            seta_on_shards(SeTa(0.1), scores, Ask(epoch, stream(0, "plan", epoch)), shard),
        ):
            plans.append(dict(zip(shard.samples(plan.keep).tolist(), plan.weight.tolist(), strict=True)))
    return {"plans": plans, "losses": store.own.losses().nan_to_num(-1).tolist()}


def test_two_processes_select_together_what_one_does(tmp_path):
    (one, two), alone = run_part("", tmp_path, two_ranks), json.loads(json.dumps(run(Shard(N))))
    for first, second, whole in zip(one["plans"], two["plans"], alone["plans"], strict=True):
        assert first.keys().isdisjoint(second)
        assert first | second == whole
        assert 0 < len(first) < len(whole)
    assert len(alone["plans"]) == 3 * EPOCHS
    assert [one["losses"][i // 2] if i % 2 == 0 else two["losses"][i // 2] for i in range(N)] == alone["losses"]
    assert alone["losses"] == replicated().losses().nan_to_num(-1).tolist()
