"""Scores: a trajectory in, one number for each sample out. They know nothing of policies."""

from alignprune_pl.core.contracts import Score
from alignprune_pl.core.registry import SCORES
from alignprune_pl.scores.alignment import AlignmentScore, alignment_score
from alignprune_pl.scores.ema import BatchLossScore, EmaLossScore
from alignprune_pl.scores.loss import LossScore
from alignprune_pl.scores.loss_difference import LossDifferenceScore, loss_difference_score
from alignprune_pl.scores.mean import EL2NScore, MarginScore, MeanLossScore, mean_loss
from alignprune_pl.scores.rival import RivalScore
from alignprune_pl.scores.trajectory_mean import TrajectoryScore

__all__ = [
    "SCORES",
    "AlignmentScore",
    "BatchLossScore",
    "EL2NScore",
    "EmaLossScore",
    "LossDifferenceScore",
    "LossScore",
    "MarginScore",
    "MeanLossScore",
    "RivalScore",
    "Score",
    "TrajectoryScore",
    "alignment_score",
    "loss_difference_score",
    "make_score",
    "mean_loss",
    "register_score",
]

register_score = SCORES.register
"""Make a score known by name, as a decorator: ``@register_score("mine")``."""

make_score = SCORES.new
"""The score of a name, ours or one that an installed package announces: ``make_score("mean_loss", window=5)``."""
