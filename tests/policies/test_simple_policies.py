"""The rules of the simple policies, each by what it keeps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from alignprune_pl.policies import RS2, UCB, EpsilonGreedy, InfoBatch, NoPruning, Random, SeTa, SmallLoss, StaticRandom
from planning import planned

NAN = math.nan


def plans(policy, epochs, scores=None, n=10, **settings):
    scores = torch.full((n,), NAN) if scores is None else scores
    return [planned(policy, scores, e, **settings).keep.tolist() for e in range(epochs)]


def test_no_pruning_keeps_everything_with_weight_one():
    plan = planned(NoPruning(), torch.rand(10), 3, max_epochs=10)
    assert plan.keep.tolist() == list(range(10))
    assert plan.weight.tolist() == [1.0] * 10


def test_random_keeps_a_fresh_subset_of_the_exact_size_each_epoch():
    kept = plans(Random(0.8), 50)
    assert {len(keep) for keep in kept} == {2}  # int((1 - 0.8) * 10) would be 1
    assert {i for keep in kept for i in keep} == set(range(10))


@pytest.mark.parametrize(("n", "ratio"), [(10, 0.8), (10, 0.3), (10, 0.5), (7, 0.1), (11, 0.45), (3, 0.0), (5, 0.99)])
def test_rs2_uses_no_sample_again_before_all_have_been_used(n, ratio):
    used = torch.zeros(n, dtype=torch.int64)
    for keep in plans(RS2(ratio), 40, n=n):
        assert len(keep) == int((1 - ratio) * n + 1e-9)
        used[keep] += 1
        assert used.max() - used.min() <= 1
    assert ratio == 0.99 or used.min() > 0


def test_rs2_draws_each_pass_anew():
    kept = plans(RS2(0.5), 8, n=20)
    assert len({tuple(keep) for keep in kept}) == 8
    assert sorted(kept[0] + kept[1]) == sorted(kept[2] + kept[3]) == list(range(20))


def test_static_random_keeps_one_subset_that_is_not_simply_the_first_samples():
    kept = plans(StaticRandom(0.5), 5, n=20)
    assert len({tuple(keep) for keep in kept}) == 1
    assert len(kept[0]) == 10
    assert kept[0] != list(range(10))
    assert planned(StaticRandom(0.5), torch.rand(20), seed=1).keep.tolist() != kept[0]


def test_small_loss_keeps_the_end_that_is_not_suspect():
    scores = torch.tensor([0.5, 3.0, 0.1, 2.0, 1.0])
    assert plans(SmallLoss(0.4), 1, scores, low_is="easy") == [[0, 2, 4]]
    assert plans(SmallLoss(0.4), 1, scores, low_is="suspect") == [[1, 3, 4]]


def test_epsilon_greedy_keeps_the_top_and_draws_a_share_of_the_others():
    scores = torch.arange(100.0)
    kept = plans(EpsilonGreedy(0.5, epsilon=0.2), 200, scores)
    assert all(len(keep) == 50 for keep in kept)
    assert all(keep[10:] == list(range(60, 100)) for keep in kept)
    drawn = torch.tensor([i for keep in kept for i in keep[:10]]).bincount(minlength=60)
    assert 15 < drawn.min() <= drawn.max() < 60  # 33 on average
    assert plans(EpsilonGreedy(0.5, epsilon=0.0), 1, scores) == [list(range(50, 100))]
    assert sum(i < 50 for i in plans(EpsilonGreedy(0.5, epsilon=1.0), 1, scores)[0]) > 10


def test_ucb_keeps_the_highest_mean_plus_variance_of_past_scores():
    policy = UCB(0.5, c=2.0, alpha=0.6)
    steady, rising, swinging, low = ([2.0] * 4, [1.0, 1.5, 2.0, 2.5], [0.0, 3.0, 0.0, 3.0], [0.5] * 4)
    bounds = []
    for scores in (steady, rising, swinging, low):
        mean, variance = scores[0], 0.0
        for last, score in pairwise(scores):
            if score != last:
                change = score - mean
                variance = 0.6 * (variance + 0.4 * change**2)
                mean += 0.4 * change
        bounds.append(mean + 2 * variance)
    for epoch, scores in enumerate(zip(steady, rising, swinging, low, strict=True)):
        plan = planned(policy, torch.tensor(scores), epoch)
    assert plan.keep.tolist() == sorted(sorted(range(4), key=lambda i: -bounds[i])[:2]) == [1, 2]
    torch.testing.assert_close(policy._mean + 2 * policy._variance, torch.tensor(bounds))


def test_ucb_counts_a_repeated_score_of_a_trained_sample_and_not_that_of_a_pruned_one():
    trained, pruned = UCB(0.5, c=0.0), UCB(0.5, c=0.0)
    for epoch, score in enumerate([3.0, 1.0, 0.0, 0.0, 0.0, 0.0]):
        planned(trained, torch.tensor([score, -1.0]), epoch)
        # Its score is above the other's at first only; the loss of what is pruned stays.
        planned(pruned, torch.tensor([score, 9.0 if epoch else 0.0]), epoch)
    assert trained._mean[0] < 0.9
    assert pruned._mean[0] > 1


def test_ucb_turns_the_mean_and_not_the_variance():
    policy = UCB(0.5, c=10.0, prunes="suspect")
    swinging, steady = [1.0, 3.0, 1.0], [1.0, 1.0, 1.0]
    for epoch, scores in enumerate(zip(swinging, steady, strict=True)):
        plan = planned(policy, torch.tensor(scores), epoch, low_is="easy")
    # Low is kept; the swinging one has the higher mean, and is kept for its variance.
    assert plan.keep.tolist() == [0]


@pytest.mark.parametrize("policy", [UCB(0.8), SmallLoss(0.8), EpsilonGreedy(0.8)], ids=repr)
def test_a_sample_that_has_lost_its_score_is_kept(policy):
    planned(policy, torch.arange(10.0), 0)
    lost = torch.arange(10.0).masked_fill(torch.arange(10) == 4, NAN)
    for epoch in (1, 2):
        plan = planned(policy, lost, epoch)
        assert 4 in plan.keep.tolist()
        assert len(plan.keep) == 2


def test_samples_without_a_score_fill_the_plan_before_any_is_drawn():
    scores = torch.arange(10.0).masked_fill(torch.arange(10) < 6, NAN)
    assert plans(EpsilonGreedy(0.5, epsilon=0.4), 1, scores) == [[0, 1, 2, 3, 4, 5]]


def test_static_random_draws_anew_for_another_number_of_samples():
    policy = StaticRandom(0.5)
    assert len(plans(policy, 1, n=20)[0]) == 10
    assert len(plans(policy, 1, n=30)[0]) == 15


def test_ucb_forgets_scores_that_meant_the_opposite():
    policy = UCB(0.5)
    planned(policy, torch.tensor([9.0, 8.0, 1.0, 0.0]), 0, low_is="easy")
    plan = planned(policy, torch.tensor([-0.5, -0.4, 0.8, 0.9]), 1, low_is="suspect")
    assert plan.keep.tolist() == [2, 3]


@pytest.mark.parametrize("policy", [EpsilonGreedy, UCB])
def test_the_low_end_is_pruned_unless_another_is_asked_for(policy):
    scores = torch.tensor([0.5, 3.0, 0.1, 2.0])
    rest = {"epsilon": 0} if policy is EpsilonGreedy else {}
    high, low = [[1, 3]], [[0, 2]]
    for low_is, other in (("easy", "suspect"), ("suspect", "easy")):
        assert plans(policy(0.5, **rest), 1, scores, low_is=low_is) == high
        assert plans(policy(0.5, prunes=low_is, **rest), 1, scores, low_is=low_is) == high
        assert plans(policy(0.5, prunes=other, **rest), 1, scores, low_is=low_is) == low


def test_infobatch_prunes_the_end_that_it_is_told():
    scores = torch.cat([torch.zeros(10), torch.ones(10)])
    low, high = set(range(10)), set(range(10, 20))
    for prunes, low_is, spared in (
        ("low", "easy", high),
        ("low", "suspect", high),
        ("easy", "suspect", low),
        ("suspect", "easy", low),
        ("suspect", "suspect", high),
    ):
        plan = planned(InfoBatch(0.5, prunes=prunes), scores, 1, low_is=low_is)
        assert spared < set(plan.keep.tolist())
        assert set(plan.keep[plan.weight == 2].tolist()).isdisjoint(spared)
        assert len(plan.keep) == 15


def test_setas_window_slides_from_the_end_that_it_is_told():
    scores = torch.cat([10.0 * g + torch.rand(20) for g in range(5)])
    start = {"ratio": 0.0, "window_scale": 0.4}
    from_low = plans(SeTa(**start), 5, scores)[4]  # epoch 4 of 4 windows: the first
    assert from_low == list(range(40))
    assert plans(SeTa(**start, slides_from="easy"), 5, scores, low_is="easy")[4] == from_low
    assert plans(SeTa(**start, slides_from="easy"), 5, scores, low_is="suspect")[4] == list(range(60, 100))
    assert plans(SeTa(**start, slides_from="suspect"), 5, scores, low_is="suspect")[4] == from_low


@pytest.mark.parametrize("make", [InfoBatch, SeTa])
def test_a_delta_outside_zero_to_one_is_refused(make):
    with pytest.raises(ValueError, match=r"delta=1.5 is given"):
        make(delta=1.5)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (EpsilonGreedy, {"epsilon": 1.1}, "epsilon=1.1 is given"),
        (EpsilonGreedy, {"prunes": "high"}, "prunes='high' is given, but 'low', 'easy' or 'suspect'"),
        (UCB, {"c": -1}, "c=-1 is given"),
        (UCB, {"alpha": 1}, "alpha=1 is given"),
        (InfoBatch, {"prunes": "hard"}, "prunes='hard' is given"),
        (SeTa, {"slides_from": "high"}, "slides_from='high' is given"),
    ],
)
def test_impossible_settings_are_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
