"""Policies asked for a plan, and told of an epoch's end, as a planner does it."""

from __future__ import annotations

import torch

from alignprune_pl import EpochPlan, Policy
from alignprune_pl.core.contracts import Ask, Scores
from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.streams import stream

NO_LABELS = torch.empty(0, dtype=torch.int64)


def planned(
    policy: Policy,
    values: torch.Tensor,
    epoch: int = 0,
    *,
    seed: int = 0,
    max_epochs: int | None = None,
    low_is: Orientation = "easy",
    labels: torch.Tensor = NO_LABELS,
    generator: torch.Generator | None = None,
) -> EpochPlan:
    """What it plans for an epoch, from these scores; by default the epoch's own stream of the seed draws."""
    generator = stream(seed, "plan", epoch) if generator is None else generator
    return policy.plan(Scores(values, low_is), Ask(epoch, generator, max_epochs, labels))


def ended(
    policy: Policy,
    epoch: int,
    suspicion: torch.Tensor,
    reference: torch.Tensor | None = None,
    labels: torch.Tensor = NO_LABELS,
    probed: torch.Tensor | None = None,
    rivals: torch.Tensor = NO_LABELS,
) -> None:
    """Tell it that an epoch is over, by scores that are high for suspect, as a loss is."""
    reference = torch.empty(0) if reference is None else reference
    probed = torch.full((len(suspicion),), torch.nan) if probed is None else probed
    ask = Ask(epoch, stream(0, "plan", epoch), labels=labels, rivals=rivals, reference=Scores(reference), probed=probed)
    policy.epoch_ended(Scores(suspicion), ask)
