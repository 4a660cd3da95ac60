"""A host framework that plans for a part of the samples, as another policy lets it."""

from __future__ import annotations

from torch import Tensor

from alignprune_pl.core.contracts import Ask, Policy, Scores
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.policies.subsets import indices


def check_host(host: Policy) -> Policy:
    """``host`` as given, if it looks at nothing but scores.

    Raises:
        ValueError: If it is told of an epoch's end, needs a reference or probes.
    """
    hears = type(host).epoch_ended is not Policy.epoch_ended
    if hears or host.needs_reference or host.probes:
        raise ValueError(
            f"host={host!r} is given, but a host that looks at the scores alone is expected: it would not be told of "
            "reference and probes."
        )
    return host


def plan_of_host(host: Policy, scores: Scores, left_out: Tensor, ask: Ask) -> EpochPlan:
    """What the host plans among the samples that are not ``left_out`` (bool[n]).

    Raises:
        ValueError: If it plans probes.
    """
    if host.by_place:
        plan = host.plan(scores.without(left_out), ask)
        stays = ~left_out[plan.keep]
        return EpochPlan(plan.keep[stays], plan.weight[stays])
    rest = indices(~left_out)
    plan = host.plan(scores.of(rest), ask.of(rest))
    if len(plan.probe):
        raise ValueError(f"host={host!r} planned {len(plan.probe)} probes, but a host that plans none is expected.")
    return EpochPlan(rest[plan.keep], plan.weight)
