import math

import numpy as np
import pytest
import torch

from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.scores import AlignmentScore, LossScore, alignment_score

NAN = math.nan


def test_agrees_with_numpy_on_whole_trajectories():
    losses, reference = torch.rand(200, 10) * 3, torch.rand(10)
    expected = [np.corrcoef(row, reference)[0, 1] for row in losses.double()]
    torch.testing.assert_close(alignment_score(losses, reference), torch.tensor(expected).float(), atol=1e-5, rtol=0)


def test_agrees_with_numpy_over_the_observed_epochs_alone():
    losses, reference = torch.rand(200, 10), torch.rand(10)
    losses[torch.rand(200, 10) < 0.4] = NAN
    for row, score in zip(losses, alignment_score(losses, reference), strict=True):
        seen = ~row.isnan()
        if seen.sum() < 3:
            assert score.isnan()
        else:
            assert score.item() == pytest.approx(np.corrcoef(row[seen], reference[seen])[0, 1], abs=1e-5)


def test_does_not_depend_on_the_scale_or_level_of_a_loss():
    losses, reference = torch.rand(50, 10), torch.rand(10)
    torch.testing.assert_close(
        alignment_score(losses, reference), alignment_score(1e-4 * losses + 0.5, reference), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("level", [0.0, 1e-8, 0.1, 3.3, 1e6])
def test_a_constant_trajectory_has_no_score(level):
    assert alignment_score(torch.full((1, 10), level), torch.rand(10)).isnan().all()


def test_a_constant_reference_leaves_all_scores_undefined():
    assert alignment_score(torch.rand(5, 10), torch.full((10,), 0.3)).isnan().all()


def test_a_trajectory_shorter_than_min_observed_has_no_score():
    losses = torch.tensor([[NAN, 2.0, 1.0, NAN], [3.0, 2.0, 1.0, NAN]])
    scores = alignment_score(losses, torch.tensor([3.0, 2.0, 1.0, 0.0]))
    assert scores[0].isnan()
    assert scores[1].item() == pytest.approx(1)


def test_an_epoch_without_a_reference_loss_is_left_out():
    losses = torch.tensor([[9.0, 3.0, 2.0, 1.0]])
    assert alignment_score(losses, torch.tensor([NAN, 3.0, 2.0, 1.0])).item() == pytest.approx(1)


def test_one_broken_trajectory_does_not_spoil_the_others():
    losses = torch.rand(3, 10)
    alone = alignment_score(losses[:1], torch.arange(10.0))
    losses[1], losses[2, 0] = NAN, math.inf
    scores = alignment_score(losses, torch.arange(10.0))
    assert scores[0] == alone[0]
    assert scores[1].isnan()
    assert scores[2].isfinite()


def test_carry_is_the_papers_form_and_mask_leaves_pruned_epochs_out():
    store = TrajectoryStore(1, 10)
    for loss, reference in ((3.0, 3.0), (None, 2.0), (2.0, 1.5), (1.0, 1.0)):
        if loss is not None:
            store.record(torch.tensor([0]), torch.tensor([loss]))
        store.close_epoch(reference)
    carried = AlignmentScore(missing="carry")(store).item()
    masked = AlignmentScore(missing="mask")(store).item()
    assert carried == pytest.approx(np.corrcoef([3, 3, 2, 1], [3, 2, 1.5, 1])[0, 1], abs=1e-6)
    assert masked == pytest.approx(np.corrcoef([3, 2, 1], [3, 1.5, 1])[0, 1], abs=1e-6)


def test_each_score_states_what_low_means():
    assert AlignmentScore().low_is == "suspect"
    assert LossScore().low_is == "easy"


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 10\) and a reference of shape \(9,\)"):
        alignment_score(torch.rand(2, 10), torch.rand(9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"missing": "drop"}, "missing='drop'"), ({"warm_up": 1}, "warm_up=1"), ({"min_observed": 1}, "min_observed=1")],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AlignmentScore(**arguments)
