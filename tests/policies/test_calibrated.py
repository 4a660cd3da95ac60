"""Calibrated pruning: how many are suspect, who they are, and what becomes of them."""

from __future__ import annotations

import io
import itertools
import math

import pytest
import torch

from alignprune_pl.core.plan import EpochPlan, permutation
from alignprune_pl.core.streams import stream
from alignprune_pl.policies import (
    POLICIES,
    RS2,
    UCB,
    Calibrated,
    InfoBatch,
    NoPruning,
    Policy,
    Random,
    SeTa,
    StaticRandom,
    calibrated,
)
from alignprune_pl.policies.subsets import kept_count
from planning import ended, planned

NAN = math.nan
EPOCHS = 30
# No epoch's number of suspects is near a whole one before it is rounded down.
N = 1003
HOSTS = ["infobatch", "seta", "random", "small_loss", "ucb", "rs2", "static_random", "none"]
# Suspects from the first epoch on, as many as the rate given says.
AT_ONCE = {"warm_up": 0.0, "cap_until": 0.0, "relax_until": 0.0, "margin": 1.0, "final_margin": 1.0}


def plan_of(policy: Policy, epoch: int, scores: torch.Tensor | None = None, seed: int = 0, **settings) -> EpochPlan:
    """By default, the later a sample comes the higher its score."""
    scores = torch.arange(float(N)) if scores is None else scores
    return planned(policy, scores, epoch, seed=seed, **{"max_epochs": EPOCHS, **settings})


def end(policy: Calibrated, epoch: int, is_wrong: torch.Tensor, labels: torch.Tensor | None = None) -> None:
    """Tell it that samples with a wrong label are at 8, others at 0.5 and the reference at 1."""
    labels = torch.full((len(is_wrong),), -1) if labels is None else labels
    ended(policy, epoch, torch.where(is_wrong, 8.0, 0.5), torch.ones(200), labels)


def fixed(monkeypatch, *rates: float) -> list[tuple[list[float], list[float]]]:
    """Let the estimates be these, the last of them for ever; what they are asked for comes to be in the list."""
    asked = []

    def estimate(suspicion, reference):
        asked.append((suspicion.tolist(), reference.tolist()))
        return rates[min(len(asked), len(rates)) - 1]

    monkeypatch.setattr(calibrated, "estimate_noise_rate", estimate)
    return asked


def calibrating_of(policy: Calibrated) -> list[int]:
    return policy.state_dict()["calibrating"].tolist()


def left_out(policy: Calibrated) -> list[int]:
    """The samples that the epoch planned last leaves out as suspect, the most suspect first."""
    state = policy.state_dict()
    index = state["is_suspect"].nonzero().squeeze(1)
    return index[state["suspicion"][index].argsort(descending=True, stable=True)].tolist()


def run(policy: Calibrated, epochs: range, n: int = 200, rate: float = 0.3, **settings) -> list:
    """Plans, suspects and estimates where some of the last samples are wrong, and their scores are often higher."""
    history = []
    for epoch in epochs:
        # Another estimate in each epoch, so that one that is lost or taken twice shows.
        is_wrong = torch.arange(n) >= (1 - rate - 0.03 * (epoch % 4)) * n
        scores = torch.rand(n, generator=stream(5, "plan", epoch)) + 0.8 * is_wrong
        plan = plan_of(policy, epoch, scores, **settings)
        history.append((plan.digest(), left_out(policy), policy.noise_rate))
        end(policy, epoch, is_wrong, torch.arange(n) % 3 - 1)
    return history


# --- The warm-up


@pytest.mark.parametrize("host", HOSTS)
def test_the_warm_up_trains_every_sample_but_those_that_calibrate_which_are_probed(host):
    policy = Calibrated(host)
    for epoch in range(3):
        plan = plan_of(policy, epoch)
        assert len(plan.probe) == 51  # a twentieth, rounded up
        assert plan.keep.tolist() == sorted(set(range(N)) - set(plan.probe.tolist()))
        assert plan.weight.tolist() == [1.0] * (N - 51)
        assert left_out(policy) == []
        end(policy, epoch, torch.arange(N) >= 600)
    assert policy.noise_rate > 0.1
    assert len(plan_of(policy, 3).keep) < N - 51
    assert len(left_out(policy)) > 0


@pytest.mark.parametrize("host", HOSTS)
def test_the_warm_up_trains_every_sample_where_the_rate_is_known(host):
    policy = Calibrated(host, given_rate=0.4)
    for epoch in range(3):
        plan = plan_of(policy, epoch)
        assert (plan.keep.tolist(), plan.probe.tolist()) == (list(range(N)), [])
        assert plan.weight.tolist() == [1.0] * N


def test_a_rate_that_is_known_suspects_nobody_in_the_warm_up():
    policy = Calibrated("none", given_rate=0.5, warm_up=0.2)
    assert [len(plan_of(policy, epoch).keep) == N for epoch in range(8)] == [True] * 6 + [False] * 2


# --- How many are suspect

# Of N samples, E = 30. The warm-up ends at 3, the cap holds until 3 + 7 / 3, opens until 10, the margin falls until 20.
SUSPECT_COUNTS = {
    # 0.2 (1.25 - 0.25 (epoch - 3) / 17) N, below the cap; at last 0.2 N.
    0.2: {0: 0, 2: 0, 3: 250, 5: 244, 6: 241, 10: 230, 15: 215, 19: 203, 20: 200, 29: 200},
    # The cap of 0.6 N; at 6 it is open by (6 - 5.33) / 4.67; then 0.7 N, three quarters of 0.4 N being kept; from 9 on 0.6
    # times the margin, at last 0.6 N.
    0.6: {2: 0, 3: 601, 5: 601, 6: 616, 8: 659, 10: 690, 15: 646, 20: 601, 29: 601},
    # Three quarters of 0.1 N are kept until the margin is below 1.03; at last 0.9 N.
    0.9: {2: 0, 3: 601, 5: 601, 6: 648, 10: 927, 15: 927, 19: 915, 20: 902, 29: 902},
}


@pytest.mark.parametrize("rate", SUSPECT_COUNTS)
def test_cap_and_margin_say_how_many_are_suspect(rate):
    policy = Calibrated("none", given_rate=rate)
    for epoch, expected in SUSPECT_COUNTS[rate].items():
        plan = plan_of(policy, epoch)
        assert (epoch, N - len(plan.keep), len(left_out(policy))) == (epoch, expected, expected)


def test_an_estimate_counts_as_a_rate_that_is_known(monkeypatch):
    fixed(monkeypatch, 0.6)
    policy = Calibrated("none")
    for epoch in range(EPOCHS):
        plan_of(policy, epoch)
        if epoch in SUSPECT_COUNTS[0.6]:
            assert (epoch, len(left_out(policy))) == (epoch, SUSPECT_COUNTS[0.6][epoch])
        end(policy, epoch, torch.ones(N, dtype=torch.bool))


def test_the_phases_and_margins_are_those_given():
    policy = Calibrated(
        "none", warm_up=0.2, cap=0.4, cap_until=0.5, margin=2, final_margin=1, relax_until=1, given_rate=0.3
    )
    # Ends at 6, 9 and 15, and 30. The cap is 0.4 N; at 12, half of it and half of 0.475 N, as three quarters of 0.7 N are
    # kept in any case, up to 16; at 29, 0.3 (2 - 23 / 24) N.
    expected = {5: 0, 6: 401, 8: 401, 9: 401, 12: 438, 14: 463, 15: 476, 18: 451, 24: 376, 29: 313}
    assert {epoch: N - len(plan_of(policy, epoch).keep) for epoch in expected} == expected


def test_a_cap_that_ends_with_the_warm_up_never_holds():
    policy = Calibrated("none", given_rate=0.8, cap=0.1, cap_until=0.1, margin=1.0)
    assert [N - len(plan_of(policy, epoch).keep) for epoch in (2, 3, 4)] == [0, 802, 802]


@pytest.mark.parametrize("rate", [0.01, 0.025, 0.1, 0.2])
def test_no_more_than_the_estimate_times_the_margin_is_left_out_below_the_cap(rate):
    policy = Calibrated("none", given_rate=rate)
    plan_of(policy, 3)
    assert len(left_out(policy)) == math.floor(1.25 * rate * N)


def test_the_margin_is_at_its_last_at_once_where_the_relaxation_ends_with_the_warm_up():
    policy = Calibrated("none", given_rate=0.3, **{**AT_ONCE, "margin": 1.5, "final_margin": 1.2})
    assert N - len(plan_of(policy, 0).keep) == 361


def test_a_run_of_unknown_length_has_the_phases_of_thirty_epochs():
    for epoch in range(0, 40, 3):
        plans = [plan_of(Calibrated(given_rate=0.2), epoch, max_epochs=e).probe.tolist() for e in (None, 30)]
        assert plans[0] == plans[1]


def test_phases_follow_the_length_of_the_run():
    assert [N - len(plan_of(Calibrated("none", given_rate=0.2), e, max_epochs=100).keep) for e in (9, 10, 100)] == [
        0,
        250,
        200,
    ]


# --- Who is suspect


@pytest.mark.parametrize("rate", [0.29, 0.57, 0.58])
def test_a_share_of_a_hundred_samples_is_that_many(rate):
    policy = Calibrated("none", given_rate=rate, **AT_ONCE)
    plan = plan_of(policy, 0, torch.arange(100.0))
    assert (100 - len(plan.keep), len(policy.suspects().index)) == (round(100 * rate),) * 2


@pytest.mark.parametrize("low_is", ["easy", "suspect"])
@pytest.mark.parametrize("host", HOSTS)
def test_those_most_suspect_by_the_score_are_left_out(host, low_is):
    scores = torch.rand(200, generator=stream(1, "plan", 0))
    policy = Calibrated(host, given_rate=0.3, **AT_ONCE)
    plan_of(policy, 4, scores, low_is=low_is)
    expected = scores.argsort(descending=low_is == "easy")[:60].tolist()
    assert left_out(policy) == expected
    found = policy.suspects()
    assert torch.equal(found.suspicion, scores if low_is == "easy" else -scores)
    assert torch.equal(found.scores, found.suspicion[found.index])
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.noise_rate == 0.3


@pytest.mark.parametrize("low_is", ["easy", "suspect"])
@pytest.mark.parametrize("host", HOSTS)
def test_suspects_are_never_trained_in_the_hosts_annealing_neither(host, low_is):
    policy = Calibrated(host, given_rate=0.2)
    for epoch in range(3, EPOCHS):
        plan = plan_of(policy, epoch, torch.rand(200, generator=stream(1, "plan", epoch)), low_is=low_is)
        found = left_out(policy)
        assert len(found) >= 40
        assert set(found).isdisjoint(plan.keep.tolist())
        assert set(found) <= set(plan.probe.tolist())
        assert len(plan.keep) > 0


def test_the_annealing_trains_all_others_with_weight_one():
    policy = Calibrated(InfoBatch(0.6, delta=0.875), given_rate=0.2)
    pruned, annealed = (plan_of(policy, epoch) for epoch in (26, 27))
    assert len(pruned.keep) < N - len(left_out(policy))
    assert set(pruned.weight.tolist()) == {1.0, 2.5}
    assert annealed.keep.tolist() == list(range(N - 200))
    assert set(annealed.weight.tolist()) == {1.0}


def test_a_suspect_whose_score_has_fallen_comes_back():
    policy = Calibrated("none", given_rate=0.2, **AT_ONCE)
    scores = torch.arange(10.0)
    assert (plan_of(policy, 0, scores).keep.tolist(), left_out(policy)) == (list(range(8)), [9, 8])
    scores[9] = 0.5
    assert plan_of(policy, 1, scores).keep.tolist() == [0, 1, 2, 3, 4, 5, 6, 9]
    assert left_out(policy) == [8, 7]


def test_a_sample_without_a_score_is_not_suspect():
    policy = Calibrated("none", given_rate=0.5, **AT_ONCE)
    scores = torch.tensor([NAN, 1.0, NAN, 2.0, NAN, NAN, NAN, NAN])
    plan = plan_of(policy, 0, scores)
    assert left_out(policy) == [3, 1]
    assert plan.keep.tolist() == [0, 2, 4, 5, 6, 7]
    assert policy.suspects().suspicion.isnan().tolist() == scores.isnan().tolist()


def test_of_equally_suspect_samples_chance_decides():
    found = set()
    for seed in range(40):
        policy = Calibrated("none", given_rate=0.25, **AT_ONCE)
        plan_of(policy, 0, torch.ones(8), seed=seed)
        assert len(left_out(policy)) == 2
        found.update(left_out(policy))
    assert found == set(range(8))


def test_there_are_no_suspects_before_a_plan():
    policy = Calibrated(given_rate=0.2)
    with pytest.raises(RuntimeError, match="no suspects before an epoch is planned"):
        policy.suspects()
    plan_of(policy, 5)
    assert len(left_out(policy)) == 244
    policy.reset()
    with pytest.raises(RuntimeError, match="no suspects before an epoch is planned"):
        policy.suspects()


def test_suspects_are_as_many_as_labels_are_estimated_to_be_wrong_whatever_the_epoch_leaves_out():
    policy = Calibrated("none", given_rate=0.2)
    scores = torch.rand(100, generator=stream(1, "plan", 0))
    scores[[3, 50]] = NAN
    for epoch, count in ((0, 0), (3, 25), (10, 22), (29, 20)):
        plan_of(policy, epoch, scores)
        assert len(left_out(policy)) == count
        expected = scores.nan_to_num(-1).argsort(descending=True)[:20].tolist()
        assert policy.suspects().index.tolist() == expected
    policy = Calibrated()
    plan_of(policy, 0, scores)
    assert policy.suspects().index.tolist() == []
    assert math.isnan(policy.suspects().noise_rate)


def test_of_samples_without_a_score_none_is_suspect_however_many_are_estimated():
    policy = Calibrated(given_rate=0.5)
    plan_of(policy, 0, torch.tensor([NAN, 1.0, NAN, 2.0, NAN, NAN]))
    assert policy.suspects().index.tolist() == [3, 1]


def test_calibration_samples_are_not_those_that_the_first_epoch_draws_first():
    drawn = permutation(N, stream(0, "plan", 0))[:51].tolist()
    assert len(set(drawn) & set(plan_of(Calibrated(), 0).probe.tolist())) < 25


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_ucb_as_host_keeps_its_share_of_those_that_are_not_suspect(ratio, rate):
    policy = Calibrated(UCB(ratio), given_rate=rate)
    for epoch in range(3, EPOCHS):
        plan = plan_of(policy, epoch, torch.rand(200, generator=stream(1, "plan", epoch)))
        rest = 200 - len(left_out(policy))
        assert len(plan.keep) == kept_count(rest, ratio)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_ucb_as_host_keeps_its_share_of_those_that_do_not_calibrate_either(monkeypatch, rate):
    fixed(monkeypatch, rate)
    policy = Calibrated(UCB(0.5), calibration=0.2)
    for epoch in range(EPOCHS):
        plan = plan_of(policy, epoch, torch.rand(200, generator=stream(1, "plan", epoch)))
        end(policy, epoch, torch.ones(200, dtype=torch.bool))
        if epoch >= 3:
            held_out = {*left_out(policy), *(calibrating_of(policy) if epoch < 20 else ())}
            assert len(plan.keep) == kept_count(200 - len(held_out), 0.5)


def test_suspects_of_an_epoch_stay_as_they_are_while_the_run_goes_on():
    policy = Calibrated("none", given_rate=0.2, **AT_ONCE)
    scores = torch.arange(10.0)
    plan_of(policy, 0, scores)
    found = policy.suspects()
    scores.zero_()
    assert policy.suspects().index.tolist() == [9, 8]
    plan_of(policy, 1, scores)
    assert found.index.tolist() == [9, 8]
    assert found.suspicion.tolist() == list(range(10))


# --- The classes


def chosen(rate: float, labels: list[int], scores: torch.Tensor | None = None) -> set[int]:
    """Who is left out at a rate, by default the later the more suspect."""
    policy, n = Calibrated("none", given_rate=rate, **AT_ONCE), len(labels)
    scores = torch.arange(float(n)) if scores is None else scores
    plan_of(policy, 0, scores)
    ended(policy, 0, scores, torch.ones(20), torch.tensor(labels))
    plan = plan_of(policy, 1, scores)
    assert set(plan.keep.tolist()) == set(range(n)) - set(left_out(policy))
    return set(left_out(policy))


def test_the_least_suspect_three_quarters_of_an_equal_share_of_each_class_stay():
    # At a rate of a half, 0.375 of 100. Of the class that is the more suspect 63 are left out, of the other one 37.
    assert chosen(0.5, [0] * 100 + [1] * 100) == {*range(63, 100), *range(137, 200)}
    # At 0.8, 0.15 of 100; and at 0.2, 0.6 of 100, which leaves as many as 40.
    assert chosen(0.8, [0] * 100 + [1] * 100) == {*range(25, 100), *range(115, 200)}
    assert chosen(0.2, [0] * 100 + [1] * 100) == {*range(160, 200)}
    assert chosen(0.3, [0] * 100 + [1] * 100) == {*range(88, 100), *range(152, 200)}


def test_classes_are_told_apart_by_their_labels_in_any_order_and_with_gaps():
    labels = torch.tensor([7, 2] * 100)
    scores = torch.rand(200, generator=stream(1, "plan", 0)) + (labels == 2)
    stay = [scores.masked_fill(labels != label, 9.0).argsort()[:37].tolist() for label in (2, 7)]
    free = set(range(200)) - {index for indices in stay for index in indices}
    assert chosen(0.5, labels.tolist(), scores) == set(sorted(free, key=lambda i: -scores[i])[:100])


def test_classes_that_are_equally_suspect_change_nothing():
    assert chosen(0.5, [0, 1] * 100) == set(range(100, 200))


def test_what_stays_of_a_class_is_rounded_down():
    # 0.375 of 1, 2 and 3 samples, the most suspect.
    assert chosen(0.5, [0] * 94 + [1, 2, 2, 3, 3, 3]) == {*range(49, 97), 98, 99}


def test_samples_whose_label_is_not_known_are_of_no_class():
    assert chosen(0.5, [0] * 100 + [-1] * 100) == set(range(100, 200))
    assert chosen(0.5, [-1] * 200) == set(range(100, 200))


def test_samples_without_a_score_are_among_those_of_their_class_that_stay():
    scores = torch.arange(200.0)
    scores[100:130] = NAN
    assert chosen(0.5, [0] * 100 + [1] * 100, scores) == {*range(63, 100), *range(137, 200)}


def test_those_that_stay_do_so_where_too_few_others_have_a_score():
    scores = torch.arange(200.0)
    scores[100:] = NAN
    assert chosen(0.5, [0] * 100 + [1] * 100, scores) == {*range(37, 100)}


def test_before_labels_are_seen_the_score_alone_counts():
    policy = Calibrated("none", given_rate=0.5, **AT_ONCE)
    for _ in range(2):
        plan_of(policy, 0, torch.arange(200.0))
        assert set(left_out(policy)) == set(range(100, 200))
        ended(policy, 0, torch.arange(200.0), torch.ones(20), torch.tensor([0, 1]).repeat_interleave(100))
        plan_of(policy, 1, torch.arange(200.0))
        assert len(set(left_out(policy)) - set(range(100, 200))) == 37
        policy.reset()


def test_labels_of_other_data_do_not_count():
    policy = Calibrated("none", given_rate=0.5, **AT_ONCE)
    plan_of(policy, 0, torch.arange(200.0))
    ended(policy, 0, torch.arange(200.0), torch.ones(20), torch.tensor([0, 1, 0, 0]).repeat_interleave(50))
    plan_of(policy, 1, torch.arange(100.0))
    assert set(left_out(policy)) == set(range(50, 100))


def test_labels_that_are_known_of_some_samples_alone_keep_no_one():
    policy = Calibrated("none", given_rate=0.5, **AT_ONCE)
    suspicion = torch.arange(100.0)
    for labels, stay in ((torch.arange(100) // 50, 37), (torch.where(torch.arange(100) < 50, -1, 1), 0)):
        ended(policy, 0, suspicion, torch.empty(0), labels)
        plan_of(policy, 1, suspicion)
        assert sum(sample < 50 for sample in left_out(policy)) == (0 if stay == 0 else 18)


def test_a_run_that_goes_on_for_longer_does_not_calibrate_by_what_it_has_trained_on():
    policy = Calibrated()
    held = len(plan_of(policy, 0, torch.rand(200), max_epochs=30).probe)
    assert held == 10
    assert len(plan_of(policy, 20, torch.rand(200), max_epochs=30).probe) == 0
    resumed = Calibrated()
    resumed.load_state_dict(policy.state_dict())
    for later in (policy, resumed):
        plan = plan_of(later, 30, torch.rand(200), max_epochs=60)
        assert (len(plan.probe), len(later.suspects().index)) == (0, 0)
    policy.reset()
    assert len(plan_of(policy, 0, torch.rand(200), max_epochs=60).probe) == 10


def test_suspects_are_of_whatever_class():
    policy = Calibrated("none", given_rate=0.5, **AT_ONCE)
    for epoch in range(2):
        plan_of(policy, epoch, torch.arange(200.0))
        ended(policy, epoch, torch.arange(200.0), torch.ones(20), torch.tensor([0, 1]).repeat_interleave(100))
    assert policy.suspects().index.tolist() == list(range(199, 99, -1))


# --- A rate of zero


@pytest.mark.parametrize("make", [InfoBatch, SeTa, lambda: Random(0.5), UCB, lambda: RS2(0.4), StaticRandom, NoPruning])
def test_clean_data_have_the_plan_of_the_host_among_those_that_do_not_calibrate(make):
    policy, known, host, others = Calibrated(make()), Calibrated(make(), given_rate=0.0), make(), make()
    for epoch in range(EPOCHS):
        scores = torch.rand(200, generator=stream(1, "plan", epoch))
        plan = plan_of(policy, epoch, scores, low_is="suspect")
        also = plan_of(known, epoch, scores, low_is="suspect")
        assert left_out(policy) == left_out(known) == []
        assert len(also.probe) == 0
        assert plan.probe.tolist() == (calibrating_of(policy) if epoch < 20 else [])
        if epoch >= 3:
            wanted = plan_of(host, epoch, scores, low_is="suspect")
            assert torch.equal(also.keep, wanted.keep)
            assert torch.equal(also.weight, wanted.weight)
            held_out = torch.zeros(200, dtype=torch.bool).index_fill_(0, plan.probe, True)
            if others.by_place:
                wanted = plan_of(others, epoch, scores.masked_fill(held_out, NAN), low_is="suspect")
                stays = ~held_out[wanted.keep]
                assert torch.equal(plan.keep, wanted.keep[stays])
                assert torch.equal(plan.weight, wanted.weight[stays])
            else:
                wanted = plan_of(others, epoch, scores[~held_out], low_is="suspect")
                assert torch.equal(plan.keep, (~held_out).nonzero().squeeze(1)[wanted.keep])
                assert torch.equal(plan.weight, wanted.weight)
        end(policy, epoch, torch.zeros(200, dtype=torch.bool))
    assert policy.noise_rate == 0


# --- The estimate


def test_the_estimate_is_that_of_the_calibration_samples_alone():
    policy = Calibrated(calibration=0.2)
    assert math.isnan(policy.noise_rate)
    plan = plan_of(policy, 0, torch.rand(500))
    assert math.isnan(policy.noise_rate)
    is_wrong = torch.ones(500, dtype=torch.bool)
    is_wrong[plan.probe[:63]] = False
    end(policy, 0, is_wrong)
    assert policy.noise_rate == pytest.approx(0.37)
    assert policy.suspects().noise_rate == policy.noise_rate


def test_the_calibration_samples_are_compared_with_the_reference(monkeypatch):
    asked = fixed(monkeypatch, 0.3)
    policy = Calibrated("none", calibration=0.02, cap_until=0.1)
    for epoch in range(6):
        plan_of(policy, epoch, torch.rand(500))
        suspicion, reference = torch.rand(500), torch.rand(7)
        ended(policy, epoch, suspicion, reference, torch.zeros(500, dtype=torch.int64))
        assert asked[-1] == (suspicion[calibrating_of(policy)].tolist(), reference.tolist())
    assert len(asked) == 6


def test_scores_that_are_not_there_do_not_count():
    policy = Calibrated(calibration=0.2)
    plan = plan_of(policy, 0, torch.rand(500))
    suspicion = torch.full((500,), 0.5)
    suspicion[plan.probe[:37]] = 8.0
    for broken in (NAN, math.inf):
        suspicion[plan.probe[-30:]] = broken
        ended(policy, 0, suspicion, torch.ones(200), torch.zeros(500, dtype=torch.int64))
        assert policy.noise_rate == pytest.approx(37 / 70)


def test_an_epoch_that_makes_no_estimate_leaves_the_last_one_and_tells_the_labels():
    policy = Calibrated("none", calibration=0.2, **{**AT_ONCE, "relax_until": 0.5})
    ended(policy, 0, torch.rand(500), torch.ones(200), torch.zeros(500, dtype=torch.int64))
    assert math.isnan(policy.noise_rate)
    plan = plan_of(policy, 0, torch.arange(500.0))
    ended(policy, 0, torch.full((500,), NAN), torch.ones(200), torch.zeros(500, dtype=torch.int64))
    assert math.isnan(policy.noise_rate)
    is_wrong = torch.zeros(500, dtype=torch.bool)
    is_wrong[plan.probe[:50]] = True
    end(policy, 0, is_wrong)
    assert policy.noise_rate == pytest.approx(0.5)
    labels = torch.tensor([0, 1]).repeat_interleave(250)
    ended(policy, 1, torch.full((500,), NAN), torch.ones(200), labels)
    ended(policy, 2, torch.rand(500), torch.ones(0), labels)
    assert policy.noise_rate == pytest.approx(0.5)
    plan_of(policy, 3, torch.arange(500.0))
    assert min(left_out(policy)) < 250


@pytest.mark.parametrize("smoothing", [0.5, 0.95, 0.2, 0.0])
def test_estimates_replace_each_other_in_the_warm_up_are_smoothed_then_and_stay_in_the_last_part(
    monkeypatch, smoothing
):
    estimates = torch.rand(EPOCHS, generator=stream(0, "plan", 0)).tolist()
    asked = fixed(monkeypatch, *estimates)
    policy, expected = Calibrated("none", smoothing=smoothing), NAN
    for epoch in range(EPOCHS):
        plan_of(policy, epoch, torch.rand(50))
        end(policy, epoch, torch.ones(50, dtype=torch.bool))
        if epoch < 3:
            expected = estimates[epoch]
        elif epoch < 20:
            expected = smoothing * expected + (1 - smoothing) * estimates[epoch]
        assert policy.noise_rate == pytest.approx(expected), epoch
    assert len(asked) == 20
    steps = [after - before for before, after in itertools.pairwise(estimates[2:20])]
    assert min(steps) < 0 < max(steps)


def test_half_of_an_estimate_is_the_old_one_by_default(monkeypatch):
    fixed(monkeypatch, 0.4, 0.2)
    policy = Calibrated("none", warm_up=0)
    for epoch, expected in enumerate((0.4, 0.3, 0.25)):
        plan_of(policy, epoch)
        end(policy, epoch, torch.ones(N, dtype=torch.bool))
        assert policy.noise_rate == pytest.approx(expected)


def test_the_first_estimate_is_taken_as_it_is_however_late(monkeypatch):
    fixed(monkeypatch, 0.3)
    policy = Calibrated("none")
    plan_of(policy, 19, torch.rand(50))
    end(policy, 19, torch.ones(50, dtype=torch.bool))
    assert policy.noise_rate == 0.3


@pytest.mark.parametrize(("relax_until", "max_epochs", "last"), [(0.5, 30, 14), (1.0, 30, 29), (2 / 3, 100, 66)])
def test_the_estimate_stays_once_the_calibration_samples_are_trained(monkeypatch, relax_until, max_epochs, last):
    asked = fixed(monkeypatch, 0.3)
    policy = Calibrated("none", relax_until=relax_until, calibration=0.1)
    for epoch in range(max_epochs):
        plan = plan_of(policy, epoch, torch.rand(100), max_epochs=max_epochs)
        end(policy, epoch, torch.ones(100, dtype=torch.bool))
        is_held_out = set(calibrating_of(policy)).isdisjoint(plan.keep.tolist())
        assert (len(asked) == epoch + 1) == is_held_out == (epoch <= last), epoch


def test_a_rate_that_is_known_needs_no_reference_and_is_not_estimated(monkeypatch):
    asked = fixed(monkeypatch, 0.5)
    assert Calibrated.needs_reference is False
    assert (Calibrated().needs_reference, Calibrated(given_rate=0.0).needs_reference) == (True, False)
    policy = Calibrated("none", given_rate=0.25)
    assert policy.noise_rate == 0.25
    for epoch in range(EPOCHS):
        plan = plan_of(policy, epoch)
        assert plan.probe.tolist() == sorted(left_out(policy))
        assert len(plan.keep) + len(plan.probe) == N
        end(policy, epoch, torch.ones(N, dtype=torch.bool))
        assert policy.noise_rate == 0.25
    policy.reset()
    assert (policy.noise_rate, asked) == (0.25, [])


# --- The calibration samples and other probes


def calibrating(seed: int = 0, **settings) -> list[int]:
    return plan_of(Calibrated(**settings), 0, torch.rand(200), seed=seed).probe.tolist()


def test_calibration_samples_are_the_same_all_run_long_and_are_trained_in_the_last_part_only(monkeypatch):
    fixed(monkeypatch, 0.2)
    policy = Calibrated("none")
    first = plan_of(policy, 0).probe.tolist()
    for epoch in range(EPOCHS):
        plan = plan_of(policy, epoch)
        assert calibrating_of(policy) == first
        end(policy, epoch, torch.ones(N, dtype=torch.bool))
        if epoch < 20:
            assert set(plan.probe.tolist()) == {*first, *left_out(policy)}
            assert set(plan.keep.tolist()) == set(range(N)) - set(plan.probe.tolist())
        else:
            assert plan.probe.tolist() == sorted(left_out(policy))
            assert plan.keep.tolist() == sorted(set(range(N)) - set(left_out(policy)))
    assert len(left_out(policy)) == 200
    assert set(first) & set(left_out(policy))
    assert set(first) & set(plan.keep.tolist())


def test_calibration_samples_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = calibrating()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert calibrating() == first
    torch.set_rng_state(before)
    generator = stream(0, "plan", 0)
    torch.rand(9, generator=generator)
    used = plan_of(Calibrated(), 0, torch.rand(200), generator=generator)
    assert used.probe.tolist() == first
    assert calibrating(seed=1) != first
    assert first != list(range(10))


def test_calibration_samples_are_the_same_where_the_first_epoch_is_planned_again_and_others_for_other_data():
    policy = Calibrated()
    first = plan_of(policy, 0, torch.rand(200)).probe.tolist()
    assert plan_of(policy, 0, torch.rand(200)).probe.tolist() == first
    assert len(plan_of(policy, 0, torch.rand(400)).probe) == 20


@pytest.mark.parametrize(("share", "expected"), [(0.05, 10), (0.001, 1), (0.123, 25), (0.5, 100)])
def test_the_share_that_calibrates_is_rounded_up(share, expected):
    assert len(calibrating(calibration=share)) == expected


def test_at_most_a_hundred_thousand_samples_calibrate():
    plan = plan_of(Calibrated(calibration=0.5), 0, torch.rand(200_500))
    assert (len(plan.probe), len(plan.keep)) == (100_000, 100_500)


@pytest.mark.parametrize(("n", "calibrate"), [(1, 0), (3, 1), (7, 3)])
def test_of_a_few_samples_no_more_than_half_calibrate(n, calibrate):
    plan = plan_of(Calibrated(calibration=0.5), 0, torch.rand(n))
    assert (len(plan.probe), len(plan.keep)) == (calibrate, n - calibrate)


def test_samples_that_calibrate_may_be_suspect_like_others(monkeypatch):
    fixed(monkeypatch, 0.25)
    policy = Calibrated("none", calibration=0.5, **{**AT_ONCE, "relax_until": 0.5})
    plan_of(policy, 0, torch.arange(200.0))
    end(policy, 0, torch.ones(200, dtype=torch.bool))
    for epoch in (1, 20):
        plan = plan_of(policy, epoch, torch.arange(200.0))
        assert left_out(policy) == list(range(199, 149, -1))
        assert set(calibrating_of(policy)) & set(left_out(policy))
        assert set(plan.keep.tolist()).isdisjoint(left_out(policy))


def test_a_share_of_the_suspects_is_probed_and_drawn_anew():
    policy, probed = Calibrated("none", given_rate=0.5, probe_share=0.25, **AT_ONCE), []
    for epoch in range(20):
        probe = plan_of(policy, epoch, torch.arange(81.0)).probe.tolist()
        assert len(probe) == 10  # a quarter of 40
        assert probe == sorted(probe)
        probed.append(probe)
    assert {i for probe in probed for i in probe} == set(range(41, 81))
    assert len({tuple(probe) for probe in probed}) == 20


def test_one_suspect_at_least_is_probed():
    policy = Calibrated("none", given_rate=0.5, probe_share=0.001, **AT_ONCE)
    assert len(plan_of(policy, 0, torch.arange(20.0)).probe) == 1


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_calibration_samples_are_all_probed_beside_a_share_of_the_suspects(monkeypatch, share):
    fixed(monkeypatch, 0.25)
    policy = Calibrated("none", probe_share=share, calibration=0.1, **{**AT_ONCE, "relax_until": 0.5})
    plan_of(policy, 0, torch.arange(200.0))
    end(policy, 0, torch.ones(200, dtype=torch.bool))
    probed = set(plan_of(policy, 1, torch.arange(200.0)).probe.tolist())
    assert set(calibrating_of(policy)) <= probed
    assert len(probed & set(left_out(policy)) - set(calibrating_of(policy))) < 0.75 * 50
    assert len(probed) > 20


@pytest.mark.parametrize("period", [1, 2, 3])
def test_after_the_warm_up_suspects_are_probed_every_so_many_epochs_and_calibration_samples_always(monkeypatch, period):
    fixed(monkeypatch, 0.25)
    policy, probed = Calibrated("none", probe_period=period, calibration=0.1), []
    for epoch in range(EPOCHS):
        plan = plan_of(policy, epoch, torch.arange(200.0))
        calibrates = set(calibrating_of(policy)) if epoch < 20 else set()
        suspects = set(left_out(policy))
        assert (len(suspects - calibrates) > 0) == (epoch >= 3)
        probed.append(set(plan.probe.tolist()) == calibrates | suspects)
        assert probed[-1] or set(plan.probe.tolist()) == calibrates
        assert set(plan.keep.tolist()).isdisjoint(suspects | calibrates)
        end(policy, epoch, torch.ones(200, dtype=torch.bool))
        assert policy.noise_rate == 0.25
    assert probed == [True] * 3 + [epoch % period == 0 for epoch in range(27)]


# --- The host


class Recording(Policy):
    """A host that keeps all, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked, self.labels = [], []

    def plan(self, scores, ask):
        self.asked.append((scores.values.clone(), ask.epoch, ask.max_epochs, scores.low_is))
        self.labels = ask.labels.tolist()
        return EpochPlan(torch.arange(len(scores)), torch.arange(len(scores)) + 1.0)


class RecordingMemory(Recording):
    """One that remembers places."""

    by_place = True

    def reset(self):
        self.asked = []

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


SCORES = torch.tensor([5.0, 1.0, 9.0, 2.0, NAN, 8.0, 3.0, 4.0])  # 2 and 5 are suspect at a rate of a quarter


def test_a_host_is_asked_about_those_that_are_not_suspect_only():
    host = Recording()
    policy = Calibrated(host, given_rate=0.25, **AT_ONCE)
    plan = plan_of(policy, 4, SCORES, max_epochs=17)
    ((scores, *rest),) = host.asked
    assert scores.nan_to_num(-1).tolist() == [5, 1, 2, -1, 3, 4]
    assert rest == [4, 17, "easy"]
    assert plan.keep.tolist() == [0, 1, 3, 4, 6, 7]
    assert plan.weight.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_host_that_remembers_sees_suspects_at_their_place_without_a_score():
    host = RecordingMemory()
    policy = Calibrated(host, given_rate=0.25, **AT_ONCE)
    plan = plan_of(policy, 4, -SCORES, max_epochs=17, low_is="suspect")
    ((scores, *rest),) = host.asked
    assert scores.nan_to_num(1).tolist() == [-5, -1, 1, -2, 1, 1, -3, -4]
    assert rest == [4, 17, "suspect"]
    assert plan.keep.tolist() == [0, 1, 3, 4, 6, 7]
    assert plan.weight.tolist() == [1, 2, 4, 5, 7, 8]


@pytest.mark.parametrize(
    ("make", "shown"), [(Recording, [0, 1, 0, 1, 0, 1]), (RecordingMemory, [0, 1, 2, 0, 1, 2, 0, 1])]
)
def test_a_host_is_told_the_labels_of_those_that_it_is_asked_about(make, shown):
    host = make()
    policy = Calibrated(host, given_rate=0.25, **AT_ONCE)
    plan_of(policy, 4, SCORES, labels=torch.arange(8) % 3)  # 2 and 5, which are suspect, have label 2
    assert host.labels == shown
    plan_of(policy, 5, SCORES)  # before any was seen
    assert host.labels == []


@pytest.mark.parametrize("make", [Recording, RecordingMemory])
def test_a_host_is_not_asked_about_those_that_calibrate_until_the_last_part(monkeypatch, make):
    fixed(monkeypatch, 0.0)
    host = make()
    policy = Calibrated(host, calibration=0.25)
    for epoch in range(EPOCHS):
        plan = plan_of(policy, epoch, torch.arange(8.0))
        calibrates = calibrating_of(policy)
        others = [i for i in range(8) if i not in calibrates]
        assert len(calibrates) == 2
        end(policy, epoch, torch.ones(8, dtype=torch.bool))
        if epoch < 3:
            continue
        scores = host.asked[-1][0].nan_to_num(-1).tolist()
        if epoch >= 20:
            assert scores == plan.keep.tolist() == list(range(8))
        else:
            assert plan.keep.tolist() == others
            unscored = [-1 if i in calibrates else i for i in range(8)]
            assert scores == (others if make is Recording else unscored)


def test_a_host_is_not_asked_in_the_warm_up():
    host = Recording()
    for epoch in range(5):
        plan_of(Calibrated(host, given_rate=0.25), epoch, SCORES)
    assert [asked[1] for asked in host.asked] == [3, 4]


def test_a_host_prunes_a_share_of_the_others():
    kept = {host: len(plan_of(Calibrated(host, given_rate=0.5, **AT_ONCE), 4).keep) for host in ("random", "rs2")}
    assert kept["random"] == 351  # 0.7 * (N - 501)
    assert kept["rs2"] == pytest.approx(351, abs=40)  # 0.7 N, but of those that are drawn half are suspect


def test_static_random_keeps_its_subset_but_for_the_suspects():
    policy, host = Calibrated("static_random", given_rate=0.2, warm_up=0.0), POLICIES.make("static_random")
    subset = set(plan_of(host, 0).keep.tolist())
    for epoch in range(EPOCHS):
        plan = plan_of(policy, epoch, torch.rand(N))
        assert set(plan.keep.tolist()) == subset - set(left_out(policy))


def test_a_host_is_given_by_name_or_as_an_object_and_is_infobatch_by_default():
    host = InfoBatch(0.2)
    assert Calibrated(host).host is host
    assert isinstance(Calibrated("seta").host, SeTa)
    assert repr(Calibrated().host) == repr(InfoBatch(ratio=0.6))
    assert "host=InfoBatch(ratio=0.6" in repr(Calibrated())


def test_it_reads_the_rival_score_where_none_is_given():
    assert Calibrated.usual_score == "rival"


# --- Its state


@pytest.mark.parametrize(
    ("host", "at", "ended_already"),
    [
        *itertools.product(["infobatch"], [2, 5, 12, 19], [True, False]),  # in each phase
        *itertools.product(["ucb", "rs2", "static_random"], [5], [True, False]),  # what a host remembers
    ],
)
def test_from_a_saved_state_it_goes_on_as_if_nothing_had_happened(host, at, ended_already):
    def make():
        return Calibrated(host, calibration=0.4, cap=0.4, cap_until=0.2, probe_share=0.5)

    whole, resumed = make(), make()
    run(whole, range(at))
    is_wrong = torch.arange(200) >= 140
    plan_of(whole, at, torch.rand(200, generator=stream(5, "plan", at)) + 0.8 * is_wrong)
    if ended_already:
        end(whole, at, is_wrong, torch.arange(200) % 3 - 1)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.noise_rate == whole.noise_rate
    assert left_out(resumed) == left_out(whole)
    assert torch.equal(resumed.suspects().index, whole.suspects().index)
    if not ended_already:
        for policy in (whole, resumed):
            end(policy, at, is_wrong, torch.arange(200) % 3 - 1)
    goes_on, expected = (run(policy, range(at + 1, at + 9)) for policy in (resumed, whole))
    assert goes_on == expected
    assert len({digest for digest, _, _ in expected}) == 8
    assert len(expected[-1][1]) > 30


def test_the_length_of_the_run_is_in_the_state(monkeypatch):
    # Before the next plan, an estimate is taken by the phase that it is from: the warm-up of 100 epochs lasts until 10.
    policies = [Calibrated("none") for _ in range(3)]
    fixed(monkeypatch, 0.5, 0.1)
    plan_of(policies[0], 7, torch.rand(200), max_epochs=100)
    end(policies[0], 7, torch.ones(200, dtype=torch.bool))
    plan_of(policies[0], 8, torch.rand(200), max_epochs=100)
    state = policies[0].state_dict()
    policies[1].load_state_dict(state)
    policies[2].load_state_dict({**state, "max_epochs": None})  # as of the usual 30
    for policy in policies:
        end(policy, 8, torch.ones(200, dtype=torch.bool))
    assert [policy.noise_rate for policy in policies] == pytest.approx([0.1, 0.1, 0.3])


def test_the_labels_are_in_the_state():
    whole, resumed = (Calibrated("none", given_rate=0.5, **AT_ONCE) for _ in range(2))
    plan_of(whole, 0, torch.arange(200.0))
    ended(whole, 0, torch.arange(200.0), torch.ones(20), torch.tensor([0, 1]).repeat_interleave(100))
    resumed.load_state_dict(whole.state_dict())
    plan_of(resumed, 1, torch.arange(200.0))
    assert set(left_out(resumed)) == {*range(63, 100), *range(137, 200)}


def test_after_a_reset_it_is_as_new_and_so_is_its_host():
    for host in ("rs2", "ucb"):
        policy = Calibrated(host, calibration=0.4)
        first = run(policy, range(8))
        assert len(first[-1][1]) > 30
        policy.reset()
        assert math.isnan(policy.noise_rate)
        again = run(policy, range(8))
        assert [entry[:2] for entry in again] == [entry[:2] for entry in first]
        assert [entry[2] for entry in again] == pytest.approx([entry[2] for entry in first], nan_ok=True)


def test_after_a_reset_a_run_with_another_seed_has_calibration_samples_of_its_own():
    policy = Calibrated("none")
    first = plan_of(policy, 0).probe.tolist()
    policy.reset()
    assert calibrating_of(policy) == []
    assert plan_of(policy, 0, seed=1).probe.tolist() == plan_of(Calibrated("none"), 0, seed=1).probe.tolist() != first


# --- Impossible settings


class Watching(InfoBatch):
    def epoch_ended(self, scores, ask):
        """Looks at more than scores."""


class Comparing(InfoBatch):
    needs_reference = True


class WatchingToo(Watching):
    """One that inherits it."""


class Probing(InfoBatch):
    probes = True


class ProbingUnsaid(InfoBatch):
    def plan(self, scores, ask):
        plan = super().plan(scores, ask)
        return EpochPlan(plan.keep, plan.weight, torch.tensor([0]))


def test_a_host_that_probes_without_saying_so_is_refused_when_it_plans():
    with pytest.raises(ValueError, match=r"host=ProbingUnsaid\(.* planned 1 probes, but a host that plans none"):
        planned(Calibrated(ProbingUnsaid(), given_rate=0.3, warm_up=0.0), torch.rand(50), 4)


@pytest.mark.parametrize("host", [Watching, WatchingToo, Comparing, Probing])
def test_a_host_that_looks_at_more_than_scores_is_refused(host):
    with pytest.raises(ValueError, match="a host that looks at the scores alone is expected"):
        Calibrated(host=host())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": "calibrated"}, r"host=Calibrated\(.* is given, but a host that is not calibrated itself is expected"),
        ({"host": Calibrated("none")}, "a host that is not calibrated itself is expected"),
        ({"host": "info_batch"}, "policy='info_batch' is given, but there is no such policy; did you mean 'infobatch'"),
        ({"host": InfoBatch}, "which is a class, but an object is expected"),
        ({"host": 3}, "a policy with a method plan"),
        *(
            ({name: value}, rf"{name}={value!r} is given, but a share in \[0, 1\) is expected")
            for name in ("cap", "smoothing", "given_rate")
            for value in (-0.1, 1, 1.5, NAN, "0.2")
        ),
        *(
            ({name: value}, rf"{name}={value!r} is given, but a share in \(0, {most}\] is expected")
            for name, most in (("probe_share", 1), ("calibration", 0.5))
            for value in (0, -0.1, 1.5, NAN, "0.2")
        ),
        (
            {"warm_up": 0.4},
            "warm_up=0.4, cap_until=0.3333333333333333 and relax_until=0.6666666666666666 are given, but",
        ),
        (
            {"cap_until": 0.7},
            "cap_until=0.7 and relax_until=0.6666666666666666 are given, but shares of the epochs in",
        ),
        ({"warm_up": 1}, "warm_up=1, cap_until=0.3333333333333333 and"),
        ({"warm_up": 1, "cap_until": 1, "relax_until": 1}, r"warm_up=1 is given, but a share in \[0, 1\) is expected"),
        *(
            ({name: value}, rf"{name}={value!r} is given, but a share of the epochs in \[0, 1\] is expected")
            for name in ("warm_up", "cap_until", "relax_until")
            for value in (-0.1, 1.1, NAN, "0.2", None, True)
        ),
        ({"margin": 0.9}, r"final_margin=1.0 is given, but at most the first margin, 0\.9, is expected; margins fall"),
        *(
            ({name: value}, rf"{name}={value!r} is given, but a number in \(0, inf\) is expected")
            for name in ("margin", "final_margin")
            for value in (0, -1, math.inf, NAN, "1.3", None, True)
        ),
        *(
            (
                {"probe_period": value},
                f"probe_period={value!r} is given, but a number of epochs of at least 1 is expected",
            )
            for value in (0, -1, 1.5, True)
        ),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Calibrated(**arguments)


@pytest.mark.parametrize(
    ("settings", "kept_last"),
    [
        ({"warm_up": 0, "cap": 0, "smoothing": 0, "given_rate": 0, "probe_share": 1, "calibration": 0.5}, N),
        (
            {"warm_up": 0.5, "cap_until": 0.5, "relax_until": 0.5, "margin": 1, "final_margin": 1, "given_rate": 0.2},
            803,
        ),
        # The cap is open only after the last epoch, and the margin falls until then.
        ({"cap_until": 1, "relax_until": 1, "final_margin": 0.5, "given_rate": 0.2}, 898),
        ({"cap": 0, "given_rate": 0.3}, 703),
        ({"cap": 0.99, "margin": 9, "final_margin": 9, "given_rate": 0.99}, 8),
    ],
)
def test_extreme_settings_leave_something_to_train_in_every_epoch(settings, kept_last):
    policy = Calibrated("none", **settings)
    kept = [len(plan_of(policy, epoch).keep) for epoch in range(EPOCHS)]
    assert min(kept) > 0
    assert kept[-1] == kept_last
