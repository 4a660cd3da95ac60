"""InfoBatch and SeTa against their descriptions, written out a second time: naive, one sample at a time, exact.

The oracles share no code with the policies. Means, shares of n and shares of the epochs are rationals, so that no
rounding of theirs can agree with one of ours by accident. Both sides draw the same permutation from equal generators.
"""

import math
import operator
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.streams import stream
from alignprune_pl.policies import InfoBatch, SeTa
from alignprune_pl.policies.seta import seta_groups
from planning import planned

NAN = math.nan
CASES, BLOCK = 400, 100
BLOCKS = pytest.mark.parametrize("block", [range(start, start + BLOCK) for start in range(0, CASES, BLOCK)], ids=str)
KINDS = ["continuous", "ties", "equal", "heavy tailed", "partly unscored"]
Kept = list[tuple[int, float]]  # each sample with its weight


def exact(setting: float) -> Fraction:
    """The number that the user wrote, not the binary one next to it."""
    return Fraction(str(setting))


@dataclass(frozen=True)
class Case:
    seed: int
    kind: str
    scores: list[float]
    ratio: float
    delta: float
    max_epochs: int
    groups: int
    window_scale: float
    low_is: str

    @property
    def tensor(self) -> torch.Tensor:
        return torch.tensor(self.scores, dtype=torch.float32)

    @property
    def stop(self) -> int:
        """The first epoch that is not below delta * E."""
        return math.ceil(exact(self.delta) * self.max_epochs)

    def epochs(self) -> list[int]:
        """Both ends of the run, both sides of the annealing's start, and one more; all epochs in one case of eleven."""
        if self.seed % 11 == 0:
            return list(range(self.max_epochs))
        chosen = {0, 1, self.stop - 1, self.stop, self.max_epochs - 1, self.seed % self.max_epochs}
        return sorted(epoch for epoch in chosen if 0 <= epoch < self.max_epochs)

    def permutation(self, epoch: int, size: int) -> list[int]:
        return torch.randperm(size, generator=stream(self.seed, "plan", epoch)).tolist()


def draw_scores(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    if kind == "continuous":
        return rng.normal(rng.choice([0.0, 5.0]), 1, n)  # a score such as DAS may be negative
    if kind == "ties":
        return rng.integers(0, 4, n).astype(float)
    if kind == "equal":
        return np.full(n, rng.choice([3.0, 0.1, 1 / 3, -0.7, rng.random()]))
    if kind == "heavy tailed":
        return np.exp(3 * rng.normal(size=n))
    scores = draw_scores(rng, str(rng.choice(KINDS[:-1])), n)
    scores[rng.random(n) < rng.choice([0.05, 0.5, 0.95, 1.0], p=[0.4, 0.3, 0.2, 0.1])] = NAN
    return scores


def case_of(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    # Small sets are drawn more often: they have fewer samples than groups, and their floors reach zero.
    n = int(rng.integers(1, 201 if rng.random() < 0.7 else 13))
    two_decimals, any_float = round(float(rng.integers(0, 100)) / 100, 2), float(rng.random())
    return Case(
        seed=seed,
        kind=kind,
        scores=draw_scores(rng, kind, n).astype(np.float32).tolist(),
        ratio=float(rng.choice([0.0, 0.1, 0.3, 0.5, 0.9, 0.95, two_decimals, any_float])),
        delta=float(rng.choice([0.0, 0.875, 1.0, round(float(rng.integers(0, 101)) / 100, 2)], p=[0.1, 0.3, 0.2, 0.4])),
        max_epochs=int(rng.integers(1, 41 if rng.random() < 0.8 else 4)),
        groups=int(rng.integers(1, 11)),
        window_scale=float(rng.choice([0.9, round(float(rng.integers(1, 101)) / 100, 2), 1 - rng.random()])),
        low_is=str(rng.choice(["easy", "suspect"])),  # makes no difference by default
    )


def cases(seeds: range) -> Iterator[Case]:
    return map(case_of, seeds)


def cases_and_epochs(seeds: range) -> Iterator[tuple[Case, int]]:
    return ((case, epoch) for case in cases(seeds) for epoch in case.epochs())


def ours(policy: InfoBatch | SeTa, case: Case, epoch: int) -> Kept:
    plan = planned(policy, case.tensor, epoch, seed=case.seed, max_epochs=case.max_epochs, low_is=case.low_is)
    assert plan.keep.dtype == torch.int64
    assert plan.weight.dtype == torch.float32
    assert len(plan.probe) == 0
    return pairs(plan)


def pairs(plan: EpochPlan) -> Kept:
    return list(zip(plan.keep.tolist(), plan.weight.tolist(), strict=True))


# --- InfoBatch -------------------------------------------------------------------------------------------------------


def kept_share(ratio: float) -> Fraction:
    """1 - r, clamped to [0.1, 1]."""
    return min(Fraction(1), max(Fraction(1, 10), 1 - exact(ratio)))


def infobatch_by_hand(
    case: Case,
    epoch: int,
    below: Callable = operator.lt,
    whole: Callable = math.floor,
    prunes: Callable = operator.lt,
    weight: Callable = lambda ratio: 1 / kept_share(ratio),
    unscored: float | None = None,
) -> Kept:
    """What InfoBatch keeps, in ascending order. Whatever follows ``epoch`` is there to be replaced by a wrong rule."""
    n = len(case.scores)
    if not prunes(epoch, exact(case.delta) * case.max_epochs):
        return [(i, 1.0) for i in range(n)]
    value = {}
    for i, score in enumerate(case.scores):
        if not math.isnan(score):
            value[i] = Fraction(score)
        elif unscored is not None:
            value[i] = Fraction(unscored)
    mean = sum(value.values()) / len(value) if value else None
    well_learned = [i for i in value if below(value[i], mean)]
    size = whole(kept_share(case.ratio) * len(well_learned))
    order = case.permutation(epoch, len(well_learned))
    rescaled = {well_learned[order[rank]] for rank in range(size)}
    heavy = float(np.float32(float(weight(case.ratio))))
    kept = []
    for i in range(n):
        if i in rescaled:
            kept.append((i, heavy))
        elif i not in well_learned:
            kept.append((i, 1.0))
    return kept


def infobatch_of(case: Case) -> InfoBatch:
    return InfoBatch(ratio=case.ratio, delta=case.delta)


@BLOCKS
def test_infobatch_keeps_and_weighs_every_sample_as_described(block):
    for case, epoch in cases_and_epochs(block):
        assert ours(infobatch_of(case), case, epoch) == infobatch_by_hand(case, epoch), (case, epoch)


WRONG_INFOBATCH = {
    "weight 1 / r": {"weight": lambda ratio: 1 / exact(ratio) if ratio else 1},
    "weight without the clamp": {"weight": lambda ratio: 1 / (1 - exact(ratio))},
    "the mean itself is well learned": {"below": operator.le},
    "the count is rounded up": {"whole": math.ceil},
    "the count is rounded to the nearest": {"whole": round},
    "prunes in an epoch equal to delta * E": {"prunes": operator.le},
    "an unscored sample counts as 3": {"unscored": 3.0},
}


@pytest.mark.parametrize("rule", WRONG_INFOBATCH.values(), ids=WRONG_INFOBATCH)
def test_a_subtly_wrong_infobatch_is_told_apart(rule):
    # Or the comparison above would not show that ours is right.
    assert any(
        ours(infobatch_of(case), case, epoch) != infobatch_by_hand(case, epoch, **rule)
        for case, epoch in cases_and_epochs(range(CASES))
    )


# --- SeTa ------------------------------------------------------------------------------------------------------------


def subset(case: Case, epoch: int) -> list[int]:
    """floor((1 - r) n) samples in random order; SeTa's ratio is not clamped."""
    n = len(case.scores)
    return case.permutation(epoch, n)[: math.floor((1 - exact(case.ratio)) * n)]


def grouped(case: Case, epoch: int) -> tuple[list[int], list[int]]:
    """The scored samples of the subset in its order, and the group that ours gives to each."""
    scored = [i for i in subset(case, epoch) if not math.isnan(case.scores[i])]
    return scored, seta_groups(torch.tensor([case.scores[i] for i in scored]), case.groups).tolist() if scored else []


def spread(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def least_inertia(values: list[float], k: int) -> float:
    """The inertia of the best k groups that any k-means could find.

    A dynamic programme over every interval of the ordered values, with Welford's update instead of differences of
    squares, so that a heavy tail does not drown the other groups.
    """
    n = len(values)
    cost = np.full((n + 1, n + 1), np.inf)
    mean, squares = np.zeros(n), np.zeros(n)
    for last, value in enumerate(sorted(values)):
        started = slice(0, last + 1)
        step = value - mean[started]
        mean[started] += step / np.arange(last + 1, 0, -1)
        squares[started] += step * (value - mean[started])
        cost[started, last + 1] = squares[started]
    best = cost[0]
    for _ in range(k - 1):
        best = np.minimum(best, (best[:, None] + cost).min(axis=0))
    return float(best[n])


def in_parts(values: list[float], group: list[int]) -> list[list[float]]:
    return [[v for v, g in zip(values, group, strict=True) if g == number] for number in range(max(group) + 1)]


@BLOCKS
def test_setas_groups_are_the_tightest_intervals_in_the_order_of_their_centres(block):
    for case in cases(block):
        scored, group = grouped(case, epoch=1)
        values = [case.scores[i] for i in scored]
        if len(set(values)) < 2:
            continue  # equal chunks, below
        parts = in_parts(values, group)
        assert len(parts) == min(case.groups, len(set(values))), case
        # Neighbours do not overlap, and so their centres rise; equal scores are never in two groups.
        assert all(max(low) < min(high) for low, high in pairwise(parts)), case
        # Another partition may be as tight, so that the inertia is compared and not the groups.
        best = least_inertia(values, case.groups)
        assert sum(map(spread, parts)) == pytest.approx(best, rel=1e-9, abs=0), case


@BLOCKS
def test_setas_groups_of_equal_scores_are_equal_chunks_in_the_subsets_order(block):
    for case in cases(block):
        scored, group = grouped(case, epoch=1)
        if not scored or len({case.scores[i] for i in scored}) > 1:
            continue
        assert group == sorted(group), case
        sizes = Counter(group)
        assert sorted(sizes) == list(range(min(case.groups, len(scored)))), case
        assert max(sizes.values()) - min(sizes.values()) <= 1, case


@pytest.mark.parametrize("kind", ["continuous", "ties", "heavy tailed"])
def test_the_least_inertia_is_that_of_the_best_of_all_partitions_into_intervals(kind):
    for seed in range(20):
        values = sorted(draw_scores(np.random.default_rng(seed), kind, 9).tolist())
        for k in (1, 2, 3, 4):
            partitions = (pairwise([0, *borders, 9]) for borders in combinations(range(1, 9), k - 1))
            best = min(sum(spread(values[start:end]) for start, end in borders) for borders in partitions)
            assert least_inertia(values, k) == pytest.approx(best, rel=1e-9, abs=1e-15)


def test_one_sample_in_the_neighbouring_group_is_told_apart():
    moved = 0
    for case in cases(range(0, CASES, len(KINDS))):
        scored, group = grouped(case, epoch=1)
        values = [case.scores[i] for i in scored]
        if not values or group.count(0) < 2 or max(group) == 0:
            continue
        highest = max((value, at) for at, value in enumerate(values) if group[at] == 0)[1]
        group[highest] = 1
        best = least_inertia(values, case.groups)
        assert sum(map(spread, in_parts(values, group))) > (1 + 1e-6) * best, case
        moved += 1
    assert moved > 20


def seta_by_hand(
    case: Case,
    epoch: int,
    width: Callable = round,
    start: Callable = lambda epoch, count, width: epoch % (count - width + 1),
    prunes: Callable = operator.lt,
    everything_until: int = 0,
    annealing: Callable = subset,
    unscored_stay: bool = True,
) -> Kept:
    """What SeTa keeps, given the groups. Whatever follows ``epoch`` is there to be replaced by a wrong rule."""
    drawn = subset(case, epoch)
    if not prunes(epoch, exact(case.delta) * case.max_epochs):
        kept = annealing(case, epoch)
    elif epoch <= everything_until:
        kept = drawn
    else:
        scored, group = grouped(case, epoch)
        kept = [i for i in drawn if i not in scored and unscored_stay]
        if scored:
            count = max(group) + 1
            wide = min(count, max(1, width(count * exact(case.window_scale))))
            first = start(epoch, count, wide)
            kept += [i for i, g in zip(scored, group, strict=True) if g in range(first, first + wide)]
    return [(i, 1.0) for i in sorted(kept)]


def seta_of(case: Case) -> SeTa:
    return SeTa(ratio=case.ratio, groups=case.groups, window_scale=case.window_scale, delta=case.delta)


@BLOCKS
def test_seta_keeps_the_subset_and_of_it_the_window_as_described(block):
    for case, epoch in cases_and_epochs(block):
        assert ours(seta_of(case), case, epoch) == seta_by_hand(case, epoch), (case, epoch)


WRONG_SETA = {
    "the window starts one group late": {"start": lambda epoch, count, width: (epoch + 1) % (count - width + 1)},
    "the window starts one group early": {"start": lambda epoch, count, width: (epoch - 1) % (count - width + 1)},
    "the window never reaches the last group": {"start": lambda epoch, count, width: epoch % max(1, count - width)},
    "the window slides from the last group": {"start": lambda e, count, width: count - width - e % (count - width + 1)},
    "half a group is rounded up": {"width": lambda groups: math.floor(groups + Fraction(1, 2))},
    "epoch 0 has a window": {"everything_until": -1},
    "epoch 1 has none": {"everything_until": 1},
    "a window in an epoch equal to delta * E": {"prunes": operator.le},
    "anneals with all samples": {"annealing": lambda case, epoch: range(len(case.scores))},
    "unscored samples lie in no window": {"unscored_stay": False},
}


@pytest.mark.parametrize("rule", WRONG_SETA.values(), ids=WRONG_SETA)
def test_a_subtly_wrong_seta_is_told_apart(rule):
    assert any(
        ours(seta_of(case), case, epoch) != seta_by_hand(case, epoch, **rule)
        for case, epoch in cases_and_epochs(range(CASES))
    )


# --- both ------------------------------------------------------------------------------------------------------------


def test_the_cases_contain_what_is_rare():
    drawn = list(cases(range(CASES)))
    assert Counter(case.kind for case in drawn) == dict.fromkeys(KINDS, CASES // len(KINDS))
    assert {case.max_epochs for case in drawn} == set(range(1, 41))
    assert {case.groups for case in drawn} == set(range(1, 11))
    assert {0.0, 0.1, 0.3, 0.5, 0.9, 0.95} < {case.ratio for case in drawn}
    assert {0.0, 0.875, 1.0} < {case.delta for case in drawn}
    assert min(len(case.scores) for case in drawn) == 1
    assert max(len(case.scores) for case in drawn) >= 190
    assert sum(len(case.scores) < case.groups for case in drawn) > 20
    assert sum(not subset(case, 0) for case in drawn) > 8
    assert sum(all(map(math.isnan, case.scores)) for case in drawn) > 4
    assert sum(0 < case.stop < case.max_epochs for case in drawn) > 120


@pytest.mark.parametrize("make", [InfoBatch, SeTa])
def test_pruning_stops_at_the_first_epoch_not_below_delta_of_them_for_any_two_decimals(make):
    # 0.56 * 25 is above 14 in floating point. The two samples' scores are equal chunks, one group each.
    scores = torch.tensor([0.0, 0.0, 1.0]) if make is InfoBatch else torch.zeros(2)
    is_rounded = 0
    for hundredths in range(101):
        policy = make(0.5, delta=hundredths / 100) if make is InfoBatch else make(0.0, 2, 0.5, hundredths / 100)
        for max_epochs in (2, 7, 25, 30, 100):
            stop = -(-hundredths * max_epochs // 100)
            is_rounded += stop < max_epochs and not stop >= hundredths / 100 * max_epochs
            for epoch in {stop - 1, stop} & set(range(1, max_epochs)):
                plan = planned(policy, scores, epoch, max_epochs=max_epochs)
                assert (len(plan.keep) < len(scores)) == (epoch < stop), (policy, epoch, max_epochs)
    assert is_rounded > 3  # where the product lies above the whole number that it stands for


# --- what the public implementations do otherwise ----------------------------------------------------------------------


@pytest.mark.parametrize("policy", [InfoBatch(0.5), SeTa(0.5)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_leaves_the_global_generators_alone(policy, kind):
    # The originals reseed numpy's every epoch, and with it every other random draw in the program.
    scores = torch.from_numpy(draw_scores(np.random.default_rng(0), kind, 100)).float()
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    for epoch in range(8):
        planned(policy, scores, epoch, max_epochs=8)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    for ours, theirs in zip(np.random.get_state(), before[2], strict=True):  # noqa: NPY002
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("policy", [InfoBatch(0.5), SeTa(0.5)], ids=str)
def test_a_plan_does_not_depend_on_the_global_generators(policy):
    scores = torch.rand(100, generator=torch.Generator().manual_seed(0))
    plans = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        plans.append(planned(policy, scores, 1, max_epochs=8).digest())
    assert plans[0] == plans[1]


@pytest.mark.parametrize("make", [InfoBatch, SeTa])
def test_a_policy_built_anew_within_a_run_goes_on_as_the_old_one(make):
    # The originals count epochs themselves and save nothing: resumed, they would begin again with epoch 0.
    scores = torch.rand(100, generator=torch.Generator().manual_seed(0))
    old = make(0.5)
    for epoch in range(8):
        ours = planned(old, scores, epoch, max_epochs=8)
        assert planned(make(0.5), scores, epoch, max_epochs=8).digest() == ours.digest()


@pytest.mark.parametrize("value", [3.0, 0.1, 1 / 3])
def test_equal_first_scores_prune_nothing_whatever_their_rounded_mean(value):
    for n in range(1, 201):
        scores = torch.full((n,), value)
        plan = planned(InfoBatch(0.5), scores, seed=n, max_epochs=10)
        assert pairs(plan) == [(i, 1.0) for i in range(n)]


def test_a_mean_in_single_precision_would_prune_equal_scores():
    # What the test above guards against is real: 0.1 lies below its own mean for some n.
    value = np.float32(0.1)
    total, pruned = np.float32(0), []
    for n in range(1, 201):
        total += value
        pruned += [n] if value < total / np.float32(n) else []
    assert pruned


def test_unscored_samples_are_no_constant_compared_with_the_mean():
    # The originals start with the constant 3. Once the others' losses are high, it would be well learned ...
    high = torch.tensor([NAN] * 10 + [20.0] * 5)
    assert pairs(planned(InfoBatch(0.5), high, max_epochs=10)) == [(i, 1.0) for i in range(15)]
    # ... and once they are low, it would raise the mean above all of them.
    low = torch.tensor([NAN] * 10 + [0.0, 0.0, 1.0, 1.0])
    weight = dict(pairs(planned(InfoBatch(0.5), low, max_epochs=10)))
    assert all(weight[i] == 1 for i in [*range(10), 12, 13])
    assert len(weight) == 13


def test_unscored_samples_shift_no_group_of_the_scored_ones():
    scores = torch.tensor([NAN] * 10 + [0.0, 1.0, 2.0, 4.0, 5.0])
    policy = SeTa(0.0, groups=5, window_scale=0.2, delta=1.0)
    for epoch in range(1, 10):
        plan = planned(policy, scores, epoch, max_epochs=10)
        assert plan.keep.tolist() == [*range(10), 10 + epoch % 5]
