"""Trajectories and plans that are shared out over ranks are those that one rank would have of all samples."""

from __future__ import annotations

import json
import math
import os
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from alignprune_pl.core.contracts import Ask, Scores
from alignprune_pl.core.over_ranks import (
    BINS,
    NUMBER_BITS,
    VALUE_BITS,
    Numbers,
    exact_mean,
    exact_sums,
    ordered,
    smallest,
)
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.sharded import PAIR_BYTES, Shard, ShardedStore, ShardScores
from alignprune_pl.core.streams import stream
from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.policies import InfoBatch, SmallLoss
from alignprune_pl.policies.on_shards import (
    infobatch_on_shards,
    infobatch_rule,
    small_loss_on_shards,
    smallest_rule,
)
from alignprune_pl.policies.subsets import kept_count
from alignprune_pl.scores import AlignmentScore, LossScore, TrajectoryScore
from two_processes import run_part

N, EPOCHS = 1003, 5
WORLDS = (1, 2, 4, 7)


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def made_up(n=N):
    """Scores of many kinds: as they are, and as they should not matter."""
    loss = torch.rand(n, generator=drawn(0)).clamp(min=1e-7).log().neg()
    missing = torch.rand(n, generator=drawn(1)) < 0.2
    return {
        "losses": loss,
        "some missing": loss.masked_fill(missing, torch.nan),
        "none known": torch.full((n,), torch.nan),
        "of both signs": (2 * torch.randn(n, generator=drawn(2))).tanh(),
        "many equal": (3 * loss).round(),
        "all equal": torch.full((n,), 0.1),
        "two zeros": torch.where(loss < 0.7, -0.0, torch.where(loss < 1.5, 0.0, loss)),
        "far apart": loss.pow(30.0).masked_fill(missing, 1e-42),
    }


KINDS = pytest.mark.parametrize("kind", made_up())


def shards(world, n=N):
    return [Shard(n, world, rank) for rank in range(world)]


def indices(shard):
    return shard.samples(torch.arange(shard.size))


class Ranks:
    """All ranks, one after the other in this process."""

    def __init__(self, values, world):
        self.parts = [ShardScores(shard, values[indices(shard)]) for shard in shards(world, len(values))]
        self.asked = []

    def summed(self, part):
        # Within each rank there is no process group to add up over.
        total = torch.stack([rank.summed(part) for rank in self.parts]).sum(dim=0)
        self.asked.append(total.nbytes)
        return total

    def weights(self, rule):
        """Of every sample, zero where it is left out: float32[n]."""
        return together([(rank.shard, rank.plan(rule)) for rank in self.parts])


def together(plans):
    """The weights of all samples of the plans of all shards."""
    weights = torch.zeros(plans[0][0].num_samples)
    for shard, plan in plans:
        weights[shard.samples(plan.keep)] = plan.weight
    return weights


def weights_of(plan, n=N):
    return torch.zeros(n).index_copy_(0, plan.keep, plan.weight)


def numbers_of(generator, n=N):
    return Numbers.drawn(generator)(torch.arange(n))


# ---- the store ----------------------------------------------------------------------------------------------


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


# ---- the numbers that decide at random ----------------------------------------------------------------------


def plainly(numbers, index):
    """The same in whole numbers of any size."""
    limit = (1 << NUMBER_BITS) - 1
    x = (index + numbers.start) & limit
    for factor, shift in ((0x476D1CE4E5B9, 23), (0x49BB133111EB, 25), (0x79B97F4A7C15, 22)):
        x = (x * factor) & limit
        x = x ^ (x >> shift) ^ numbers.key
    return x


def test_numbers_are_what_they_are_in_whole_numbers_without_overflow():
    numbers = Numbers.drawn(drawn(3))
    index = [0, 1, 2, N, 10**9, 2**31, 2**40 + 1, 2**48 - 1]
    assert numbers(torch.tensor(index)).tolist() == [plainly(numbers, one) for one in index]


def test_no_two_samples_have_the_same_number_and_they_are_evenly_spread():
    n, bins = 1 << 18, 256
    index = torch.arange(n)
    first, second = (Numbers.drawn(stream(0, "plan", epoch))(index) for epoch in (0, 1))
    assert len(first.unique()) == n
    assert 0 <= int(first.min()) <= int(first.max()) < 1 << NUMBER_BITS
    for shift in (NUMBER_BITS - 8, 20, 0):  # of the highest bits, of ones in the middle, of the lowest
        counts = torch.bincount((first >> shift) & (bins - 1), minlength=bins).double()
        assert abs(float((counts - n / bins).square().sum() * bins / n) - (bins - 1)) < 5 * math.sqrt(2 * bins)
    share = torch.stack([first, first.roll(1), first.roll(64), second]).double()
    apart = torch.corrcoef(share) - torch.eye(4)
    assert float(apart.abs().max()) < 5 / math.sqrt(n)


# ---- exact sums ---------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("world", WORLDS)
def test_the_mean_is_that_of_the_exact_sum(kind, world):
    values = made_up()[kind]
    known = [Fraction(value) for value in values[~values.isnan()].tolist()]
    expected = float(sum(known) / len(known)) if known else math.nan
    assert exact_mean(Ranks(values, world).summed) == pytest.approx(expected, abs=0, rel=0, nan_ok=True)


def test_a_mean_that_cancels_is_exact():
    values = torch.tensor([3e38, 1.0, -3e38, 1e-44, 2.0**-149, -(2.0**-149)])
    exact = sum(map(Fraction, values.tolist())) / 6
    assert exact_mean(lambda part: part(torch.arange(6), values)) == float(exact) > 0.16


def test_equal_values_are_never_below_their_mean_however_many_they_are():
    value = torch.tensor([0.1])
    sums = exact_sums(value) * 3_000_000_001
    assert exact_mean(lambda _: sums) == float(value)


@KINDS
@pytest.mark.parametrize("world", WORLDS)
def test_the_border_is_the_very_value_and_has_no_width(kind, world):
    values = made_up()[kind] + 0.0
    known = values[~values.isnan()]
    for size in {0, 1, len(known) // 3, len(known) - 1, len(known)} & set(range(len(known) + 1)):
        border = smallest(
            Ranks(values, world).summed, lambda _, v: ordered(v[~v.isnan()]), VALUE_BITS, lambda _, s=size: s
        )
        keys = ordered(known)
        assert int((keys < border.at).sum()) + border.room == size
        assert border.room <= int((keys == border.at).sum())
        if 0 < size < len(known):
            border_value = known.kthvalue(size).values
            inside = (keys < border.at) | ((keys == border.at) & (border.room > 0))
            assert known[inside].max() == border_value
            # Where there is something to draw, it is among those that have the border's very value.
            if border.room:
                assert bool((known[keys == border.at] == border_value).all())


def test_the_order_of_bits_is_the_order_of_values():
    values = torch.tensor([-3e38, -1.0, -1e-42, -0.0, 0.0, 1e-42, 0.5, 1.0, 3e38])
    keys = ordered(values).tolist()
    assert keys == sorted(keys)
    assert keys[3] == keys[4]
    assert len(set(keys)) == 8
    assert all(0 <= key < 1 << VALUE_BITS for key in keys)


# ---- InfoBatch ----------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("ratio", [0.0, 0.35, 0.95])
def test_infobatch_on_shards_is_infobatch_with_the_same_numbers(kind, world, ratio):
    values = made_up()[kind]
    whole = weights_of(InfoBatch(ratio).plan(Scores(values), Ask(1, drawn(5))))
    ranks = Ranks(values, world)
    weights = ranks.weights(infobatch_rule(ranks.summed, ratio, Numbers.drawn(drawn(5))))
    # The threshold is the same, and so is who is well-learned; which of these are kept is by the lowest numbers.
    well_learned = values.double() < values.double().nanmean()
    assert torch.equal(weights[~well_learned], torch.ones(int((~well_learned).sum())))
    numbers = numbers_of(drawn(5))[well_learned]
    kept = torch.zeros(len(numbers), dtype=torch.bool)
    kept[numbers.argsort()[: kept_count(len(numbers), min(ratio, 0.9))]] = True
    assert torch.equal(weights[well_learned] > 0, kept)
    # With the replicated one it shares how many and with which weights.
    assert torch.equal(weights.sort().values, whole.sort().values)
    # A mean, and three digits of 16 bits at the most.
    assert ranks.asked[0] == 2224
    assert set(ranks.asked[1:]) <= {8 * BINS}
    assert 1 <= len(ranks.asked[1:]) <= 3


@pytest.mark.parametrize("world", WORLDS)
def test_infobatch_on_shards_has_the_settings_of_the_host(world):
    values = made_up()["of both signs"]

    def plans(policy, ask):
        numbers = Numbers.drawn(drawn(5))
        ranks = Ranks(Scores(values, "suspect").turned(policy.prunes), world)
        if world > 1:
            return ranks.weights(infobatch_rule(ranks.summed, policy.ratio, numbers, rescale=policy.rescale))
        return together([(Shard(N), infobatch_on_shards(policy, Scores(values, "suspect"), ask, Shard(N)))])

    pruned_end = {"low": values < values.mean(), "easy": values > values.mean(), "suspect": values < values.mean()}
    for end, pruned in pruned_end.items():
        weights = plans(InfoBatch(0.5, rescale=False, prunes=end), Ask(1, drawn(5)))
        assert weights.unique().tolist() == [0.0, 1.0]
        assert bool(pruned[weights == 0].all())
    if world == 1:
        assert bool((plans(InfoBatch(0.5, delta=0.5), Ask(5, drawn(5), max_epochs=10)) == 1).all())
        assert bool((plans(InfoBatch(0.5, delta=0.5), Ask(4, drawn(5), max_epochs=10)) == 0).any())


# ---- small loss ---------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.999])
def test_small_loss_on_shards_keeps_what_the_replicated_one_does(kind, world, ratio):
    values = made_up()[kind]
    whole = weights_of(SmallLoss(ratio).plan(Scores(values), Ask(1, drawn(5))))
    ranks, size = Ranks(values, world), kept_count(N, ratio)
    weights = ranks.weights(smallest_rule(ranks.summed, N, size, Numbers.drawn(drawn(5))))
    numbers = numbers_of(drawn(5))
    order = sorted(range(N), key=lambda i: (-math.inf if values[i].isnan() else float(values[i]), int(numbers[i])))
    expected = torch.zeros(N)
    expected[torch.tensor(order[: max(size, int(values.isnan().sum()))])] = 1
    assert torch.equal(weights, expected)
    assert weights.sum() == whole.sum()
    # They differ at most in samples that have the very score of the border.
    different = values[weights != whole]
    assert len(different.unique()) <= 1
    assert kind in ("many equal", "all equal", "two zeros", "far apart") or len(different) == 0
    assert set(ranks.asked) == {8 * BINS}
    assert len(ranks.asked) <= 5


def test_of_equal_scores_at_the_border_no_more_are_kept_than_there_is_room_for():
    values = made_up()["all equal"]
    weights = [
        together([(Shard(N), small_loss_on_shards(SmallLoss(0.3), Scores(values), Ask(1, drawn(seed)), Shard(N)))])
        for seed in (5, 6)
    ]
    assert [int(each.sum()) for each in weights] == [702, 702]
    assert not torch.equal(*weights)


def test_by_a_score_where_low_is_suspect_the_best_aligned_are_kept():
    values = made_up()["of both signs"]
    plan = small_loss_on_shards(SmallLoss(0.3), Scores(values, "suspect"), Ask(1, drawn(5)), Shard(N))
    assert torch.equal(plan.keep, SmallLoss(0.3).plan(Scores(values, "suspect"), Ask(1, drawn(5))).keep)


# ---- what does not depend on the number of ranks -------------------------------------------------------------


@KINDS
def test_the_selection_does_not_depend_on_the_number_of_ranks(kind):
    values = made_up()[kind]
    seen = []
    for world in WORLDS:
        ranks = Ranks(values, world)
        numbers = Numbers.drawn(stream(0, "plan", 3))
        rules = infobatch_rule(ranks.summed, 0.4, numbers), smallest_rule(ranks.summed, N, 500, numbers)
        seen.append(torch.stack([ranks.weights(rule) for rule in rules]))
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_shards_of_several_blocks_are_planned_as_one(monkeypatch):
    values = made_up()["some missing"]
    seen = []
    for block in (1 << 18, 64, 1):
        monkeypatch.setattr("alignprune_pl.core.sharded._BLOCK", block)
        ranks = Ranks(values, 2)
        seen.append(ranks.weights(infobatch_rule(ranks.summed, 0.4, Numbers.drawn(drawn(5)))))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


# ---- two processes ------------------------------------------------------------------------------------------


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
        ):
            plans.append(dict(zip(shard.samples(plan.keep).tolist(), plan.weight.tolist(), strict=True)))
    return {"plans": plans, "losses": store.own.losses().nan_to_num(-1).tolist()}


def test_two_processes_select_together_what_one_does(tmp_path):
    (one, two), alone = run_part("", tmp_path, two_ranks), json.loads(json.dumps(run(Shard(N))))
    for first, second, whole in zip(one["plans"], two["plans"], alone["plans"], strict=True):
        assert first.keys().isdisjoint(second)
        assert first | second == whole
        assert 0 < len(first) < len(whole)
    assert len(alone["plans"]) == 2 * EPOCHS
    assert [one["losses"][i // 2] if i % 2 == 0 else two["losses"][i // 2] for i in range(N)] == alone["losses"]
    assert alone["losses"] == replicated().losses().nan_to_num(-1).tolist()
