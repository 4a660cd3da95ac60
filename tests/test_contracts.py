"""What a policy and a score are asked and hand over, and what a class of one's own gets by default."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from alignprune_pl import EpochPlan, Policy, Score, TrajectoryStore
from alignprune_pl.core.contracts import Ask, Scores, Suspects
from planning import ended, planned

NAN = math.nan


def same(actual: torch.Tensor, wanted: list[float]) -> bool:
    return actual.nan_to_num(-99).tolist() == torch.tensor(wanted).nan_to_num(-99).tolist()


@pytest.mark.parametrize(
    ("low_is", "end", "sign"),
    [
        ("easy", "low", 1),
        ("easy", "easy", 1),
        ("easy", "suspect", -1),
        ("suspect", "low", 1),
        ("suspect", "easy", -1),
        ("suspect", "suspect", 1),
    ],
)
def test_scores_are_turned_so_that_an_end_is_low(low_is, end, sign):
    scores = Scores(torch.tensor([1.0, NAN, 3.0]), low_is)
    assert same(scores.turned(end), [sign * 1.0, NAN, sign * 3.0])
    assert same(scores.suspicion, [1.0, NAN, 3.0] if low_is == "easy" else [-1.0, NAN, -3.0])


@pytest.mark.parametrize("low_is", ["easy", "suspect"])
def test_a_part_of_the_scores_means_the_same(low_is):
    scores = Scores(torch.tensor([5.0, NAN, 3.0, 1.0]), low_is)
    some = scores.of(torch.tensor([3, 1]))
    assert same(some.values, [1.0, NAN])
    rest = scores.without(torch.tensor([True, False, False, True]))
    assert same(rest.values, [NAN, NAN, 3.0, NAN])
    assert some.low_is == rest.low_is == low_is
    assert same(scores.values, [5.0, NAN, 3.0, 1.0])
    assert (len(scores), len(some), len(rest)) == (4, 2, 4)


def test_where_nothing_is_known_labels_and_reference_are_empty():
    ask = Ask(3, torch.Generator())
    assert (ask.epoch, ask.max_epochs, len(ask.labels), len(ask.reference)) == (3, None, 0, 0)
    assert ask.labels.dtype == torch.int64


def test_what_is_asked_about_some_samples_is_what_is_known_of_them():
    labels, reference = torch.tensor([4, 5, 6]), Scores(torch.ones(2))
    ask = Ask(3, torch.Generator(), 9, labels, reference, torch.tensor([0.5, NAN, 2.0]), labels + 1)
    some = ask.of(torch.tensor([2, 0]))
    assert (some.epoch, some.max_epochs, some.generator, some.reference) == (3, 9, ask.generator, reference)
    assert (some.labels.tolist(), some.rivals.tolist(), some.probed.tolist()) == ([6, 4], [7, 5], [2.0, 0.5])
    nothing = Ask(3, torch.Generator()).of(torch.tensor([2, 0]))
    assert (len(nothing.labels), len(nothing.rivals), len(nothing.probed)) == (0, 0, 0)


@pytest.mark.parametrize("given", [Scores(torch.ones(1)), Ask(0, torch.Generator())], ids=["scores", "ask"])
def test_what_is_handed_to_a_policy_is_not_changed_by_it(given):
    for field in dataclasses.fields(given):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(given, field.name, None)


def test_suspects_have_their_own_scores():
    suspects = Suspects(torch.tensor([2, 0]), torch.tensor([3.0, NAN, 4.0]), 0.5)
    assert suspects.scores.tolist() == [4.0, 3.0]


class Mine(Policy):
    def plan(self, scores, ask):
        return EpochPlan.of(torch.arange(len(scores)))


class Own(Score):
    def __call__(self, store):
        return store.last_loss()


def test_a_policy_of_ones_own_needs_a_plan_alone():
    policy = Mine()
    assert (policy.reads_score, policy.usual_score) == (True, "das")
    assert (policy.needs_reference, policy.probes, policy.by_place) == (False, False, False)
    ended(policy, 0, torch.ones(3), torch.ones(2), torch.zeros(3, dtype=torch.int64))
    assert (policy.noise_rate, policy.suspects(), policy.state_dict()) == (None, None, {})
    policy.load_state_dict({})
    policy.reset()
    assert planned(policy, torch.ones(3)).keep.tolist() == [0, 1, 2]
    assert repr(policy) == "Mine()"


def test_a_score_of_ones_own_needs_a_call_alone():
    score = Own()
    assert (score.low_is, score.observes, score.warm_up, score.min_epochs, score.window) == ("easy", "loss", 0, 0, None)
    assert (score.needs_reference, score.rates_reference) == (False, False)
    assert (len(score.reference_scores()), score.state_dict()) == (0, {})
    score.load_state_dict({})
    score.reset()
    assert len(score(TrajectoryStore(3))) == 3
    assert repr(score) == "Own()"


@pytest.mark.parametrize(("kind", "missing"), [(Policy, "plan"), (Score, "__call__")])
def test_a_class_without_its_one_method_cannot_be_made(kind, missing):
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Empty", (kind,), {})()
