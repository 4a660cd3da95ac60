import math

import pytest
import torch

from alignprune_pl.plan import epoch_generator
from alignprune_pl.policies import InfoBatch, NoPruning, Random, SeTa

POLICIES = [NoPruning(), Random(0.3), InfoBatch(0.5), SeTa(0.3)]


def test_no_pruning_keeps_everything_with_weight_one():
    plan = NoPruning().plan(torch.rand(10), 3, epoch_generator(0, 3), 10)
    assert plan.keep.tolist() == list(range(10))
    assert plan.weight.tolist() == [1.0] * 10


def test_random_keeps_a_fresh_subset_of_the_exact_size_each_epoch():
    plans = [Random(0.8).plan(torch.full((10,), math.nan), e, epoch_generator(0, e), 10) for e in range(50)]
    assert {len(plan.keep) for plan in plans} == {2}  # int((1 - 0.8) * 10) would be 1
    assert torch.cat([plan.keep for plan in plans]).unique().numel() == 10
    assert all(bool((plan.weight == 1).all()) for plan in plans)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("scores", [torch.rand(40), torch.full((40,), math.nan), torch.ones(40)])
def test_a_plan_depends_on_its_generator_alone(policy, scores):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = policy.plan(scores, 4, epoch_generator(1, 4), 10)
    torch.rand(7)
    again = policy.plan(scores, 4, epoch_generator(1, 4), 10)
    assert first.digest() == again.digest()
    torch.manual_seed(0)
    assert torch.equal(before, torch.get_rng_state())
    policy.plan(scores, 4, epoch_generator(1, 4), 10)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", [Random, InfoBatch, SeTa])
@pytest.mark.parametrize("ratio", [-0.1, 1.0, math.nan])
def test_a_ratio_outside_zero_to_one_is_refused(make, ratio):
    with pytest.raises(ValueError, match=r"pruning ratio in \[0, 1\) is expected"):
        make(ratio=ratio)


@pytest.mark.parametrize("make", [InfoBatch, SeTa])
def test_a_delta_outside_zero_to_one_is_refused(make):
    with pytest.raises(ValueError, match=r"delta=1.5 is given"):
        make(delta=1.5)
