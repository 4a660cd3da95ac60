"""Scores: a loss trajectory in, one number for each sample out. They know nothing of policies."""

from alignprune_pl.scores.alignment import AlignmentScore, alignment_score
from alignprune_pl.scores.base import Score
from alignprune_pl.scores.loss import LossScore

__all__ = ["AlignmentScore", "LossScore", "Score", "alignment_score"]
