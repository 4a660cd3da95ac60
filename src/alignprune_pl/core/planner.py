"""From trajectories to the plan of an epoch: the same one on every rank, and again after a resume."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.contracts import Ask, Policy, Score, Scores, Suspects
from alignprune_pl.core.distributed import has_ranks, same_on_all_ranks
from alignprune_pl.core.draws import Draw
from alignprune_pl.core.mixture import wrong_probability
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.streams import stream
from alignprune_pl.core.trajectory import TrajectoryStore


class Planner:
    """Scores the trajectories, lets the policy plan an epoch, and holds the plan in force.

    A plan depends on the store, the epoch, the seed, the run's length and what policy and score remember alone, so
    that nothing has to be sent.

    Args:
        policy: The host framework; what it remembers of another run is forgotten.
        score: What it reads; likewise.
        seed: Of every random choice.

    Attributes:
        plan: The plan in force.
        epoch: The epoch that it is for, from 0.
        max_epochs: The length of the run that it was made for; None if unknown.
        draw: What the user's sampler has drawn for the epoch; None where there is none that draws.
    """

    def __init__(self, policy: Policy, score: Score, seed: int) -> None:
        self.policy = policy
        self.score = score
        self.seed = seed
        self.plan = EpochPlan.of(torch.empty(0, dtype=torch.int64))
        self.epoch = 0
        self.max_epochs: int | None = None
        self.draw: Draw | None = None
        self.forget()

    def forget(self) -> None:
        """Make policy and score as new."""
        self.policy.reset()
        self.score.reset()

    def scores(self, store: TrajectoryStore) -> Scores:
        """Every sample's score; the last loss in warm-up, none before it.

        Raises:
            ValueError: If the score gives something else than one number a sample.
        """
        warm_up = min(self.score.warm_up, self.score.window or store.window, store.window)
        if store.epochs < max(1, warm_up):  # before the first epoch is over the last loss is none
            return _finite(Scores(store.last_loss(), "easy"))
        values: Any = self.score(store)
        if not isinstance(values, Tensor) or values.shape != (store.num_samples,) or not values.is_floating_point():
            given = f"{values.dtype}{list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{self.score!r} gave {given}, but float32[{store.num_samples}] is expected, one number for each sample; "
                "return NaN where a sample has no score."
            )
        return _finite(Scores(values, self.score.low_is))

    def make(
        self,
        store: TrajectoryStore,
        scores: Scores,
        epoch: int,
        max_epochs: int | None,
        shuffles: bool,
        device: torch.device | None = None,
        draw: Draw | None = None,
    ) -> None:
        """Plan ``epoch`` from now on.

        Where a sampler draws, the policy plans among what it has drawn. One that knows samples by their place, or probes,
        plans among all that the sampler can draw, so that places stay what they are.

        Args:
            store: The trajectories.
            scores: What :meth:`scores` says of them.
            epoch: The epoch, from 0.
            max_epochs: The length of the run; None if unknown.
            shuffles: Whether samples are trained in random order.
            device: Where ranks compare their plans; the CPU by default.
            draw: What the user's sampler has drawn for the epoch, which is then its order.

        Raises:
            ValueError: If the policy gives something else than a plan of these samples, or probes without saying so.
            RuntimeError: If the ranks have come to different plans.
        """
        places = self._places(draw)
        scores, ask = _at(places, scores, self._ask(store, scores, epoch, max_epochs))
        plan = self._checked(self.policy.plan(scores, ask), len(scores), epoch)
        if draw is not None:
            plan = draw.trained(plan, places)
        self.plan = plan.shuffled(ask.generator) if shuffles and draw is None else plan
        self.epoch, self.max_epochs, self.draw = epoch, max_epochs, draw
        if has_ranks() and not same_on_all_ranks(int(self.plan.digest()[:15], 16), device or torch.device("cpu")):
            raise RuntimeError(
                f"The ranks made different plans for epoch {epoch}, but all must train by one; use the same package "
                "versions and the same kind of device on each."
            )

    def _checked(self, plan: EpochPlan, n: int, epoch: int) -> EpochPlan:
        """What the policy has planned for ``epoch``, if that is a plan of ``n`` samples."""
        if not isinstance(plan, EpochPlan) or _highest(plan) >= n:
            given = f"sample {_highest(plan)}" if isinstance(plan, EpochPlan) else type(plan).__name__
            raise ValueError(
                f"{self.policy!r} planned {given} for epoch {epoch}, but an EpochPlan of samples below {n} is "
                "expected; return EpochPlan.of(indices)."
            )
        if len(plan.probe) and not self.policy.probes:
            raise ValueError(
                f"{self.policy!r} planned {len(plan.probe)} probes for epoch {epoch}, but has probes=False; set "
                "probes = True in its class."
            )
        return plan

    def epoch_ended(self, store: TrajectoryStore, scores: Scores, probed: Tensor) -> None:
        """Tell the policy that the planned epoch is over, and how it ended.

        Args:
            store: The trajectories.
            scores: What :meth:`scores` says of them.
            probed: float32[p], what the plan's probes have shown; that of a sample that was trained too is told here alone.
        """
        own = Scores(scores.values.clone(), scores.low_is)  # which it may change without changing what is logged
        ask = self._ask(store, scores, self.epoch, self.max_epochs)
        shown = torch.full((len(scores),), math.nan).index_copy_(0, self.plan.probe, probed.float().cpu())
        self.policy.epoch_ended(*_at(self._places(self.draw), own, replace(ask, probed=shown)))

    def wrong_probability(self, suspicion: Tensor) -> Tensor:
        """How likely each label is wrong, float64[n]: as the policy has measured it, else guessed by the scores alone."""
        measured = self.policy.wrong_probability(suspicion)
        return wrong_probability(suspicion, self.policy.noise_rate) if measured is None else measured

    def suspects(self, num_samples: int) -> Suspects | None:
        """What the policy suspects, in the numbers of a data set of ``num_samples``; None if it suspects no one."""
        found, places = self.policy.suspects(), self._places(self.draw)
        if found is None or places is None:
            return found
        suspicion = torch.full((num_samples,), math.nan).index_copy_(0, places, found.suspicion)
        return Suspects(places[found.index], suspicion, found.noise_rate)

    def _places(self, draw: Draw | None) -> Tensor | None:
        """The samples that the policy plans among, int64[k]; None for all."""
        if draw is None:
            return None
        return draw.can_draw if self.policy.by_place or self.policy.probes else draw.samples

    def _ask(self, store: TrajectoryStore, scores: Scores, epoch: int, max_epochs: int | None) -> Ask:
        rated, reference = self.score.reference_scores().cpu(), len(store.newest_reference.value)
        if len(rated) and reference and len(rated) != reference:
            raise ValueError(
                f"{self.score!r} gave {len(rated)} reference scores, but {reference} are expected, one for each sample of "
                "the reference; return NaN where one has no score."
            )
        labels, rivals = store.labels().cpu(), store.rivals().cpu()
        own = Scores(rated, scores.low_is)
        return Ask(epoch, stream(self.seed, "plan", epoch), max_epochs, labels, own, rivals=rivals)

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Put back the plan, and what policy and score remember, if a block ends with an error."""
        names = ("plan", "draw", "epoch", "max_epochs")
        before = {name: getattr(self, name) for name in names}
        remembered = [(part, deepcopy(part.state_dict())) for part in (self.policy, self.score)]
        try:
            yield
        except BaseException:
            vars(self).update(before)
            for part, state in remembered:
                part.load_state_dict(state)
            raise

    def made_by(self) -> list[str]:
        """Policy and score with their settings, to compare runs by."""
        return [repr(self.policy), repr(self.score)]

    def state_dict(self) -> dict[str, Any]:
        """The plan in force and what it was made from, besides the store."""
        return {
            "made_by": self.made_by(),
            "seed": self.seed,
            "plan": self.plan.state_dict(),
            "draw": None if self.draw is None else self.draw.state_dict(),
            "epoch": self.epoch,
            "max_epochs": self.max_epochs,
            "policy": self.policy.state_dict(),
            "score": self.score.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: If another policy or score has made it.
        """
        here, there = self.made_by(), list(state["made_by"])
        if here != there:
            raise ValueError(
                f"The checkpoint was written with {' and '.join(there)}, but this run has {' and '.join(here)}; "
                "resume with the same policy and score."
            )
        self.plan = EpochPlan(**state["plan"])
        drawn = state.get("draw")  # which older checkpoints do not have
        self.draw = None if drawn is None else Draw(**drawn)
        self.seed, self.epoch, self.max_epochs = state["seed"], state["epoch"], state["max_epochs"]
        self.policy.load_state_dict(state["policy"])
        self.score.load_state_dict(state["score"])


def _finite(scores: Scores) -> Scores:
    """On the CPU, and without what is infinite, which could not be compared with a mean."""
    return Scores(scores.values.float().cpu().nan_to_num(math.nan, math.nan, math.nan), scores.low_is)


def _at(places: Tensor | None, scores: Scores, ask: Ask) -> tuple[Scores, Ask]:
    """Scores, and what a policy may know besides, of some samples (int64[k]) alone; of all where there are none."""
    if places is None:
        return scores, ask
    return scores.of(places), ask.of(places)


def _highest(plan: EpochPlan) -> int:
    """The highest index that a plan trains or probes; -1 for an empty one."""
    return max((int(index.max()) for index in (plan.keep, plan.probe) if len(index)), default=-1)
