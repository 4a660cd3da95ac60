"""From trajectories to the plan of an epoch: the same one on every rank, and again after a resume."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.distributed import has_ranks, same_on_all_ranks
from alignprune_pl.core.orientation import Orientation, turned
from alignprune_pl.core.plan import EpochPlan, epoch_generator
from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.policies import Policy
from alignprune_pl.policies.subsets import Observant, Remembers
from alignprune_pl.scores import LossScore, Score
from alignprune_pl.scores.arguments import RatesReference


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
    """

    def __init__(self, policy: Policy, score: Score, seed: int) -> None:
        self.policy = policy
        self.score = score
        self.seed = seed
        self.plan = EpochPlan.of(torch.empty(0, dtype=torch.int64))
        self.epoch = 0
        self.max_epochs: int | None = None
        self.forget()

    def forget(self) -> None:
        """Make policy and score as new."""
        for part in (self.policy, self.score):
            if isinstance(part, Remembers):
                part.reset()

    def scores(self, store: TrajectoryStore) -> tuple[Tensor, Orientation]:
        """Every sample's score, float32[n] on the CPU, and what a low one means; the loss in warm-up, none before it.

        Raises:
            ValueError: If the score gives something else than one number a sample.
        """
        warm_up = min(self.score.warm_up, self.score.window or store.window, store.window)
        # Before the first epoch is over the last loss is none.
        score: Score = LossScore() if store.epochs < max(1, warm_up) else self.score
        scores = score(store)
        if not isinstance(scores, Tensor) or scores.shape != (store.num_samples,) or not scores.is_floating_point():
            given = f"{scores.dtype}{list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"{score!r} gave {given}, but float32[{store.num_samples}] is expected, one number for each sample; "
                "return NaN where a sample has no score."
            )
        # What is infinite could not be compared with a mean.
        return scores.float().cpu().nan_to_num(math.nan, math.nan, math.nan), score.low_is

    def make(
        self,
        scores: Tensor,
        low_is: Orientation,
        epoch: int,
        max_epochs: int | None,
        shuffles: bool,
        device: torch.device | None = None,
    ) -> None:
        """Plan ``epoch`` from now on.

        Args:
            scores: float32[n], on the CPU.
            low_is: What a low one means.
            epoch: The epoch, from 0.
            max_epochs: The length of the run; None if unknown.
            shuffles: Whether samples are trained in random order.
            device: Where ranks compare their plans; the CPU by default.

        Raises:
            ValueError: If the policy gives something else than a plan of these samples.
            RuntimeError: If the ranks have come to different plans.
        """
        generator = epoch_generator(self.seed, epoch)
        plan = self.policy.plan(scores, epoch, generator, max_epochs=max_epochs, low_is=low_is)
        if not isinstance(plan, EpochPlan) or _highest(plan) >= len(scores):
            given = f"sample {_highest(plan)}" if isinstance(plan, EpochPlan) else type(plan).__name__
            raise ValueError(
                f"{self.policy!r} planned {given} for epoch {epoch}, but an EpochPlan of samples below {len(scores)} is "
                "expected; return EpochPlan.of(indices)."
            )
        self.plan = plan.shuffled(generator) if shuffles else plan
        self.epoch, self.max_epochs = epoch, max_epochs
        if has_ranks() and not same_on_all_ranks(int(self.plan.digest()[:15], 16), device or torch.device("cpu")):
            raise RuntimeError(
                f"The ranks made different plans for epoch {epoch}, by which samples would be trained twice or never; use "
                "the same package versions and the same kind of device on all of them."
            )

    def observe(self, scores: Tensor, low_is: Orientation, labels: Tensor) -> None:
        """Tell the policy how the score rates training samples and reference at the end of the planned epoch.

        Args:
            scores: float32[n], what :meth:`scores` gave.
            low_is: What a low one means.
            labels: int64[n], the samples' labels; -1 where not known.
        """
        if isinstance(self.policy, Observant):
            reference = (
                self.score.reference_scores().cpu() if isinstance(self.score, RatesReference) else torch.empty(0)
            )
            suspicion, reference = (turned(part, low_is, "easy") for part in (scores, reference))
            self.policy.observe(self.epoch, suspicion, reference, labels)

    def made_by(self) -> list[str]:
        """Policy and score, to compare runs by: their settings if they show them, or their classes."""
        return [
            repr(part) if type(part).__repr__ is not object.__repr__ else type(part).__qualname__
            for part in (self.policy, self.score)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The plan in force and what it was made from, besides the store."""
        return {
            "made_by": self.made_by(),
            "seed": self.seed,
            "plan": self.plan.state_dict(),
            "epoch": self.epoch,
            "max_epochs": self.max_epochs,
            "remembered": [
                part.state_dict() if isinstance(part, Remembers) else None for part in (self.policy, self.score)
            ],
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
        self.seed, self.epoch, self.max_epochs = state["seed"], state["epoch"], state["max_epochs"]
        for part, remembered in zip((self.policy, self.score), state["remembered"], strict=True):
            if isinstance(part, Remembers):
                part.load_state_dict(remembered)


def _highest(plan: EpochPlan) -> int:
    """The highest index that a plan trains or probes; -1 for an empty one."""
    return max((int(index.max()) for index in (plan.keep, plan.probe) if len(index)), default=-1)
