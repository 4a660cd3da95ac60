"""What every registered policy keeps to, and that a policy that does not is found out."""

from __future__ import annotations

import inspect
import io
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.streams import stream
from alignprune_pl.policies import POLICIES, Calibrated, Policy, SmallLoss
from alignprune_pl.policies.right_labels import Gap, RightLabels
from planning import planned

NAN = math.nan
OURS = [
    "calibrated",
    "epsilon_greedy",
    "infobatch",
    "none",
    "random",
    "rs2",
    "seta",
    "small_loss",
    "static_random",
    "ucb",
]


def scores_of(n: int, epoch: int, seed: int = 0) -> torch.Tensor:
    """Scores that change from epoch to epoch, a few of them not there."""
    scores = torch.randn(n, generator=stream(seed, "plan", 1000 + epoch)).exp()
    return scores.masked_fill(torch.rand(n, generator=stream(seed, "plan", 2000 + epoch)) < 0.1, NAN)


def plan_of(policy: Policy, scores: torch.Tensor, epoch: int = 3, **settings) -> EpochPlan:
    return planned(policy, scores, epoch, seed=7, **settings)


def digests(policy: Policy, epochs: range, n: int = 60, seed: int = 0) -> list[str]:
    """The plans of some epochs; in the sixth the score begins to mean the opposite, as after a warm-up."""
    return [
        plan_of(policy, scores_of(n, e, seed), e, max_epochs=12, low_is="easy" if e < 5 else "suspect").digest()
        for e in epochs
    ]


def through_a_file(state: dict) -> dict:
    """A state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(one: object, other: object) -> bool:
    """Whether two states hold the same, that of a host included."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def check_plan(make):
    """Samples in ascending order, each once, weights finite and positive, whatever the scores are."""
    for n in (1, 2, 3, 7, 100):
        policy = make()
        for epoch, scores in enumerate(
            (torch.full((n,), NAN), torch.ones(n), torch.arange(n).float(), scores_of(n, 1), -scores_of(n, 2))
        ):
            for low_is in ("easy", "suspect"):
                plan = plan_of(policy, scores, epoch, max_epochs=6, low_is=low_is)
                assert plan.keep.tolist() == sorted(set(plan.keep.tolist())), "samples are in order, each once"
                assert not len(plan.keep) or (plan.keep.min() >= 0 and plan.keep.max() < n), "samples exist"
                assert bool(((plan.weight > 0) & plan.weight.isfinite()).all()), "weights are positive"


def check_generator(make):
    """Every choice comes from the generator given; the global one is neither read nor moved."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = digests(make(), range(8))
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left alone"
    torch.rand(7)
    assert digests(make(), range(8)) == first, "the global generator is not read"


def check_same_epoch(make):
    """An epoch that is planned again has the same plan, in the order of training too, and so have those after it."""
    once, twice = make(), make()
    for epoch in range(8):
        plans = []
        for policy in (once, twice, twice):
            generator = stream(7, "plan", epoch)
            plan = plan_of(policy, scores_of(60, epoch), epoch, max_epochs=12, generator=generator)
            plans.append(plan.shuffled(generator).digest())
        assert len(set(plans)) == 1, "an epoch planned again has the same plan"


def check_state(make):
    """A policy that goes on from a saved state plans what it would have planned."""
    for at in range(6):
        whole, part = make(), make()
        digests(whole, range(at))
        digests(part, range(at))
        resumed = make()
        digests(resumed, range(3), seed=5)
        resumed.load_state_dict(through_a_file(part.state_dict()))
        # The epoch planned last may be planned again.
        again = range(max(0, at - 1), 9)
        assert digests(resumed, again) == digests(whole, again), "the state holds all that is remembered"


def check_state_is_its_own(make):
    """A state that was taken does not change while the policy goes on."""
    policy = make()
    digests(policy, range(3))
    state = policy.state_dict()
    before = through_a_file(state)
    digests(policy, range(3, 6))
    assert same(state, before), "a state stays as it was taken"


def check_reset(make):
    """After a reset it is as new."""
    policy = make()
    expected = digests(policy, range(7))
    policy.reset()
    assert digests(policy, range(7)) == expected, "a new run begins anew"


def check_unscored(make):
    """No sample is pruned for having no score: it is kept whenever it would be if none had one."""
    for epoch in range(1, 7):
        scores = scores_of(80, epoch)
        kept_anyway = set(plan_of(make(), torch.full((80,), NAN), epoch, max_epochs=20).keep.tolist())
        plan = plan_of(make(), scores, epoch, max_epochs=20)
        assert set(scores.isnan().nonzero().squeeze(1).tolist()) & kept_anyway <= set(plan.keep.tolist())
        weight = dict(zip(plan.keep.tolist(), plan.weight.tolist(), strict=True))
        assert all(weight.get(i, 1.0) == 1.0 for i in scores.isnan().nonzero().squeeze(1).tolist())


def check_reads_score(make):
    """It says whether its plan depends on the scores."""
    plans = {plan_of(make(), scores_of(60, 1, seed), 2, max_epochs=20).digest() for seed in range(5)}
    assert (len(plans) > 1) == make().reads_score


def check_equal_scores_tell_nothing(make):
    """Where all scores are equal, which samples are pruned is chance, never their place in the data."""
    kept = torch.zeros(40)
    for seed in range(200):
        plan = planned(make(), torch.ones(40), 1, seed=seed, max_epochs=20)
        kept[plan.keep] += 1
    assert kept.max() - kept.min() < 85, "equal scores are not told apart by their place"


def check_by_place(make):
    """Unless it says so, it knows no sample by its place: those that it is asked about may be others each time."""
    policy = make()
    if policy.by_place or policy.probes:  # one that probes is nobody's host
        return
    for epoch in range(8):
        scores = scores_of(40 + epoch // 2, epoch)
        plan = plan_of(policy, scores, epoch, max_epochs=12)
        assert plan.digest() == plan_of(make(), scores, epoch, max_epochs=12).digest(), "it remembers places"


def check_probes(make):
    """One that probes says so."""
    policy = make()
    for epoch in range(8):
        assert policy.probes or not len(plan_of(policy, scores_of(60, epoch), epoch, max_epochs=12).probe)


def check_settings(make):
    """Arguments are stored under their own names, and shown."""
    policy = make()
    for name, parameter in inspect.signature(type(policy)).parameters.items():
        if name == "host" and parameter.default is None:
            assert f"host={policy.host!r}" in repr(policy)
            continue
        assert getattr(policy, name) == parameter.default
        assert f"{name}={parameter.default!r}" in repr(policy)


def check_ratio_zero(make):
    """Where nothing is to be pruned by ratio, only SeTa's window leaves samples out."""
    cls = type(make())
    if "ratio" in inspect.signature(cls).parameters:
        kept = plan_of(cls(ratio=0.0), scores_of(50, 1), 0, max_epochs=20)
        assert kept.keep.tolist() == list(range(50))
        assert kept.weight.tolist() == [1.0] * 50
        with pytest.raises(ValueError, match=r"pruning ratio in \[0, 1\) is expected"):
            cls(ratio=1.0)
        with pytest.raises(ValueError, match=r"ratio=nan is given"):
            cls(ratio=NAN)


CHECKS = [
    check_plan,
    check_generator,
    check_same_epoch,
    check_state,
    check_state_is_its_own,
    check_reset,
    check_unscored,
    check_reads_score,
    check_equal_scores_tell_nothing,
    check_by_place,
    check_probes,
    check_settings,
    check_ratio_zero,
]


class Suspecting(Calibrated):
    """One that has its evidence from the start."""

    def reset(self):
        super().reset()
        self._evidence.right, self._evidence.line = RightLabels(0.5, 1.0, is_loss=False), 0.5
        self._evidence.gap = Gap(0.5, 0.01)


SUSPECTING = {"subset host": Suspecting, "remembering host": partial(Suspecting, "ucb", calibration=0.2)}


@pytest.mark.parametrize("make", SUSPECTING.values(), ids=SUSPECTING)
@pytest.mark.parametrize(
    "check", [c for c in CHECKS if c not in (check_settings, check_ratio_zero)], ids=lambda check: check.__name__
)
def test_calibrated_pruning_keeps_the_contract_where_it_suspects(make, check):
    check(make)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_policy_keeps_the_contract(name, check):
    if check is check_reads_score and name == "calibrated":
        name, check = "suspecting", lambda _: check_reads_score(Suspecting)  # without evidence all samples are trained
    check(POLICIES.get(name) if name in OURS else None)


def test_every_policy_of_ours_is_in_this_suite():
    ours = {name for name in POLICIES.names() if POLICIES.get(name).__module__.startswith("alignprune_pl")}
    assert ours == set(OURS)


class Good(SmallLoss):
    """A policy to be broken in one way at a time; it remembers how often each sample was kept."""

    by_place = True

    def __init__(self, ratio: float = 0.3) -> None:
        super().__init__(ratio)
        self.reset()

    def plan(self, scores, ask):
        if len(self.kept) != len(scores):
            self.epoch, self.kept = None, torch.zeros(len(scores))
        if ask.epoch != self.epoch:
            self.epoch, self.before = ask.epoch, self.kept
        plan = super().plan(replace(scores, values=scores.values + self.before), ask)
        self.kept = self.before.index_add(0, plan.keep, plan.weight)
        return plan

    def reset(self):
        self.epoch, self.kept, self.before = None, torch.empty(0), torch.empty(0)

    def state_dict(self):
        return {"epoch": self.epoch, "kept": self.kept, "before": self.before}

    def load_state_dict(self, state):
        self.epoch, self.kept, self.before = state["epoch"], state["kept"], state["before"]


class Unordered(Good):
    def plan(self, scores, ask):
        plan = super().plan(scores, ask)
        return EpochPlan(plan.keep.flip(0), plan.weight)


class DrawsGlobally(Good):
    def plan(self, scores, ask):
        return super().plan(replace(scores, values=torch.rand(len(scores))), ask)


class CountsCalls(Good):
    calls = 0

    def plan(self, scores, ask):
        self.calls += 1
        values = torch.randn(len(scores), generator=stream(self.calls, "plan"))
        return super().plan(replace(scores, values=values), ask)


class ForgetsOnSaving(Good):
    def load_state_dict(self, state):
        self.reset()


class SavesWhatItStillChanges(Good):
    def plan(self, scores, ask):
        before = self.kept
        plan = super().plan(scores, ask)
        if len(before) == len(self.kept):
            self.kept = before.copy_(self.kept)
        return plan


class NeverForgets(Good):
    def reset(self):
        if not hasattr(self, "kept"):
            super().reset()


class PrunesUnscored(Good):
    def plan(self, scores, ask):
        return super().plan(replace(scores, values=scores.values.nan_to_num(1e9)), ask)


class SaysItReadsNothing(Good):
    reads_score = False


class PrunesByPlace(Good):
    def plan(self, scores, ask):
        return super().plan(replace(scores, values=scores.values + 1e-6 * torch.arange(len(scores))), ask)


class SaysItKnowsNoPlaces(Good):
    by_place = False


class ProbesInSecret(Good):
    def plan(self, scores, ask):
        plan = super().plan(scores, ask)
        return EpochPlan(plan.keep, plan.weight, plan.keep[:1])


class HidesItsSettings(Good):
    def __init__(self, ratio: float = 0.3) -> None:
        super().__init__(ratio)
        self._ratio = self.__dict__.pop("ratio")

    def plan(self, scores, ask):
        return SmallLoss(self._ratio).plan(scores, ask)


class TakesAnyRatio(Good):
    def __init__(self, ratio: float = 0.3) -> None:
        super().__init__(0.3)
        self.ratio = ratio


BROKEN = {
    check_plan: Unordered,
    check_generator: DrawsGlobally,
    check_same_epoch: CountsCalls,
    check_state: ForgetsOnSaving,
    check_state_is_its_own: SavesWhatItStillChanges,
    check_reset: NeverForgets,
    check_unscored: PrunesUnscored,
    check_reads_score: SaysItReadsNothing,
    check_equal_scores_tell_nothing: PrunesByPlace,
    check_by_place: SaysItKnowsNoPlaces,
    check_probes: ProbesInSecret,
    check_settings: HidesItsSettings,
    check_ratio_zero: TakesAnyRatio,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_policy_that_breaks_a_rule_of_the_contract_is_found_out(check):
    check(Good)
    with pytest.raises((AssertionError, AttributeError, pytest.fail.Exception)):
        check(BROKEN[check])
