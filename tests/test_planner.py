from __future__ import annotations

import math

import pytest
import torch

from alignprune_pl import AlignmentScore, EpochPlan, InfoBatch, LossScore, NoPruning, TrajectoryStore
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.trajectory import Observed
from alignprune_pl.scores import TrajectoryScore


class Probing(InfoBatch):
    """Passes some samples forward without training on them."""

    def plan(self, scores, epoch, generator, max_epochs=None, low_is="easy"):
        plan = super().plan(scores, epoch, generator, max_epochs, low_is)
        return EpochPlan(plan.keep, plan.weight, torch.randperm(len(scores), generator=generator)[:9])


def test_a_restored_plan_has_the_samples_weights_and_probes_and_so_has_the_next():
    scores = torch.linspace(0, 5, 50)
    whole = Planner(Probing(0.5), LossScore(), seed=3)
    whole.make(scores, "easy", 4, 10, shuffles=True)
    resumed = Planner(Probing(0.5), LossScore(), seed=8)
    resumed.load_state_dict(whole.state_dict())
    assert len(resumed.plan.probe) == 9
    assert resumed.plan.weight.max() == 2
    for planner in (whole, resumed):
        assert (planner.epoch, planner.max_epochs) == (4, 10)
        planner.make(scores + 1, "easy", 5, 10, shuffles=True)
    assert resumed.plan.digest() == whole.plan.digest()


def test_another_seed_epoch_or_score_makes_another_plan():
    def digest(seed, epoch, shift):
        planner = Planner(InfoBatch(0.5), LossScore(), seed)
        planner.make(torch.linspace(0, 5, 50) ** shift, "easy", epoch, 10, shuffles=False)
        return planner.plan.digest()

    assert len({digest(0, 1, 1), digest(1, 1, 1), digest(0, 2, 1), digest(0, 1, 3)}) == 4


def test_the_loss_is_the_score_until_the_window_is_full():
    planner, store = Planner(NoPruning(), AlignmentScore(warm_up=5), 0), TrajectoryStore(2, window=3)
    for epoch in range(4):
        store.record(torch.arange(2), torch.tensor([3.0 - epoch, 2.0]))
        store.close_epoch(5.0 - epoch)
        scores, low_is = planner.scores(store)
        assert low_is == ("suspect" if epoch >= 2 else "easy")
        assert scores[0] == pytest.approx(1 if epoch >= 2 else 3 - epoch)


def test_the_loss_is_the_score_until_the_scores_own_window_is_full():
    planner, store = Planner(NoPruning(), AlignmentScore(warm_up=5, window=3), 0), TrajectoryStore(2, window=6)
    turned = []
    for epoch in range(6):
        store.record(torch.arange(2), torch.tensor([3.0 - epoch, 2.0]))
        store.close_epoch(5.0 - epoch)
        turned.append(planner.scores(store)[1])
    assert turned == ["easy"] * 2 + ["suspect"] * 4


def test_a_state_of_another_policy_is_refused():
    state = Planner(NoPruning(), LossScore(), 0).state_dict()
    with pytest.raises(ValueError, match=r"written with NoPruning\(\) and LossScore\(\), but this run has InfoBatch"):
        Planner(InfoBatch(), LossScore(), 0).load_state_dict(state)


def after_an_epoch(n):
    store = TrajectoryStore(n)
    store.close_epoch()
    return store


@pytest.mark.parametrize(
    ("returned", "given"),
    [
        (torch.zeros(7), r"torch.float32\[7\]"),
        (torch.zeros(5, 1), r"torch.float32\[5, 1\]"),
        (torch.zeros(5, dtype=torch.int64), r"torch.int64\[5\]"),
        ([0.0] * 5, "list"),
    ],
)
def test_a_score_that_gives_no_number_for_each_sample_is_refused(returned, given):
    class Odd(LossScore):
        def __call__(self, store):
            return returned

    with pytest.raises(ValueError, match=rf"Odd\(\) gave {given}, but float32\[5\] is expected"):
        Planner(NoPruning(), Odd(), 0).scores(after_an_epoch(5))


def test_an_infinite_score_is_none():
    class Infinite(LossScore):
        def __call__(self, store):
            return torch.tensor([1.0, math.inf, -math.inf, math.nan, 2.0])

    assert Planner(NoPruning(), Infinite(), 0).scores(TrajectoryStore(5))[0].isnan().all()  # not yet asked
    scores, _ = Planner(NoPruning(), Infinite(), 0).scores(after_an_epoch(5))
    assert scores.isnan().tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("returned", "given"),
    [(EpochPlan.of(torch.tensor([0, 5])), "sample 5"), (torch.tensor([0, 1]), "Tensor"), (None, "NoneType")],
)
def test_a_policy_that_gives_no_plan_of_the_samples_is_refused(returned, given):
    class Odd(NoPruning):
        def plan(self, scores, epoch, generator, max_epochs=None, low_is="easy"):
            return returned

    with pytest.raises(ValueError, match=rf"Odd\(\) planned {given} for epoch 2, but an EpochPlan of samples below 5"):
        Planner(Odd(), LossScore(), 0).make(torch.zeros(5), "easy", 2, None, shuffles=False)


class Told(NoPruning):
    """Notes what it is told of an epoch."""

    def observe(self, epoch, suspicion, reference, labels):
        self.told = (epoch, suspicion, reference, labels)


class SuspectIsLow(TrajectoryScore):
    """A score of which a low value is suspect."""

    low_is = "suspect"


@pytest.mark.parametrize(("score", "sign"), [(TrajectoryScore(0.0), 1), (SuspectIsLow(0.0), -1)])
def test_a_policy_is_told_of_both_training_samples_and_reference_what_is_high_for_suspect_ones(score, sign):
    planner, store = Planner(Told(), score, 0), TrajectoryStore(3, pairs=True)
    planner.make(torch.zeros(3), "easy", 4, 10, shuffles=False)
    store.record(torch.tensor([0, 2]), torch.tensor([1.0, 4.0]), torch.tensor([1, 5]), 3)
    store.close_epoch(2.5, Observed(torch.tensor([2.0, 3.0])))
    planner.observe(*planner.scores(store), store.labels())
    epoch, suspicion, reference, labels = planner.policy.told
    assert epoch == 4
    assert suspicion[[0, 2]].tolist() == [sign * 1.0, sign * 4.0]
    assert suspicion[1].isnan()
    assert reference.tolist() == [sign * 2.0, sign * 3.0]
    assert labels.tolist() == [0, -1, 1]


def test_a_policy_is_told_of_no_reference_where_the_score_does_not_rate_it():
    planner, store = Planner(Told(), LossScore(), 0), TrajectoryStore(1)
    store.record(torch.tensor([0]), torch.tensor([1.0]))
    store.close_epoch(2.5, Observed(torch.tensor([2.0, 3.0])))
    planner.observe(*planner.scores(store), store.labels())
    assert planner.policy.told[1].tolist() == [1.0]
    assert len(planner.policy.told[2]) == 0
