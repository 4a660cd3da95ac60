"""Dynamic data pruning under label noise, as one PyTorch Lightning callback.

Public names load on first use (PEP 562), so that importing the tensor code, ``alignprune_pl.scores``
say, does not import Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "AlignPrune": "callback",
    "AlignmentScore": "scores",
    "Ask": "core.contracts",
    "BatchLossScore": "scores",
    "Calibrated": "policies",
    "EL2NScore": "scores",
    "EmaLossScore": "scores",
    "EpochPlan": "core.plan",
    "EpsilonGreedy": "policies",
    "InfoBatch": "policies",
    "LossDifferenceScore": "scores",
    "LossScore": "scores",
    "MarginScore": "scores",
    "MeanLossScore": "scores",
    "NoPruning": "policies",
    "Policy": "core.contracts",
    "RS2": "policies",
    "Random": "policies",
    "RunFolder": "training.run_folder",
    "RivalScore": "scores",
    "Score": "core.contracts",
    "Scores": "core.contracts",
    "SeTa": "policies",
    "SmallLoss": "policies",
    "StaticRandom": "policies",
    "Suspects": "core.contracts",
    "TrajectoryScore": "scores",
    "TrajectoryStore": "core.trajectory",
    "UCB": "policies",
    "number_of": "core.keys",
    "register_policy": "policies",
    "register_score": "scores",
}

__all__ = [
    "RS2",
    "UCB",
    "AlignPrune",
    "AlignmentScore",
    "Ask",
    "BatchLossScore",
    "Calibrated",
    "EL2NScore",
    "EmaLossScore",
    "EpochPlan",
    "EpsilonGreedy",
    "InfoBatch",
    "LossDifferenceScore",
    "LossScore",
    "MarginScore",
    "MeanLossScore",
    "NoPruning",
    "Policy",
    "Random",
    "RivalScore",
    "RunFolder",
    "Score",
    "Scores",
    "SeTa",
    "SmallLoss",
    "StaticRandom",
    "Suspects",
    "TrajectoryScore",
    "TrajectoryStore",
    "number_of",
    "register_policy",
    "register_score",
]

if TYPE_CHECKING:
    from alignprune_pl.callback import AlignPrune
    from alignprune_pl.core.contracts import Ask, Policy, Score, Scores, Suspects
    from alignprune_pl.core.keys import number_of
    from alignprune_pl.core.plan import EpochPlan
    from alignprune_pl.core.trajectory import TrajectoryStore
    from alignprune_pl.policies import (
        RS2,
        UCB,
        Calibrated,
        EpsilonGreedy,
        InfoBatch,
        NoPruning,
        Random,
        SeTa,
        SmallLoss,
        StaticRandom,
        register_policy,
    )
    from alignprune_pl.scores import (
        AlignmentScore,
        BatchLossScore,
        EL2NScore,
        EmaLossScore,
        LossDifferenceScore,
        LossScore,
        MarginScore,
        MeanLossScore,
        RivalScore,
        TrajectoryScore,
        register_score,
    )
    from alignprune_pl.training.run_folder import RunFolder


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if hasattr(found, "join_twins"):  # pytorch_lightning may have been imported since the last time
        found.join_twins()
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
