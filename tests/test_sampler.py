import pytest
import torch

from alignprune_pl.plan import EpochPlan
from alignprune_pl.sampler import PruningSampler


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
            assert bool((batch.weight[batch.is_padding] == 0).all())
            for index, weight, padding in zip(*[t.tolist() for t in vars(batch).values()], strict=True):
                if not padding:
                    real.append(index)
                    weights[index] = weight
    assert sorted(real) == plan.keep.sort().values.tolist()
    assert weights == dict(zip(plan.keep.tolist(), plan.weight.tolist(), strict=True))


@pytest.mark.parametrize(("kept", "ranks", "served"), [(17, 1, 16), (17, 2, 16), (18, 2, 16), (1, 1, 1), (100, 1, 100)])
def test_a_pruned_epoch_never_ends_with_a_batch_of_one_sample(kept, ranks, served):
    plan, all_ranks = samplers(kept, ranks)
    assert {len(sampler) for sampler in all_ranks} == {served // ranks}
    assert torch.equal(all_ranks[0].trained(100), plan.keep[:served])


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
