from __future__ import annotations

import math

import pytest
import torch

from alignprune_pl import UCB, AlignmentScore, EpochPlan, InfoBatch, LossScore, NoPruning, TrajectoryStore
from alignprune_pl.core.contracts import Scores
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.streams import stream
from alignprune_pl.core.trajectory import Observed
from alignprune_pl.scores import TrajectoryScore


class Probing(InfoBatch):
    """Passes some samples forward without training on them."""

    probes = True

    def plan(self, scores, ask):
        plan = super().plan(scores, ask)
        return EpochPlan(plan.keep, plan.weight, torch.randperm(len(scores), generator=ask.generator)[:9])


def make(planner: Planner, values: torch.Tensor, epoch: int, max_epochs: int | None = None, **kwargs) -> None:
    """Let it plan an epoch of a run that has seen nothing yet."""
    settings = {"store": TrajectoryStore(len(values)), "low_is": "easy", "shuffles": True, **kwargs}
    planner.make(settings["store"], Scores(values, settings["low_is"]), epoch, max_epochs, settings["shuffles"])


def test_a_restored_plan_has_the_samples_weights_and_probes_and_so_has_the_next():
    scores = torch.linspace(0, 5, 50)
    whole = Planner(Probing(0.5), LossScore(), seed=3)
    make(whole, scores, 4, 10)
    resumed = Planner(Probing(0.5), LossScore(), seed=8)
    resumed.load_state_dict(whole.state_dict())
    assert len(resumed.plan.probe) == 9
    assert resumed.plan.weight.max() == 2
    for planner in (whole, resumed):
        assert (planner.epoch, planner.max_epochs) == (4, 10)
        make(planner, scores + 1, 5, 10)
    assert resumed.plan.digest() == whole.plan.digest()


def test_another_seed_epoch_or_score_makes_another_plan():
    def digest(seed, epoch, shift):
        planner = Planner(InfoBatch(0.5), LossScore(), seed)
        make(planner, torch.linspace(0, 5, 50) ** shift, epoch, 10, shuffles=False)
        return planner.plan.digest()

    assert len({digest(0, 1, 1), digest(1, 1, 1), digest(0, 2, 1), digest(0, 1, 3)}) == 4


def test_the_loss_is_the_score_until_the_window_is_full():
    planner, store = Planner(NoPruning(), AlignmentScore(warm_up=5), 0), TrajectoryStore(2, window=3)
    for epoch in range(4):
        store.record(torch.arange(2), torch.tensor([3.0 - epoch, 2.0]))
        store.close_epoch(5.0 - epoch)
        scores = planner.scores(store)
        assert scores.low_is == ("suspect" if epoch >= 2 else "easy")
        assert scores.values[0] == pytest.approx(1 if epoch >= 2 else 3 - epoch)


def test_the_loss_is_the_score_until_the_scores_own_window_is_full():
    planner, store = Planner(NoPruning(), AlignmentScore(warm_up=5, window=3), 0), TrajectoryStore(2, window=6)
    turned = []
    for epoch in range(6):
        store.record(torch.arange(2), torch.tensor([3.0 - epoch, 2.0]))
        store.close_epoch(5.0 - epoch)
        turned.append(planner.scores(store).low_is)
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

    assert Planner(NoPruning(), Infinite(), 0).scores(TrajectoryStore(5)).values.isnan().all()  # not yet asked
    scores = Planner(NoPruning(), Infinite(), 0).scores(after_an_epoch(5))
    assert scores.values.isnan().tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("returned", "given"),
    [(EpochPlan.of(torch.tensor([0, 5])), "sample 5"), (torch.tensor([0, 1]), "Tensor"), (None, "NoneType")],
)
def test_a_policy_that_gives_no_plan_of_the_samples_is_refused(returned, given):
    class Odd(NoPruning):
        def plan(self, scores, ask):
            return returned

    with pytest.raises(ValueError, match=rf"Odd\(\) planned {given} for epoch 2, but an EpochPlan of samples below 5"):
        make(Planner(Odd(), LossScore(), 0), torch.zeros(5), 2)


def test_a_policy_that_probes_without_saying_so_is_refused():
    class Secret(Probing):
        probes = False

    with pytest.raises(
        ValueError, match=r"Secret\(.*\) planned 9 probes for epoch 2, but has probes=False; set probes = "
    ):
        make(Planner(Secret(), LossScore(), 0), torch.zeros(20), 2)


def test_policy_and_score_are_as_new_in_a_new_planner():
    policy, score, store = UCB(0.5), TrajectoryScore(), after_an_epoch(4)
    planner = Planner(policy, score, 0)
    store.record(torch.arange(4), torch.arange(4.0))
    store.close_epoch()
    planner.make(store, planner.scores(store), 2, None, shuffles=False)
    assert policy.state_dict()["epoch"] == 2
    assert score.state_dict()["epochs"] == 2
    Planner(policy, score, 0)
    assert policy.state_dict()["epoch"] is None
    assert score.state_dict()["epochs"] == 0


class Asked(NoPruning):
    """Notes what it is asked before an epoch and told after it."""

    def plan(self, scores, ask):
        self.asked = (scores, ask)
        return super().plan(scores, ask)

    def epoch_ended(self, scores, ask):
        self.told = (scores, ask)


class SuspectIsLow(TrajectoryScore):
    """A score of which a low value is suspect."""

    low_is = "suspect"


@pytest.mark.parametrize(("score", "sign"), [(TrajectoryScore(0.0), 1), (SuspectIsLow(0.0), -1)])
def test_a_policy_is_told_of_training_samples_reference_and_labels_after_an_epoch_and_asked_by_them_before_the_next(
    score, sign
):
    planner, store = Planner(Asked(), score, 0), TrajectoryStore(3, pairs=True)
    make(planner, torch.zeros(3), 4, 10, store=store)
    _, ask = planner.policy.asked
    assert (ask.epoch, ask.max_epochs) == (4, 10)
    assert ask.labels.tolist() == ask.rivals.tolist() == [-1, -1, -1]
    assert len(ask.reference) == 0
    store.record(torch.tensor([0, 2]), torch.tensor([1.0, 4.0]), torch.tensor([1, 5]), 3)
    store.close_epoch(2.5, Observed(torch.tensor([2.0, 3.0])))
    scores = planner.scores(store)
    planner.epoch_ended(store, scores, torch.empty(0))
    planner.make(store, scores, 5, 12, shuffles=False)
    for (found, ask), epoch, length in ((planner.policy.told, 4, 10), (planner.policy.asked, 5, 12)):
        assert (ask.epoch, ask.max_epochs) == (epoch, length)
        assert found.low_is == ask.reference.low_is == score.low_is
        assert found.suspicion[[0, 2]].tolist() == [sign * 1.0, sign * 4.0]
        assert found.values.isnan().tolist() == [False, True, False]
        assert ask.reference.suspicion.tolist() == [sign * 2.0, sign * 3.0]
        assert ask.labels.tolist() == [0, -1, 1]
        assert ask.rivals.tolist() == [1, -1, 2]


def test_a_policy_is_told_what_its_probes_have_shown_also_those_that_were_trained():
    class Probing(Asked):
        probes = True

        def plan(self, scores, ask):
            plan = super().plan(scores, ask)
            return EpochPlan(plan.keep, plan.weight, torch.tensor([2, 0]))

    planner, store = Planner(Probing(), LossScore(), 0), TrajectoryStore(4)
    make(planner, torch.zeros(4), 0, store=store)
    assert len(planner.policy.asked[1].probed) == 0
    store.record(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    store.close_epoch()
    planner.epoch_ended(store, planner.scores(store), torch.tensor([7.0, 0.5]))
    assert planner.policy.told[1].probed.nan_to_num(-1).tolist() == [0.5, -1, 7, -1]
    assert planner.policy.told[0].values[0] == 1.0


def test_a_policy_is_told_of_no_reference_and_no_labels_where_score_and_store_have_none():
    planner, store = Planner(Asked(), LossScore(), 0), TrajectoryStore(1)
    store.record(torch.tensor([0]), torch.tensor([1.0]))
    store.close_epoch(2.5, Observed(torch.tensor([2.0, 3.0])))
    planner.epoch_ended(store, planner.scores(store), torch.empty(0))
    scores, ask = planner.policy.told
    assert scores.values.tolist() == [1.0]
    assert (len(ask.reference), len(ask.labels), len(ask.rivals)) == (0, 0, 0)


def test_the_generator_is_the_epochs_own_stream_of_the_seed():
    planner = Planner(Asked(), LossScore(), 7)
    make(planner, torch.zeros(3), 2, shuffles=False)
    assert planner.policy.asked[1].generator.initial_seed() == stream(7, "plan", 2).initial_seed()


def test_a_state_holds_what_policy_and_score_remember_apart():
    planner = Planner(UCB(0.5), TrajectoryScore(), 0)
    make(planner, torch.zeros(3), 2)
    state = planner.state_dict()
    assert state["policy"].keys() == UCB().state_dict().keys()
    assert state["score"].keys() == TrajectoryScore().state_dict().keys()
    other = Planner(UCB(0.5), TrajectoryScore(), 0)
    other.load_state_dict(state)
    assert other.policy.state_dict()["epoch"] == 2


def test_a_policy_that_changes_the_scores_it_is_told_changes_no_others():
    class Zeroes(NoPruning):
        def epoch_ended(self, scores, ask):
            scores.values.fill_(0.0)

    planner, store = Planner(Zeroes(), LossScore(), 0), TrajectoryStore(1)
    store.record(torch.tensor([0]), torch.tensor([1.0]))
    store.close_epoch()
    scores = planner.scores(store)
    planner.epoch_ended(store, scores, torch.empty(0))
    assert scores.values.tolist() == [1.0]


def test_a_score_that_rates_other_samples_than_the_references_is_refused():
    class Short(TrajectoryScore):
        def reference_scores(self):
            return super().reference_scores()[:1]

    planner, store = Planner(NoPruning(), Short(), 0), TrajectoryStore(1)
    store.record(torch.tensor([0]), torch.tensor([1.0]))
    store.close_epoch(2.5, Observed(torch.tensor([2.0, 3.0])))
    planner.scores(store)
    with pytest.raises(ValueError, match=r"Short\(.*\) gave 1 reference scores, but 2 are expected"):
        make(planner, torch.zeros(1), 1, store=store)
