import math

import pytest
import torch

from alignprune_pl.core.streams import stream
from alignprune_pl.policies import InfoBatch, infobatch_plan
from planning import planned

NAN = math.nan


def test_prunes_below_the_mean_only_and_rescales_what_stays_there():
    scores = torch.tensor([1.0, 9.0, 2.0, 8.0, 1.5, 0.5])  # mean 3.67: 0, 2, 4, 5 are well learned
    plan = infobatch_plan(scores, 0.5, stream(0, "plan", 0))
    weight = dict(zip(plan.keep.tolist(), plan.weight.tolist(), strict=True))
    assert weight.pop(1) == weight.pop(3) == 1
    assert len(weight) == 2
    assert set(weight) < {0, 2, 4, 5}
    assert set(weight.values()) == {2.0}


def test_the_expected_weighted_gradient_is_the_full_one():
    gradient = torch.randn(60)
    scores = torch.rand(60)
    total = 0.0
    draws = 1000
    for draw in range(draws):
        plan = infobatch_plan(scores, 0.5, stream(0, "plan", draw))
        total += float((gradient[plan.keep] * plan.weight).sum())
    # An even number of well-learned samples would make it exact; floor loses at most one of them.
    spread = gradient.abs().sum().item() / math.sqrt(draws)
    assert total / draws == pytest.approx(gradient.sum().item(), abs=4 * spread + 1 / 30 * gradient.abs().sum().item())


def test_the_expected_weight_of_every_sample_is_one():
    scores = torch.cat([torch.zeros(40), torch.full((20,), 5.0)])
    weight = torch.zeros(60)
    for draw in range(1000):
        plan = infobatch_plan(scores, 0.75, stream(1, "plan", draw))
        weight[plan.keep] += plan.weight / 1000
    torch.testing.assert_close(weight, torch.ones(60), atol=0.25, rtol=0)
    assert weight.mean().item() == pytest.approx(1, abs=1e-4)


def test_without_rescaling_every_weight_is_one():
    plan = infobatch_plan(torch.tensor([0.0, 0.0, 9.0]), 0.5, stream(0, "plan", 0), rescale=False)
    assert plan.weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("value", [3.0, 0.1, 1 / 3])
def test_equal_scores_prune_nothing(value):
    assert len(infobatch_plan(torch.full((1001,), value), 0.5, stream(0, "plan", 0)).keep) == 1001


def test_unobserved_samples_are_kept_and_leave_the_mean_alone():
    assert len(infobatch_plan(torch.full((10,), NAN), 0.5, stream(0, "plan", 0)).keep) == 10
    plan = infobatch_plan(torch.tensor([NAN, 0.0, 0.0, 1.0]), 0.5, stream(0, "plan", 0))
    weight = dict(zip(plan.keep.tolist(), plan.weight.tolist(), strict=True))
    assert weight[0] == weight[3] == 1
    assert len(weight) == 3


def test_the_kept_share_is_clamped_to_a_tenth():
    scores = torch.cat([torch.zeros(100), torch.ones(1)])
    plan = infobatch_plan(scores, 0.99, stream(0, "plan", 0))
    assert len(plan.keep) == 11
    assert plan.weight.max().item() == pytest.approx(10)


def test_anneals_with_all_samples_from_delta_of_the_epochs_on():
    scores = torch.cat([torch.zeros(50), torch.ones(50)])
    kept = [len(planned(InfoBatch(0.5, delta=0.875), scores, e, max_epochs=16).keep) for e in range(16)]
    assert kept == [75] * 14 + [100] * 2


def test_a_run_of_unknown_length_never_anneals():
    scores = torch.cat([torch.zeros(50), torch.ones(50)])
    assert len(planned(InfoBatch(0.5), scores, 10**6).keep) == 75
