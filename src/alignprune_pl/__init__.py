"""Dynamic data pruning that survives wrong labels, as one PyTorch Lightning callback.

Public names load on first use (PEP 562), so that importing the tensor code, ``alignprune_pl.scores``
say, does not import Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AlignPrune": "callback",
    "AlignmentScore": "scores",
    "EpochPlan": "plan",
    "InfoBatch": "policies",
    "LossScore": "scores",
    "NoPruning": "policies",
    "Random": "policies",
    "SeTa": "policies",
    "TrajectoryStore": "trajectory",
}

__all__ = [
    "AlignPrune",
    "AlignmentScore",
    "EpochPlan",
    "InfoBatch",
    "LossScore",
    "NoPruning",
    "Random",
    "SeTa",
    "TrajectoryStore",
]

if TYPE_CHECKING:
    from alignprune_pl.callback import AlignPrune
    from alignprune_pl.plan import EpochPlan
    from alignprune_pl.policies import InfoBatch, NoPruning, Random, SeTa
    from alignprune_pl.scores import AlignmentScore, LossScore
    from alignprune_pl.trajectory import TrajectoryStore


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
