import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from alignprune_pl.core.draws import Draw
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.sampler import PruningSampler
from alignprune_pl.core.streams import stream
from alignprune_pl.policies import InfoBatch, NoPruning, Random, SeTa
from planning import planned


def samplers(kept, ranks, batch_size=4):
    plan = EpochPlan(torch.randperm(100)[:kept], 1 + torch.rand(kept))
    return plan, [PruningSampler(100, plan, batch_size, ranks, rank) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("kept", [1, 2, 19, 24, 95])
def test_ranks_share_each_kept_sample_once_in_equally_many_batches(kept, ranks):
    plan, all_ranks = samplers(kept, ranks)
    assert len({len(sampler) for sampler in all_ranks}) == 1
    real, weights = [], {}
    for sampler in all_ranks:
        assert list(sampler) == sampler.mine.index.tolist()
        for number in range(-(-len(sampler) // 4)):
            batch = sampler.batch(number)
            assert bool((batch.weight[batch.real :] == 0).all())
            index = batch.index[: batch.real].tolist()
            real.extend(index)
            weights.update(zip(index, batch.weight[: batch.real].tolist(), strict=True))
    assert sorted(real) == plan.keep.sort().values.tolist()
    assert weights == dict(zip(plan.keep.tolist(), plan.weight.tolist(), strict=True))


@pytest.mark.parametrize(("kept", "ranks", "served"), [(17, 1, 16), (17, 2, 16), (18, 2, 16), (1, 1, 1), (100, 1, 100)])
def test_a_pruned_epoch_never_ends_with_a_batch_of_one_sample(kept, ranks, served):
    plan, all_ranks = samplers(kept, ranks)
    assert {len(sampler) for sampler in all_ranks} == {served // ranks}
    assert torch.equal(all_ranks[0].trained(100), plan.keep[:served])


@pytest.mark.parametrize(
    ("n", "kept", "ranks", "served"),
    [
        (1000, 259, 1, 256),  # 3 of 64 at the end, a quarter is 16
        (1000, 271, 1, 256),
        (1000, 272, 1, 272),
        (1000, 518, 2, 512),  # 3 a rank
        (1000, 3, 1, 3),  # the only batch
        (1028, 259, 1, 256),
        (1028, 260, 1, 260),  # a full epoch ends with 4
        (1024, 259, 1, 256),  # with a whole batch
        (259, 259, 1, 259),  # the user's own length
    ],
)
def test_a_pruned_epoch_ends_with_no_tiny_batch_unless_a_full_one_does(n, kept, ranks, served):
    plan = EpochPlan.of(torch.randperm(n, generator=stream(0, "plan", 0))[:kept])
    for rank in range(ranks):
        sampler = PruningSampler(n, plan, 64, ranks, rank)
        assert len(sampler) == served // ranks
        assert torch.equal(sampler.trained(100), plan.keep[:served])


def test_an_unpruned_epoch_is_left_as_the_user_has_it():
    assert len(PruningSampler(9, EpochPlan.of(torch.arange(9)), 4)) == 9


def test_the_first_batches_of_all_ranks_are_the_plans_first_samples():
    plan, (a, b) = samplers(20, 2)
    together = torch.cat([a.batch(0).index, b.batch(0).index]).sort().values
    assert torch.equal(together, plan.keep[:8].sort().values)


def test_an_interrupted_epochs_batches_are_skipped_once_and_the_length_stays():
    _, (sampler,) = samplers(20, 1)
    everything = list(sampler)
    sampler.skip_batches_once(2)
    assert len(sampler) == 20
    assert list(sampler) == everything[8:]
    assert list(sampler) == everything


def test_a_plan_outside_the_data_set_is_refused():
    with pytest.raises(ValueError, match="keeps samples 3 to 10, but the training set has 10"):
        PruningSampler(10, EpochPlan.of(torch.tensor([3, 10])), 4)


POLICIES = [NoPruning(), Random(0.3), Random(0.9), InfoBatch(0.5), InfoBatch(0.9), SeTa(0.1), SeTa(0.5, groups=3)]


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_every_plan_of_every_policy_is_served_whole_once_and_evenly(data):
    n = data.draw(st.integers(1, 120), "n")
    batch_size, ranks = data.draw(st.integers(1, 17), "batch size"), data.draw(st.integers(1, 5), "ranks")
    drop_last, epoch = data.draw(st.booleans(), "drop_last"), data.draw(st.integers(0, 9), "epoch")
    policy = data.draw(st.sampled_from(POLICIES), "policy")
    values = st.one_of(st.floats(0, 5, width=32), st.just(math.nan), st.just(1.0))
    scores = torch.tensor(data.draw(st.lists(values, min_size=n, max_size=n), "scores"))
    plan = planned(policy, scores, epoch, max_epochs=10).shuffled(stream(1, "plan", epoch))
    if len(plan.keep) == 0:
        return  # a share of very few samples may be none; set_plan refuses it
    weight_of = dict(zip(plan.keep.tolist(), plan.weight.tolist(), strict=True))

    counts, seen = set(), []
    for rank in range(ranks):
        sampler = PruningSampler(n, plan, batch_size, ranks, rank)
        served = list(DataLoader(range(n), batch_size=batch_size, sampler=sampler, drop_last=drop_last))
        counts.add(len(served))
        for number, batch in enumerate(served):
            samples = sampler.batch(number)
            assert batch.tolist() == samples.index.tolist()
            for place, (index, weight) in enumerate(zip(samples.index.tolist(), samples.weight.tolist(), strict=True)):
                assert weight == (weight_of[index] if place < samples.real else 0)
                seen += [index] if place < samples.real else []
        everything = sampler.trained(len(served))
        # One that waits for another epoch may be the only one with a weight.
        assert sampler.is_weighted or {weight_of[index] for index in everything.tolist()} <= {1.0}
    assert len(counts) == 1
    assert len(set(seen)) == len(seen)
    assert sorted(seen) == sorted(everything.tolist())
    left_out = len(plan.keep) - len(seen)
    # What drop_last leaves out, and the batch of few samples that would end a pruned epoch.
    assert 0 <= left_out < (ranks * batch_size if drop_last else max(ranks + 1, ranks * batch_size // 4))
    assert left_out == 0 or drop_last or len(plan.keep) < n


@given(st.data(), st.integers(1, 60), st.integers(1, 9), st.integers(1, 4))
@settings(deadline=None)
def test_an_interrupted_epoch_goes_on_with_the_batches_left(data, n, batch_size, ranks):
    plan = EpochPlan.of(torch.randperm(n, generator=stream(n, "plan", 0)))
    sampler = PruningSampler(n, plan, batch_size, ranks, ranks - 1)
    whole = list(DataLoader(range(n), batch_size=batch_size, sampler=sampler))
    done = data.draw(st.integers(0, len(whole)))
    sampler.skip_batches_once(done)
    rest = list(DataLoader(range(n), batch_size=batch_size, sampler=sampler))
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[done:]]


def test_a_full_epoch_is_announced_whatever_the_plan():
    _, all_ranks = samplers(20, 3)
    for sampler in all_ranks:
        sampler.announces_full_epoch = True
        assert len(sampler) == 34
        sampler.announces_full_epoch = False
        assert len(sampler) == 7


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_samples_that_wait_for_another_epoch_are_others_in_each(ranks, draws):
    plan, kept = EpochPlan.of(torch.arange(66)), set(range(66))
    draw = Draw(torch.arange(200), None, 200, None) if draws else None
    samplers = [PruningSampler(200, plan, 32 // ranks, ranks, rank, draw) for rank in range(ranks)]
    waits = []
    for epoch in range(33):
        for sampler in samplers:
            sampler.set_plan(plan, draw, epoch)
        trained = sorted(i for sampler in samplers for i in sampler)
        assert trained == samplers[0].trained(2).sort()[0].tolist()
        waits.append(kept - set(trained))
    assert waits[0] == {64, 65}  # the last ones
    assert all(len(each) == 2 for each in waits)
    assert set().union(*waits) == kept
