"""What every registered score keeps to, alone and in every policy, and that one that does not is found out."""

from __future__ import annotations

import inspect
import io
import math

import pytest
import torch

from alignprune_pl.core.contracts import Scores
from alignprune_pl.core.epoch_metrics import noise_auroc
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.trajectory import Observed, TrajectoryStore
from alignprune_pl.policies import POLICIES
from alignprune_pl.scores import SCORES, MeanLossScore, Score

N, WINDOW = 120, 5
OURS = [
    "batch_loss",
    "das",
    "ema_loss",
    "el2n",
    "loss",
    "loss_difference",
    "margin",
    "mean_loss",
    "rival",
    "trajectory",
]
WRONG = torch.arange(N) % 3 == 0


def observed(score: Score, epoch: int, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples seen in an epoch and what of them: clean ones learn, wrong ones do not; the last ten are never seen."""
    generator = torch.Generator().manual_seed(epoch)
    easy = 2.5 * 0.6**epoch + 0.1 * torch.rand(N, generator=generator)
    stuck = 2.5 + 0.3 * torch.rand(N, generator=generator)
    value = torch.where(WRONG, stuck, easy)
    seen = (torch.rand(N, generator=generator) < 0.8) | (epoch < 1)
    seen[-10:] = False
    index = seen.nonzero().squeeze(1)
    value = -value if score.observes == "margin" else value
    return order[index], value[index]


def reference(epoch: int) -> float:
    return 2 * 0.6**epoch + 0.05


def advance(store: TrajectoryStore, score: Score, epochs: int, order: torch.Tensor | None = None) -> TrajectoryStore:
    """Let so many epochs pass; ``order`` is where each sample stands in the store."""
    for _ in range(epochs):
        store.record(*observed(score, store.epochs, torch.arange(N) if order is None else order))
        store.close_epoch(reference(store.epochs))
    return store


def after(score: Score, epochs: int, order: torch.Tensor | None = None) -> torch.Tensor:
    """The score after so many epochs, asked for after each of them as a run does."""
    store = TrajectoryStore(N, WINDOW)
    for _ in range(epochs):
        scores = score(advance(store, score, 1, order))
    return scores


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(-99), other.nan_to_num(-99))


def check_shape(make):
    """One float32 a sample, none for one that was never seen, and one for all that are seen all the time."""
    for epochs in (WINDOW, 8):
        scores = after(make(), epochs)
        assert scores.dtype == torch.float32
        assert scores.shape == (N,)
        assert scores[-10:].isnan().all(), "what was never seen has no score"
        assert scores[:-10].isfinite().float().mean() > 0.9
        assert not scores.isinf().any()


def check_same_epoch(make):
    """Asked again after the same epoch it says the same, and the store is as it was."""
    score, store = make(), TrajectoryStore(N, WINDOW)
    for _ in range(6):
        advance(store, score, 1)
        before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in store.state_dict().items()}
        first = score(store)
        kept = first.clone()
        assert same(score(store), kept), "the same epoch has the same score"
        first.fill_(0)
        assert same(score(store), kept), "what it handed over is not its own memory"
        for name, value in store.state_dict().items():
            is_same = same(value, before[name]) if isinstance(value, torch.Tensor) else value == before[name]
            assert is_same, "the store is left alone"


def check_orientation(make):
    """The end that it calls suspect is where the wrong labels are."""
    score = make()
    suspicion = Scores(after(score, 6), score.low_is).suspicion
    assert noise_auroc(suspicion, WRONG) > 0.8


def check_places(make):
    """A score belongs to the sample, not to its place in the data."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(after(make(), 6, order)[order], after(make(), 6), equal_nan=True)


def check_others(make):
    """A sample whose losses are not finite has no effect on the scores of others."""
    score, store = make(), TrajectoryStore(N, WINDOW)
    for _ in range(5):
        index, value = observed(score, store.epochs, torch.arange(N))
        store.record(index, torch.where(index == 7, math.nan if store.epochs % 2 else math.inf, value))
        store.close_epoch(reference(store.epochs))
        scores = score(store)
    assert scores[7].isnan()
    others = torch.arange(N) != 7
    assert same(scores[others], after(make(), 5)[others])


def check_state(make):
    """One that goes on from a saved state says what it would have said; after a reset it is as new."""
    for at in range(1, 6):
        whole, part, resumed = make(), make(), make()
        expected = after(whole, 7)
        store = TrajectoryStore(N, WINDOW)
        for _ in range(at):
            part(advance(store, part, 1))
        after(resumed, 3)
        file = io.BytesIO()
        torch.save(part.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        for _ in range(7 - at):
            scores = resumed(advance(store, resumed, 1))
        assert same(scores, expected), "the state holds all that is remembered"
        resumed.reset()
        assert same(after(resumed, 4), after(make(), 4)), "a new run begins anew"


def check_reference(make):
    """It rates each reference sample, high for suspect as it has it, if it says so, and otherwise none."""
    score, store = make(), TrajectoryStore(N, WINDOW)
    for _ in range(6):
        store.record(*observed(score, store.epochs, torch.arange(N)))
        store.close_epoch(reference(store.epochs), Observed(torch.tensor([1.0, 2.0])))
        score(store)
    rated = Scores(score.reference_scores(), score.low_is).suspicion
    assert len(rated) == (2 if score.rates_reference else 0)
    assert not score.rates_reference or rated[0] < rated[1]


def check_settings(make):
    """Arguments are stored under their own names, and shown; a window below 2 is refused."""
    score = make()
    parameters = inspect.signature(type(score)).parameters
    for name, parameter in parameters.items():
        assert getattr(score, name) == parameter.default
        assert f"{name}={parameter.default!r}" in repr(score)
    if "window" in parameters:
        assert same(type(score)(window=2)(advance(TrajectoryStore(N, WINDOW), score, 5)), at_two(score))
        with pytest.raises(ValueError, match="window=1 is given"):
            type(score)(window=1)


def at_two(score: Score) -> torch.Tensor:
    """The same score where the store itself remembers two epochs."""
    return type(score)()(advance(TrajectoryStore(N, 2), score, 5))


CHECKS = [
    check_shape,
    check_same_epoch,
    check_orientation,
    check_places,
    check_others,
    check_state,
    check_reference,
    check_settings,
]


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_score_keeps_the_contract(name, check):
    check(SCORES.get(name))


def test_every_score_of_ours_is_in_this_suite():
    ours = {name for name in SCORES.names() if SCORES.get(name).__module__.startswith("alignprune_pl")}
    assert ours == set(OURS)


class Good(MeanLossScore):
    """A score to be broken in one way at a time; it remembers the sum of all mean losses."""

    def __init__(self, window: int | None = None) -> None:
        super().__init__(window)
        self.reset()

    def __call__(self, store):
        if store.epochs != self.epochs:
            self.epochs, self.total = store.epochs, self.total + super().__call__(store)
        return super().__call__(store) if self.window else self.total / self.epochs

    def reset(self):
        self.epochs, self.total = 0, torch.zeros(N)

    def state_dict(self):
        return {"epochs": self.epochs, "total": self.total}

    def load_state_dict(self, state):
        self.epochs, self.total = state["epochs"], state["total"]


class InDouble(MeanLossScore):
    def __call__(self, store):
        return super().__call__(store).double()


class CountsCalls(MeanLossScore):
    calls = 0

    def __call__(self, store):
        self.calls += 1
        return super().__call__(store) + self.calls


class SaysSuspectIsEasy(MeanLossScore):
    low_is = "suspect"


class KnowsPlaces(MeanLossScore):
    def __call__(self, store):
        return super().__call__(store) + torch.arange(N)


class ComparesWithOthers(MeanLossScore):
    def __call__(self, store):
        scores = super().__call__(store)
        return scores - scores.nanmean()


class ForgetsOnSaving(Good):
    def load_state_dict(self, state):
        self.reset()


class SaysItRatesTheReference(MeanLossScore):
    rates_reference = True


class IgnoresItsWindow(MeanLossScore):
    def __call__(self, store):
        return MeanLossScore()(store)


BROKEN = {
    check_shape: InDouble,
    check_same_epoch: CountsCalls,
    check_orientation: SaysSuspectIsEasy,
    check_places: KnowsPlaces,
    check_others: ComparesWithOthers,
    check_state: ForgetsOnSaving,
    check_reference: SaysItRatesTheReference,
    check_settings: IgnoresItsWindow,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_score_that_breaks_a_rule_of_the_contract_is_found_out(check):
    if check is not check_settings:  # its window is the mean's, its memory is not
        check(Good)
    with pytest.raises(AssertionError):
        check(BROKEN[check])


@pytest.mark.parametrize("policy", POLICIES.names())
@pytest.mark.parametrize("score", SCORES.names())
def test_every_score_works_in_every_policy(policy, score):
    planner = Planner(POLICIES.get(policy)(), SCORES.get(score)(), seed=1)
    store, sizes = TrajectoryStore(N, WINDOW, pairs=planner.score.observes == "rival"), []
    for epoch in range(9):
        planner.make(store, planner.scores(store), epoch, 10, shuffles=True)
        sizes.append(len(planner.plan.keep))
        kept = set(planner.plan.keep.tolist())
        index, value = observed(planner.score, epoch, torch.arange(N))
        trained = torch.tensor([i in kept for i in index.tolist()])
        pair = torch.where(value > 1, 1, 2)[trained] if planner.score.observes == "rival" else None
        store.record(index[trained], value[trained], pair, 3)
        clean = torch.full((10,), reference(epoch))
        store.close_epoch(reference(epoch), Observed(clean, torch.full((10,), 2), 3))
        planner.epoch_ended(store, planner.scores(store), torch.ones(len(planner.plan.probe)))
    assert sizes[0] in (N, int(0.7 * N), int(0.9 * N), int(0.95 * N))
    assert all(0 < size <= N for size in sizes)
    assert policy == "none" or min(sizes) < N
