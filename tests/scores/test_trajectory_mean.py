"""The mean of all losses since the start."""

from __future__ import annotations

import io
import math

import pytest
import torch

from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.scores import TrajectoryScore

NAN = math.nan
# Of each sample, its loss in each epoch; None where it was not observed. The last one never is.
LOSSES = [
    [3.0, 2.0, 1.0, 0.5, 0.25, 0.125],
    [3.0, None, None, 0.5, None, None],
    [None, None, 4.0, None, 2.0, 7.0],
    [None, None, None, None, None, 1.5],
    [0.0, 0.0, 9.0, 0.0, None, 0.0],
    [None, None, None, None, None, None],
]
EPOCHS = len(LOSSES[0])


def new_store(window: int = 2) -> TrajectoryStore:
    return TrajectoryStore(len(LOSSES), window=window, dtype=torch.float32)


def close(store: TrajectoryStore, epoch: int) -> None:
    """Let the store see one epoch of LOSSES."""
    seen = [i for i, losses in enumerate(LOSSES) if losses[epoch] is not None]
    store.record(torch.tensor(seen), torch.tensor([LOSSES[i][epoch] for i in seen]))
    store.close_epoch()


def expected(decay: float, last: int, first: int = 0) -> torch.Tensor:
    """The weighted means after an epoch, in plain Python."""
    means = []
    for losses in LOSSES:
        seen = [(decay ** (last - e), losses[e]) for e in range(first, last + 1) if losses[e] is not None]
        weight = sum(w for w, _ in seen)
        means.append(sum(w * loss for w, loss in seen) / weight if weight else NAN)
    return torch.tensor(means)


def assert_same(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(actual, wanted, equal_nan=True)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99])
def test_it_is_the_mean_of_the_observed_losses_weighted_by_their_age(decay):
    score, store = TrajectoryScore(decay), new_store()
    for epoch in range(EPOCHS):
        close(store, epoch)
        assert_same(score(store), expected(decay, epoch))


def test_an_epoch_weighs_a_twentieth_less_than_the_next_one_by_default():
    score, store = TrajectoryScore(), new_store()
    for epoch in range(3):
        close(store, epoch)
        last = score(store)
    assert last[0].item() == pytest.approx((0.9025 * 3 + 0.95 * 2 + 1) / (0.9025 + 0.95 + 1))


def test_it_remembers_losses_that_have_left_the_window():
    score, store = TrajectoryScore(0.9), new_store(window=2)
    close(store, 0)
    assert score(store)[1].item() == 3
    for epoch in (1, 2):
        close(store, epoch)
        assert score(store)[1].item() == pytest.approx(3)
    assert store.losses()[1].isnan().all()


def test_without_decay_it_is_the_newest_loss_of_those_observed_in_the_last_epoch():
    score, store = TrajectoryScore(decay=0.0), new_store()
    for epoch in range(EPOCHS):
        close(store, epoch)
        assert_same(score(store), torch.tensor([NAN if losses[epoch] is None else losses[epoch] for losses in LOSSES]))
        assert_same(score(store), store.newest())


def test_a_sample_that_was_never_observed_has_no_score():
    score, store = TrajectoryScore(0.9), new_store()
    for epoch in range(EPOCHS):
        close(store, epoch)
        unseen = [all(loss is None for loss in losses[: epoch + 1]) for losses in LOSSES]
        assert score(store).isnan().tolist() == unseen


def test_it_is_the_same_when_asked_again_in_an_epoch():
    score, store = TrajectoryScore(0.9), new_store()
    for epoch in range(EPOCHS):
        close(store, epoch)
        first = score(store)
        for _ in range(2):
            assert torch.equal(score(store).nan_to_num(-1), first.nan_to_num(-1))
    assert_same(first, expected(0.9, EPOCHS - 1))


def test_a_losss_full_precision_counts_though_the_trajectory_is_rounded():
    score, store = TrajectoryScore(0.9), TrajectoryStore(1, window=2, dtype=torch.bfloat16)
    for loss in (1.2345, 0.98765):
        store.record(torch.tensor([0]), torch.tensor([loss]))
        store.close_epoch()
        mean = score(store)
    assert mean.item() == pytest.approx((0.9 * 1.2345 + 0.98765) / 1.9, rel=1e-6)


@pytest.mark.parametrize("asked_after", [[5], [0, 3, 5], [1, 5], [2, 4, 5]])
def test_epochs_that_have_passed_in_the_meantime_count_one_by_one(asked_after):
    score, store = TrajectoryScore(0.7), new_store(window=EPOCHS)
    for epoch in range(EPOCHS):
        close(store, epoch)
        if epoch in asked_after:
            assert_same(score(store), expected(0.7, epoch))


def test_of_epochs_before_the_first_call_those_count_that_are_remembered():
    score, store = TrajectoryScore(0.7), new_store(window=3)
    for epoch in range(EPOCHS):
        close(store, epoch)
    assert_same(score(store), expected(0.7, EPOCHS - 1, first=EPOCHS - 3))


def run(score: TrajectoryScore, store: TrajectoryStore, epochs: range) -> list[torch.Tensor]:
    scores = []
    for epoch in epochs:
        close(store, epoch)
        scores.append(score(store))
    return scores


@pytest.mark.parametrize("at", [1, 3, 5])
def test_it_goes_on_from_a_saved_state(at):
    whole, part, store, other = TrajectoryScore(0.9), TrajectoryScore(0.9), new_store(), new_store()
    run(whole, store, range(at))
    run(part, other, range(at))
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    file.seek(0)
    resumed = TrajectoryScore(0.9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    # The store has only two epochs, so that the rest is in the state.
    assert_same(resumed(other), expected(0.9, at - 1))
    for actual, wanted in zip(
        run(resumed, other, range(at, EPOCHS)), run(whole, store, range(at, EPOCHS)), strict=True
    ):
        assert torch.equal(actual.nan_to_num(-1), wanted.nan_to_num(-1))
    assert_same(actual, expected(0.9, EPOCHS - 1))


def test_a_state_stays_as_it_was_taken():
    score, store = TrajectoryScore(0.9), new_store()
    run(score, store, range(2))
    state = score.state_dict()
    sums = state["sums"].clone()
    run(score, store, range(2, 4))
    assert state["epochs"] == 2
    assert torch.equal(state["sums"], sums)


def test_after_a_reset_it_knows_nothing():
    score, store = TrajectoryScore(0.9), new_store()
    run(score, store, range(2))
    score.reset()
    store = new_store()
    for epoch in range(2, EPOCHS):
        close(store, epoch)
        assert_same(score(store), expected(0.9, epoch, first=2))


def test_a_younger_store_or_one_of_another_size_is_that_of_another_run():
    score, store = TrajectoryScore(0.9), new_store()
    run(score, store, range(4))
    store = new_store()
    close(store, 1)
    assert_same(score(store), expected(0.9, 1, first=1))
    store = TrajectoryStore(2, window=3)
    for loss in (4.0, 2.0):
        store.record(torch.tensor([0]), torch.tensor([loss]))
        store.close_epoch()
    assert_same(score(store), torch.tensor([(0.9 * 4 + 2) / 1.9, NAN]))


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, NAN, "0.9"])
def test_a_decay_outside_zero_to_one_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay={decay!r} is given, but a share in \\[0, 1\\) is expected"):
        TrajectoryScore(decay)


def test_low_means_easy_and_losses_are_what_it_observes():
    assert (TrajectoryScore.low_is, TrajectoryScore.observes) == ("easy", "loss")
