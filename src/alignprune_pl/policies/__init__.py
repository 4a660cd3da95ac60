"""Policies: scores in, the plan of one epoch out. They know nothing of where a score comes from."""

from alignprune_pl.policies.base import Policy
from alignprune_pl.policies.infobatch import InfoBatch, infobatch_plan
from alignprune_pl.policies.no_pruning import NoPruning
from alignprune_pl.policies.random import Random
from alignprune_pl.policies.seta import SeTa

__all__ = ["InfoBatch", "NoPruning", "Policy", "Random", "SeTa", "infobatch_plan"]
