"""The plans of all shards together are the plan that the host would make of all samples."""

from __future__ import annotations

import math

import pytest
import torch

from alignprune_pl.core.contracts import Ask, Scores
from alignprune_pl.core.over_ranks import BINS, Numbers, exact_mean
from alignprune_pl.core.sharded import Shard
from alignprune_pl.core.streams import stream
from alignprune_pl.policies import InfoBatch, SeTa, SmallLoss
from alignprune_pl.policies.kmeans import kmeans_1d
from alignprune_pl.policies.on_shards import (
    infobatch_on_shards,
    infobatch_rule,
    small_loss_on_shards,
    smallest_rule,
)
from alignprune_pl.policies.seta import seta_window
from alignprune_pl.policies.seta_on_shards import _thresholds, seta_on_shards, seta_rule
from alignprune_pl.policies.subsets import kept_count
from ranks import KINDS, WORLDS, N, Ranks, drawn, made_up, numbers_of, together, weights_of

# ---- InfoBatch ----------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("ratio", [0.0, 0.35, 0.95])
def test_infobatch_on_shards_is_infobatch_with_the_same_numbers(kind, world, ratio):
    values = made_up()[kind]
    whole = weights_of(InfoBatch(ratio).plan(Scores(values), Ask(1, drawn(5))))
    ranks = Ranks(values, world)
    weights = ranks.weights(infobatch_rule(ranks.summed, exact_mean(ranks.summed), ratio, Numbers.drawn(drawn(5))))
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


def test_infobatch_on_shards_has_the_settings_of_the_host():
    values = made_up()["of both signs"]

    def weights(policy, epoch=1):
        ask = Ask(epoch, drawn(5), max_epochs=10)
        return together([(Shard(N), infobatch_on_shards(policy, Scores(values, "suspect"), ask, Shard(N)))])

    low = values < values.mean()
    for end, pruned in {"low": low, "suspect": low, "easy": ~low}.items():
        kept = weights(InfoBatch(0.5, prunes=end))
        assert bool((kept[~pruned] == 1).all())
        assert set(kept[pruned].tolist()) == {0.0, 2.0}
    assert set(weights(InfoBatch(0.5, rescale=False)).tolist()) == {0.0, 1.0}
    assert bool((weights(InfoBatch(0.5, delta=0.5), 4) == 0).any())
    assert bool((weights(InfoBatch(0.5, delta=0.5), 5) == 1).all())


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


# ---- SeTa ---------------------------------------------------------------------------------------------------


def inertia(values, group):
    values = values.double()
    return sum(float((values[group == g] - values[group == g].mean()).square().sum()) for g in group.unique())


@KINDS
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("epoch", [1, 3])
def test_seta_on_shards_keeps_but_for_one_in_two_hundred_the_window_of_the_replicated_one(kind, world, epoch):
    values, policy = made_up()[kind], SeTa(0.1, groups=5, window_scale=0.6)
    ranks = Ranks(values, world)
    weights = ranks.weights(seta_rule(ranks.summed, policy, Numbers.drawn(drawn(5)), epoch))
    subset = numbers_of(drawn(5)).argsort()[: kept_count(N, 0.1)]
    assert bool((weights[torch.isin(torch.arange(N), subset, invert=True)] == 0).all())
    expected = seta_window(values[subset], epoch, 5, 0.6)
    different = (weights[subset] > 0) != expected
    assert float(different.double().mean()) <= (0.02 if kind == "all equal" else 0.005)
    assert int(expected.sum()) in range(1, len(subset) + (kind == "none known"))
    assert set(ranks.asked) == {8 * BINS}
    assert len(ranks.asked) <= 5


def test_seta_on_shards_groups_as_tightly_as_the_replicated_one():
    for kind in ("losses", "of both signs", "many equal", "far apart"):
        values = made_up()[kind]
        thresholds = _thresholds(Ranks(values, 4).summed, lambda _, v: v[~v.isnan()], 5)
        known = values[~values.isnan()]
        ours, theirs = torch.bucketize(known.double(), thresholds, right=True), kmeans_1d(known, 5)
        assert inertia(known, ours) <= 1.001 * inertia(known, theirs)


def test_seta_on_shards_has_the_phases_and_the_end_of_the_host():
    values, policy = made_up()["of both signs"], SeTa(0.1, window_scale=0.6, delta=0.5, slides_from="easy")

    def kept(epoch):
        plan = seta_on_shards(policy, Scores(values, "suspect"), Ask(epoch, drawn(5), max_epochs=10), Shard(N))
        return values[plan.keep]

    assert [len(kept(epoch)) for epoch in (0, 5)] == [kept_count(N, 0.1)] * 2
    assert len(kept(3)) < kept_count(N, 0.1)
    assert float(kept(3).max()) == pytest.approx(1, abs=1e-3)  # its window of epoch 3 begins with the easiest again
    assert float(kept(2).min()) == pytest.approx(-1, abs=1e-3)


# ---- what does not depend on the number of ranks ------------------------------------------------------------


@KINDS
def test_the_selection_does_not_depend_on_the_number_of_ranks(kind):
    values = made_up()[kind]
    seen = []
    for world in WORLDS:
        ranks = Ranks(values, world)
        numbers = Numbers.drawn(stream(0, "plan", 3))
        rules = (
            infobatch_rule(ranks.summed, exact_mean(ranks.summed), 0.4, numbers),
            smallest_rule(ranks.summed, N, 500, numbers),
            seta_rule(ranks.summed, SeTa(window_scale=0.6), numbers, 1),
        )
        seen.append(torch.stack([ranks.weights(rule) for rule in rules]))
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_shards_of_several_blocks_are_planned_as_one(monkeypatch):
    values = made_up()["some missing"]
    seen = []
    for block in (1 << 18, 64, 1):
        monkeypatch.setattr("alignprune_pl.core.sharded._BLOCK", block)
        ranks = Ranks(values, 2)
        seen.append(ranks.weights(infobatch_rule(ranks.summed, exact_mean(ranks.summed), 0.4, Numbers.drawn(drawn(5)))))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
