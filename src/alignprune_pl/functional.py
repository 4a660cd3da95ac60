"""The pure functions behind scores and policies, for use without Lightning."""

from alignprune_pl.policies.epsilon_greedy import epsilon_greedy_mask
from alignprune_pl.policies.infobatch import infobatch_plan
from alignprune_pl.policies.kmeans import kmeans_1d
from alignprune_pl.policies.noise_rate import estimate_noise_rate
from alignprune_pl.policies.right_labels import fit_right_labels, twin_gap
from alignprune_pl.policies.rs2 import rs2_draw
from alignprune_pl.policies.seta import seta_groups, seta_window
from alignprune_pl.scores.alignment import alignment_score
from alignprune_pl.scores.ema import ema_step
from alignprune_pl.scores.loss_difference import loss_difference_score
from alignprune_pl.scores.mean import mean_loss

__all__ = [
    "alignment_score",
    "ema_step",
    "epsilon_greedy_mask",
    "estimate_noise_rate",
    "fit_right_labels",
    "infobatch_plan",
    "kmeans_1d",
    "loss_difference_score",
    "mean_loss",
    "rs2_draw",
    "seta_groups",
    "seta_window",
    "twin_gap",
]
