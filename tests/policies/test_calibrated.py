"""Calibrated pruning: how many are suspect, who they are, and what becomes of them."""

from __future__ import annotations

import io
import math

import pytest
import torch

from alignprune_pl.plan import EpochPlan, epoch_generator
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
    calibrated,
)
from alignprune_pl.policies.base import Observant, Remembers, Suspecting, kept_count

NAN = math.nan
EPOCHS = 30
# No epoch's number of suspects is near a whole one before it is rounded down.
N = 1003
HOSTS = ["infobatch", "seta", "random", "small_loss", "ucb", "rs2", "static_random", "none"]
# Suspects from the first epoch on, as many as the rate given says.
AT_ONCE = {"warm_up": 0.0, "core_until": 0.0, "relax_until": 0.0, "margin": 1.0, "final_margin": 1.0}


def plan_of(policy: Policy, epoch: int, scores: torch.Tensor | None = None, seed: int = 0, **settings) -> EpochPlan:
    """By default, the later a sample comes the higher its score."""
    scores = torch.arange(float(N)) if scores is None else scores
    return policy.plan(scores, epoch, epoch_generator(seed, epoch), **{"max_epochs": EPOCHS, **settings})


def observe(policy: Calibrated, epoch: int, plan: EpochPlan, is_wrong: torch.Tensor) -> None:
    """Tell it the losses that an epoch has shown: of wrong labels 8, of others 0.5, of the reference 1 to 6."""
    # A reference that changes, so that one that is lost or taken twice shows.
    policy.observe(epoch, torch.full((20,), 1.0 + epoch % 6), plan.probe, torch.where(is_wrong[plan.probe], 8.0, 0.5))


def left_out(policy: Calibrated) -> list[int]:
    """The samples that the epoch planned last leaves out as suspect, the most suspect first."""
    state = policy.state_dict()
    index = state["is_suspect"].nonzero().squeeze(1)
    return index[state["suspicion"][index].argsort(descending=True, stable=True)].tolist()


def run(policy: Calibrated, epochs: range, n: int = 200, rate: float = 0.3, **settings) -> list:
    """Plans, suspects and estimates where the last samples are wrong, and their scores are often higher."""
    is_wrong = torch.arange(n) >= (1 - rate) * n
    history = []
    for epoch in epochs:
        scores = torch.rand(n, generator=epoch_generator(5, epoch)) + 0.8 * is_wrong
        plan = plan_of(policy, epoch, scores, **settings)
        history.append((plan.digest(), left_out(policy), policy.noise_rate))
        observe(policy, epoch, plan, is_wrong)
    return history


# --- The warm-up


@pytest.mark.parametrize("host", HOSTS)
def test_the_warm_up_trains_every_sample_and_probes_those_that_calibrate(host):
    policy = Calibrated(host)
    for epoch in range(3):
        plan = plan_of(policy, epoch)
        assert plan.keep.tolist() == list(range(N))
        assert plan.weight.tolist() == [1.0] * N
        assert len(plan.probe) == 51  # a twentieth, rounded up
        assert left_out(policy) == []
        observe(policy, epoch, plan, torch.arange(N) >= 800)
    assert policy.noise_rate > 0.1
    assert len(plan_of(policy, 3).keep) < N


def test_a_rate_that_is_known_suspects_nobody_in_the_warm_up():
    policy = Calibrated("none", given_rate=0.5, warm_up=0.2)
    assert [len(plan_of(policy, epoch).keep) == N for epoch in range(8)] == [True] * 6 + [False] * 2


# --- How many are suspect

# Of N samples, E = 30. The warm-up ends at 3, the core stays until 3 + 7 / 3, opens until 10, the margin falls until 20.
SUSPECT_COUNTS = {
    # 0.6 N; at 6 the core is open by (6 - 5.33) / 4.67; from 9 on 0.2 (1.35 - 0.35 (epoch - 3) / 17) N; at last 0.2 N.
    0.2: {0: 0, 2: 0, 3: 601, 5: 601, 6: 515, 7: 386, 8: 257, 9: 246, 10: 241, 15: 221, 20: 200, 29: 200},
    # 1.35 * 0.5 N leaves more than the smallest core, 0.6 * 0.5 N; at last 0.5 N.
    0.5: {2: 0, 3: 677, 5: 656, 6: 646, 10: 604, 15: 553, 20: 501, 29: 501},
    # The smallest core is 0.6 * 0.2 N, and rises to 0.8 * 0.2 N, while the margin would leave more out; at last 0.8 N.
    0.8: {2: 0, 3: 882, 6: 875, 10: 866, 15: 854, 20: 802, 29: 802},
}


@pytest.mark.parametrize("rate", SUSPECT_COUNTS)
def test_core_margin_and_smallest_core_say_how_many_are_suspect(rate):
    policy = Calibrated("none", given_rate=rate)
    for epoch, expected in SUSPECT_COUNTS[rate].items():
        plan = plan_of(policy, epoch)
        assert (epoch, N - len(plan.keep), len(left_out(policy))) == (epoch, expected, expected)


def test_the_phases_and_margins_are_those_given():
    policy = Calibrated(
        "none", warm_up=0.2, core=0.5, core_until=0.5, margin=2, final_margin=1, relax_until=1, given_rate=0.3
    )
    # Ends at 6, 9 and 15, and 30. 0.3 * 2 N would leave out 0.6 N, the smallest core but
    # 1 - 0.7 * 0.6; at 12, 0.3 (2 - 1 / 4), more than 1 - 0.7 (0.6 + 0.2 / 4); at 29, 0.3 (2 - 23 / 24).
    expected = {5: 0, 6: 581, 8: 570, 9: 564, 12: 526, 14: 501, 15: 488, 18: 451, 24: 376, 29: 313}
    assert {epoch: N - len(plan_of(policy, epoch).keep) for epoch in expected} == expected


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
        601,
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
    scores = torch.rand(200, generator=epoch_generator(1, 0))
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
        plan = plan_of(policy, epoch, torch.rand(200, generator=epoch_generator(1, epoch)), low_is=low_is)
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
    assert len(left_out(policy)) == 601
    policy.reset()
    with pytest.raises(RuntimeError, match="no suspects before an epoch is planned"):
        policy.suspects()


def test_suspects_are_as_many_as_labels_are_estimated_to_be_wrong_whatever_the_epoch_leaves_out():
    policy = Calibrated("none", given_rate=0.2)
    scores = torch.rand(100, generator=epoch_generator(1, 0))
    scores[[3, 50]] = NAN
    for epoch, count in ((0, 0), (3, 60), (10, 24), (29, 20)):
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


@pytest.mark.parametrize("rate", [0.01, 0.025, 0.1, 0.2])
def test_the_core_is_as_small_as_the_estimate_is_sure(rate):
    policy = Calibrated("none", given_rate=rate)
    plan_of(policy, 3)
    assert len(left_out(policy)) == math.floor(0.6 * min(1, rate / 0.1) * N)


def test_calibration_samples_are_not_those_that_the_first_epoch_begins_with():
    plan = plan_of(Calibrated(), 0)
    first = plan.shuffled(epoch_generator(0, 0)).keep[: len(plan.probe)]
    assert len(set(first.tolist()) & set(plan.probe.tolist())) < len(plan.probe) / 2


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_ucb_as_host_keeps_its_share_of_those_that_are_not_suspect(ratio, rate):
    policy = Calibrated(UCB(ratio), given_rate=rate)
    for epoch in range(3, EPOCHS):
        plan = plan_of(policy, epoch, torch.rand(200, generator=epoch_generator(1, epoch)))
        rest = 200 - len(left_out(policy))
        assert len(plan.keep) == kept_count(rest, ratio)


def test_suspects_of_an_epoch_stay_as_they_are_while_the_run_goes_on():
    policy = Calibrated("none", given_rate=0.2, **AT_ONCE)
    scores = torch.arange(10.0)
    plan_of(policy, 0, scores)
    found = policy.suspects()
    scores.zero_()
    plan_of(policy, 1, scores)
    assert found.index.tolist() == [9, 8]
    assert found.suspicion.tolist() == list(range(10))


# --- A rate of zero


@pytest.mark.parametrize("make", [InfoBatch, SeTa, lambda: Random(0.5), UCB, lambda: RS2(0.4), NoPruning])
def test_clean_data_have_the_plan_of_the_host(make):
    policy, known, host = Calibrated(make()), Calibrated(make(), given_rate=0.0), make()
    for epoch in range(EPOCHS):
        scores = torch.rand(200, generator=epoch_generator(1, epoch))
        plan = plan_of(policy, epoch, scores, low_is="suspect")
        also = plan_of(known, epoch, scores, low_is="suspect")
        assert left_out(policy) == left_out(known) == []
        assert len(plan.probe) == 10
        assert len(also.probe) == 0
        if epoch >= 3:
            wanted = plan_of(host, epoch, scores, low_is="suspect")
            for actual in (plan, also):
                assert torch.equal(actual.keep, wanted.keep)
                assert torch.equal(actual.weight, wanted.weight)
        observe(policy, epoch, plan, torch.zeros(200, dtype=torch.bool))
    assert policy.noise_rate == 0


# --- The estimate


def test_the_estimate_is_that_of_the_calibration_samples():
    policy = Calibrated(calibration=0.2)
    assert math.isnan(policy.noise_rate)
    plan = plan_of(policy, 0, torch.rand(500))
    assert math.isnan(policy.noise_rate)
    is_wrong = torch.zeros(500, dtype=torch.bool)
    is_wrong[plan.probe[:37]] = True
    observe(policy, 0, plan, is_wrong)
    assert policy.noise_rate == pytest.approx(0.37)
    assert policy.suspects().noise_rate == policy.noise_rate


def test_probed_suspects_that_do_not_calibrate_do_not_count():
    policy = Calibrated("none", calibration=0.2, core_until=0.1)
    is_wrong = torch.arange(500) >= 300
    for epoch in range(3):
        plan = plan_of(policy, epoch, torch.arange(500.0))
        observe(policy, epoch, plan, is_wrong)
    share = is_wrong[plan.probe].float().mean().item()
    assert policy.noise_rate == pytest.approx(share)
    plan = plan_of(policy, 3, torch.arange(500.0))
    assert is_wrong[plan.probe].float().mean() > share + 0.2
    observe(policy, 3, plan, is_wrong)
    assert policy.noise_rate == pytest.approx(share)


def test_losses_are_averaged_over_the_epochs_and_one_weighs_nine_tenths_of_the_next(monkeypatch):
    compared = []

    def noted(losses, reference):
        compared.append((losses.tolist(), reference.tolist()))
        return 0.3

    monkeypatch.setattr(calibrated, "estimate_noise_rate", noted)
    policy = Calibrated(calibration=0.02)
    plan = plan_of(policy, 0, torch.rand(100))
    for epoch, (losses, reference) in enumerate((([8.0, 1.0], 5.0), ([4.0, NAN], 3.0), ([2.0, 0.5], 1.0))):
        policy.observe(epoch, torch.tensor([reference]), plan.probe, torch.tensor(losses))
    weight = 0.81 + 0.9 + 1
    first, second = (0.81 * 8 + 0.9 * 4 + 2) / weight, (0.81 * 1 + 0.5) / 1.81
    assert sorted(compared[-1][0]) == pytest.approx(sorted([first, second]))
    assert compared[-1][1] == pytest.approx([(0.81 * 5 + 0.9 * 3 + 1) / weight])


def test_a_loss_that_is_not_finite_leaves_the_older_ones():
    policy = Calibrated(calibration=0.2)
    plan = plan_of(policy, 0, torch.rand(50))
    losses = torch.where(torch.arange(10) < 3, 8.0, 0.5)
    policy.observe(0, torch.ones(20), plan.probe, losses)
    for broken in (NAN, math.inf):
        policy.observe(1, torch.ones(20), plan.probe, losses.masked_fill(torch.arange(10) < 2, broken))
        assert policy.noise_rate == pytest.approx(0.3)
        policy.observe(1, torch.ones(20).masked_fill(torch.arange(20) < 5, broken), plan.probe, losses)
        assert policy.noise_rate == pytest.approx(0.3)


def test_an_epoch_without_a_finite_loss_leaves_the_estimate():
    policy = Calibrated(calibration=0.2)
    plan = plan_of(policy, 0, torch.rand(50))
    policy.observe(0, torch.ones(20), plan.probe, torch.full((10,), NAN))
    assert math.isnan(policy.noise_rate)
    policy.observe(0, torch.ones(20), plan.probe, torch.where(torch.arange(10) < 3, 8.0, 0.5))
    assert policy.noise_rate == pytest.approx(0.3)
    policy.observe(1, torch.ones(20), plan.probe, torch.full((10,), NAN))
    assert policy.noise_rate == pytest.approx(0.3)


def test_an_epoch_without_probes_or_reference_leaves_the_estimate():
    policy = Calibrated(calibration=0.2)
    plan = plan_of(policy, 0, torch.rand(50))
    losses = torch.where(torch.arange(10) < 3, 8.0, 0.5)
    policy.observe(0, torch.ones(20), plan.probe, losses)
    policy.observe(1, torch.ones(20), plan.probe[:0], losses[:0])
    policy.observe(1, torch.ones(0), plan.probe, torch.full((10,), 8.0))
    assert policy.noise_rate == pytest.approx(0.3)
    policy.observe(2, torch.ones(20), plan.probe, losses)
    assert policy.noise_rate == pytest.approx(0.3)


@pytest.mark.parametrize(("smoothing", "while_opening"), [(0.95, 0.5), (0.2, 0.2), (0.0, 0.0)])
def test_estimates_replace_each_other_in_the_warm_up_and_falls_are_smoothed_the_more_once_the_core_has_opened(
    monkeypatch, smoothing, while_opening
):
    estimates = torch.rand(EPOCHS, generator=epoch_generator(0, 0)).tolist()
    queue = iter(estimates)
    monkeypatch.setattr(calibrated, "estimate_noise_rate", lambda *_: next(queue))
    policy, expected = Calibrated("none", smoothing=smoothing), NAN
    for epoch in range(15):
        plan = plan_of(policy, epoch, torch.rand(50))
        observe(policy, epoch, plan, torch.ones(50, dtype=torch.bool))
        is_fall = estimates[epoch] < expected
        old = 0.0 if epoch < 3 else smoothing if is_fall and epoch >= 10 else while_opening
        expected = estimates[epoch] if epoch < 3 else old * expected + (1 - old) * estimates[epoch]
        assert policy.noise_rate == pytest.approx(expected), epoch


def test_the_first_estimate_is_taken_as_it_is_however_late():
    policy = Calibrated("none", calibration=0.2)
    plan = plan_of(policy, 20, torch.rand(50))
    policy.observe(20, torch.ones(20), plan.probe, torch.where(torch.arange(10) < 3, 8.0, 0.5))
    assert policy.noise_rate == pytest.approx(0.3)


def test_a_rate_that_is_known_needs_no_reference_and_is_not_estimated():
    assert Calibrated.needs_reference is False
    assert (Calibrated().needs_reference, Calibrated(given_rate=0.0).needs_reference) == (True, False)
    policy = Calibrated("none", given_rate=0.25)
    assert policy.noise_rate == 0.25
    for epoch in range(6):
        plan = plan_of(policy, epoch)
        assert plan.probe.tolist() == sorted(left_out(policy))
        policy.observe(epoch, torch.ones(20), plan.probe, torch.full((len(plan.probe),), 8.0))
        assert policy.noise_rate == 0.25
    policy.reset()
    assert policy.noise_rate == 0.25


def test_it_observes_suspects_and_remembers():
    assert all(isinstance(Calibrated(), kind) for kind in (Observant, Suspecting, Remembers))


# --- The calibration samples and other probes


def calibrating(seed: int = 0, **settings) -> list[int]:
    return plan_of(Calibrated(**settings), 0, torch.rand(200), seed=seed).probe.tolist()


def test_calibration_samples_are_the_same_all_run_long():
    policy = Calibrated("none")
    first = plan_of(policy, 0).probe.tolist()
    for epoch in range(EPOCHS):
        plan = plan_of(policy, epoch)
        assert set(plan.probe.tolist()) == {*first, *left_out(policy)}
        observe(policy, epoch, plan, torch.arange(N) >= 800)
    assert len(left_out(policy)) > 100


def test_calibration_samples_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = calibrating()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert calibrating() == first
    torch.set_rng_state(before)
    generator = epoch_generator(0, 0)
    torch.rand(9, generator=generator)
    used = Calibrated().plan(torch.rand(200), 0, generator, max_epochs=EPOCHS)
    assert used.probe.tolist() == first
    assert calibrating(seed=1) != first
    assert first != list(range(10))


def test_calibration_samples_are_the_same_where_the_first_epoch_is_planned_again_and_others_for_other_data():
    policy = Calibrated()
    first = plan_of(policy, 0, torch.rand(200)).probe.tolist()
    assert plan_of(policy, 0, torch.rand(200)).probe.tolist() == first
    assert len(plan_of(policy, 0, torch.rand(400)).probe) == 20


@pytest.mark.parametrize(("share", "expected"), [(0.05, 10), (0.001, 1), (0.123, 25), (1, 200)])
def test_the_share_that_calibrates_is_rounded_up(share, expected):
    assert len(calibrating(calibration=share)) == expected


def test_samples_that_calibrate_are_trained_and_pruned_like_others():
    policy = Calibrated("none", calibration=0.5, core_until=0.1)
    plan = plan_of(policy, 0, torch.arange(200.0))
    probed = set(plan.probe.tolist())
    assert probed <= set(plan.keep.tolist())
    observe(policy, 0, plan, torch.arange(200) >= 150)
    plan = plan_of(policy, 3, torch.arange(200.0))
    assert probed & set(plan.keep.tolist())
    assert probed & set(left_out(policy))


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


@pytest.mark.parametrize("period", [1, 2, 3])
def test_after_the_warm_up_probes_come_every_so_many_epochs(period):
    policy, probed = Calibrated("none", probe_period=period, calibration=0.1), []
    for epoch in range(13):
        plan = plan_of(policy, epoch, torch.arange(200.0))
        probed.append(len(plan.probe) > 0)
        if probed[-1]:
            assert set(left_out(policy)) <= set(plan.probe.tolist())
            assert len(plan.probe) >= 20
        observe(policy, epoch, plan, torch.arange(200) >= 150)
        assert policy.noise_rate > 0.1
    assert probed == [True] * 3 + [epoch % period == 0 for epoch in range(10)]


# --- The host


class Recording(Policy):
    """A host that keeps all, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked = []

    def plan(self, scores, epoch, generator, max_epochs=None, low_is="easy"):
        self.asked.append((scores.clone(), epoch, max_epochs, low_is))
        return EpochPlan(torch.arange(len(scores)), torch.arange(len(scores)) + 1.0)


class RecordingMemory(Recording):
    """One that remembers."""

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


def test_it_reads_the_trajectory_score_where_none_is_given():
    assert Calibrated.usual_score == "trajectory"


# --- Its state


@pytest.mark.parametrize("observed", [True, False], ids=["after observe", "before observe"])
@pytest.mark.parametrize("at", [2, 5, 12])
@pytest.mark.parametrize("host", ["infobatch", "none", "ucb", "rs2", "static_random"])
def test_from_a_saved_state_it_goes_on_as_if_nothing_had_happened(monkeypatch, host, at, observed):
    compared, estimate = [], calibrated.estimate_noise_rate

    def noted(losses, reference):
        compared.append((losses.tolist(), reference.tolist()))
        return estimate(losses, reference)

    monkeypatch.setattr(calibrated, "estimate_noise_rate", noted)

    def make():
        return Calibrated(host, calibration=0.2, core_until=0.2, probe_share=0.5)

    whole, resumed = make(), make()
    history = run(whole, range(at))
    is_wrong = torch.arange(200) >= 140
    plan = plan_of(whole, at, torch.rand(200, generator=epoch_generator(5, at)) + 0.8 * is_wrong)
    if observed:
        observe(whole, at, plan, is_wrong)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.noise_rate == whole.noise_rate
    assert left_out(resumed) == left_out(whole)
    if not observed:
        for policy in (whole, resumed):
            observe(policy, at, plan, is_wrong)
    goes_on, expected = (run(policy, range(at + 1, at + 9)) for policy in (resumed, whole))
    assert goes_on == expected
    assert compared[-8:] == compared[-16:-8]
    assert len({digest for digest, _, _ in expected}) == 8
    assert len(expected[-1][1]) > 30
    assert history


def test_the_length_of_the_run_is_in_the_state(monkeypatch):
    # Before the next plan, an estimate is smoothed by the phase that it is from: the core of 100 epochs opens until 33.
    # A fall is then taken over by half, and after the core has opened by a twentieth.
    policies = [Calibrated("none", calibration=0.2) for _ in range(3)]
    run(policies[0], range(18, 20), rate=0.5, max_epochs=100)
    plan = plan_of(policies[0], 20, torch.rand(200), max_epochs=100)
    state = policies[0].state_dict()
    policies[1].load_state_dict(state)
    policies[2].load_state_dict({**state, "max_epochs": None})  # as of the usual 30
    monkeypatch.setattr("alignprune_pl.policies.calibrated.estimate_noise_rate", lambda *losses: 0.1)
    for policy in policies:
        observe(policy, 20, plan, torch.arange(200) < 190)
    assert policies[0].noise_rate == policies[1].noise_rate < policies[2].noise_rate


def test_after_a_reset_it_is_as_new_and_so_is_its_host():
    for host in ("rs2", "ucb"):
        policy = Calibrated(host, calibration=0.2)
        first = run(policy, range(8))
        policy.reset()
        assert math.isnan(policy.noise_rate)
        again = run(policy, range(8))
        assert [entry[:2] for entry in again] == [entry[:2] for entry in first]
        assert [entry[2] for entry in again] == pytest.approx([entry[2] for entry in first], nan_ok=True)


# --- Impossible settings


class Watching(InfoBatch):
    def observe(self, epoch, reference, probe, losses):
        """Looks at more than scores."""


class Comparing(InfoBatch):
    needs_reference = True


@pytest.mark.parametrize("host", [Watching, Comparing])
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
            for name in ("warm_up", "core", "smoothing", "given_rate")
            for value in (-0.1, 1, 1.5, NAN, "0.2")
        ),
        *(
            ({name: value}, rf"{name}={value!r} is given, but a share in \(0, 1\] is expected")
            for name in ("probe_share", "calibration")
            for value in (0, -0.1, 1.5, NAN, "0.2")
        ),
        (
            {"warm_up": 0.4},
            "warm_up=0.4, core_until=0.3333333333333333 and relax_until=0.6666666666666666 are given, but",
        ),
        (
            {"core_until": 0.7},
            "core_until=0.7 and relax_until=0.6666666666666666 are given, but shares of the epochs in",
        ),
        (
            {"relax_until": 1.1},
            "relax_until=1.1 are given, but shares of the epochs in this order, up to 1, are expected",
        ),
        ({"core_until": NAN}, "core_until=nan"),
        ({"margin": 0.9}, "margin=0.9 and final_margin=1.0 are given, but a positive final margin that is not above"),
        *(
            ({name: value}, f"{name}={value!r} is given, but a number is expected")
            for name in ("margin", "final_margin", "core_until", "relax_until")
            for value in ("1.3", None, True)
        ),
        ({"final_margin": 0}, "final_margin=0 are given, but a positive final margin"),
        ({"margin": math.inf}, "margin=inf and"),
        ({"margin": NAN}, "margin=nan and"),
        *(
            ({"probe_period": value}, f"probe_period={value!r} is given, but at least 1 epoch is expected")
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
        ({"warm_up": 0, "core": 0, "smoothing": 0, "given_rate": 0, "probe_share": 1, "calibration": 1}, N),
        (
            {"warm_up": 0.5, "core_until": 0.5, "relax_until": 0.5, "margin": 1, "final_margin": 1, "given_rate": 0.2},
            803,
        ),
        # The core is open only after the last epoch, and the margin falls until then.
        ({"core_until": 1, "relax_until": 1, "final_margin": 0.5, "given_rate": 0.2}, 897),
    ],
)
def test_extreme_settings_leave_something_to_train_in_every_epoch(settings, kept_last):
    policy = Calibrated("none", **settings)
    kept = [len(plan_of(policy, epoch).keep) for epoch in range(EPOCHS)]
    assert min(kept) > 0
    assert kept[-1] == kept_last
