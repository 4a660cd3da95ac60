"""Policies: scores in, the plan of one epoch out. They know nothing of where a score comes from."""

from alignprune_pl.core.contracts import Policy, Suspects
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.policies.calibrated import Calibrated
from alignprune_pl.policies.epsilon_greedy import EpsilonGreedy
from alignprune_pl.policies.infobatch import InfoBatch, infobatch_plan
from alignprune_pl.policies.no_pruning import NoPruning
from alignprune_pl.policies.noise_rate import estimate_noise_rate
from alignprune_pl.policies.random import Random
from alignprune_pl.policies.rs2 import RS2
from alignprune_pl.policies.seta import SeTa
from alignprune_pl.policies.small_loss import SmallLoss
from alignprune_pl.policies.static_random import StaticRandom
from alignprune_pl.policies.ucb import UCB

__all__ = [
    "POLICIES",
    "RS2",
    "UCB",
    "Calibrated",
    "EpsilonGreedy",
    "InfoBatch",
    "NoPruning",
    "Policy",
    "Random",
    "SeTa",
    "SmallLoss",
    "StaticRandom",
    "Suspects",
    "estimate_noise_rate",
    "infobatch_plan",
    "make_policy",
    "register_policy",
]

register_policy = POLICIES.register
"""Make a policy known by name, as a decorator: ``@register_policy("mine")``."""

make_policy = POLICIES.new
"""The policy of a name, ours or one that an installed package announces: ``make_policy("random", ratio=0.5)``."""
