"""The exponential means and the means over the window."""

from __future__ import annotations

import math

import pytest
import torch

from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.scores import BatchLossScore, EmaLossScore, MeanLossScore, mean_loss


def test_the_exponential_mean_follows_every_observed_loss_from_the_first_one_on():
    score, store = EmaLossScore(alpha=0.8), TrajectoryStore(2, window=2)
    expected = None
    for epoch in range(9):
        loss = 1.2345 / (epoch + 1)
        store.record(torch.tensor([0]), torch.tensor([loss]))
        if epoch % 3 == 0:
            store.record(torch.tensor([1]), torch.tensor([float(epoch)]))
        store.close_epoch()
        expected = loss if expected is None else 0.8 * expected + 0.2 * loss
        # In full precision, though the trajectory is kept in bfloat16.
        assert score(store)[0].item() == pytest.approx(expected, rel=1e-6)
    assert score(store)[1].item() == pytest.approx(0.8 * (0.8 * 0 + 0.2 * 3) + 0.2 * 6)


def test_an_exponential_mean_that_comes_late_starts_from_what_is_remembered():
    store = TrajectoryStore(1, window=3, dtype=torch.float32)
    for loss in (9.0, 4.0, 3.0, 2.0):
        store.record(torch.tensor([0]), torch.tensor([loss]))
        store.close_epoch()
    score = EmaLossScore(alpha=0.8)
    assert score(store).item() == pytest.approx(0.8 * (0.8 * 4 + 0.2 * 3) + 0.2 * 2)
    # And from nothing where the store is that of another run.
    store = TrajectoryStore(1, window=3, dtype=torch.float32)
    store.record(torch.tensor([0]), torch.tensor([7.0]))
    store.close_epoch()
    assert score(store).item() == 7


def test_bls_is_the_exponential_mean_of_batch_losses():
    assert isinstance(BatchLossScore(), EmaLossScore)
    assert (BatchLossScore().observes, EmaLossScore().observes) == ("batch_loss", "loss")


def test_the_mean_is_over_observed_epochs_of_the_window():
    store = TrajectoryStore(1, window=3, dtype=torch.float32)
    for loss in (9.0, 4.0, None, 2.0):
        if loss is not None:
            store.record(torch.tensor([0]), torch.tensor([loss]))
        store.close_epoch()
    assert MeanLossScore()(store).item() == 3
    assert MeanLossScore(window=2)(store).item() == 2


def test_the_mean_agrees_with_torchs():
    losses = torch.rand(100, 7)
    losses[torch.rand(100, 7) < 0.5] = math.nan
    losses[0] = math.nan
    torch.testing.assert_close(mean_loss(losses), losses.nanmean(dim=1), equal_nan=True)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, math.nan])
def test_a_share_outside_zero_to_one_is_refused(alpha):
    with pytest.raises(ValueError, match="a share in \\[0, 1\\) is expected"):
        EmaLossScore(alpha)
