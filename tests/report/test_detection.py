"""Which labels a run suspects by its score."""

from __future__ import annotations

import numpy as np

from alignprune_pl.report.detection import bounded, confusion, most_suspect


def test_infinite_scores_are_bounded_by_the_finite_ones_and_unknown_ones_stay():
    scores = bounded(np.array([np.inf, 1.0, np.nan, 3.0, -np.inf]))
    assert np.array_equal(scores, [3.0, 1.0, np.nan, 3.0, 1.0], equal_nan=True)
    assert bounded(np.array([np.inf, -np.inf])).tolist() == [0.0, 0.0]
    assert len(bounded(np.array([]))) == 0


def test_the_most_suspect_come_first_and_ties_in_their_order():
    assert most_suspect(np.array([1.0, 3.0, np.nan, 3.0, 2.0]), 3).tolist() == [1, 3, 4]


def test_confusion_counts_given_labels_of_each_class():
    matrix = confusion(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 2]), 4)
    assert matrix[0].round(3).tolist() == [0.667, 0.333, 0, 0]
    assert matrix[1].tolist() == [0, 0, 1, 0]
    assert (matrix[2:] == 0).all()
