"""The pure functions behind scores and policies, for use without Lightning."""

from alignprune_pl.policies.infobatch import infobatch_plan
from alignprune_pl.policies.kmeans import kmeans_1d
from alignprune_pl.policies.seta import seta_groups, seta_window
from alignprune_pl.scores.alignment import alignment_score

__all__ = ["alignment_score", "infobatch_plan", "kmeans_1d", "seta_groups", "seta_window"]
