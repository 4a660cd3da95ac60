"""What a policy and a score are, and what they are asked: the whole contract."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.orientation import End, Orientation
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.sharded import Shard
from alignprune_pl.core.trajectory import Observable, TrajectoryStore


@dataclass(frozen=True, eq=False)
class Scores:
    """One number for each sample, and what it means.

    Attributes:
        values: float32[n] on the CPU; NaN where a sample has no score.
        low_is: What a low one means, ``"easy"`` (already learnt) or ``"suspect"`` (its label is perhaps wrong).

    Example:
        >>> scores = Scores(torch.tensor([-1.0, 1.0]), low_is="suspect")
        >>> scores.suspicion, scores.turned("easy"), scores.turned("low")
        (tensor([ 1., -1.]), tensor([ 1., -1.]), tensor([-1.,  1.]))
    """

    values: Tensor
    low_is: Orientation = "easy"

    def __len__(self) -> int:
        return len(self.values)

    def turned(self, end: End) -> Tensor:
        """The numbers with their low end at ``end``, for a rule that treats low scores in a way of its own: float32[n].

        ``"low"`` leaves them as they are, the plain substitution of one score for another.
        """
        return self.values if end in ("low", self.low_is) else -self.values

    @property
    def suspicion(self) -> Tensor:
        """The numbers turned so that high is suspect, float32[n]."""
        return self.turned("easy")

    def of(self, index: Tensor) -> Scores:
        """Those of the samples ``index`` (int64[k])."""
        return Scores(self.values.index_select(0, index), self.low_is)

    def without(self, mask: Tensor) -> Scores:
        """The same, but none for the samples of ``mask`` (bool[n])."""
        return Scores(self.values.masked_fill(mask, math.nan), self.low_is)


def _none() -> Scores:
    return Scores(torch.empty(0))


@dataclass(frozen=True, eq=False)
class Ask:
    """What a policy may know besides the scores.

    Attributes:
        epoch: The epoch, from 0: the one to plan, or the one that has ended.
        generator: Where every random choice comes from; the epoch's own.
        max_epochs: E, the length of the run; None where it is not known, and then nothing anneals.
        labels: int64[n], the samples' labels as the loss has seen them, -1 where not known; empty where none was seen.
        reference: The scores of the reference samples, as of ones that are not trained on; empty where there are none.
        probed: float32[n], what the epoch's probes have shown after it, all by the same network in eval mode; NaN for all
            other samples. Empty where an epoch is planned.
        rivals: int64[n], the strongest class besides the label when each sample was last observed; as ``labels``.
    """

    epoch: int
    generator: torch.Generator
    max_epochs: int | None = None
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    reference: Scores = field(default_factory=_none)
    probed: Tensor = field(default_factory=lambda: torch.empty(0))
    rivals: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def of(self, index: Tensor) -> Ask:
        """What may be known of the samples ``index`` (int64[k]) alone."""
        parts = {name: getattr(self, name) for name in ("labels", "rivals", "probed")}
        return replace(self, **{name: part[index] for name, part in parts.items() if len(part)})


@dataclass(frozen=True)
class Suspects:
    """Training samples whose label is probably wrong.

    Attributes:
        index: int64[k], indices into the training set, the most suspect first.
        suspicion: float32[n], of every training sample, high for suspect; NaN where it was never observed.
        noise_rate: The estimated share of wrong labels in the training set; NaN where there is no estimate.
    """

    index: Tensor
    suspicion: Tensor
    noise_rate: float

    def __repr__(self) -> str:
        return f"Suspects({len(self.index):,} of {len(self.suspicion):,} samples, noise_rate={self.noise_rate:.3f})"

    @property
    def scores(self) -> Tensor:
        """float32[k], the suspicion of each of ``index``."""
        return self.suspicion[self.index]


class Part:
    """What policies and scores have in common.

    A class of one's own stores the arguments of its constructor under their own names: by them a checkpoint knows it. If
    it remembers something from one epoch to the next, it overrides ``reset``, ``state_dict`` and ``load_state_dict``, all
    three; and ``grow`` if that is of each sample, and it shall work with streams.
    """

    def reset(self) -> None:
        """Forget what is remembered: a new run begins."""

    def grow(self, num_samples: int) -> None:
        """Have room for ``num_samples``: a stream has shown new ones. They come after those that there were.

        Called before the scores of the epoch in which they appeared.
        """

    def state_dict(self) -> dict[str, Any]:
        """What is remembered; tensors on the CPU."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""

    def __repr__(self) -> str:
        return as_call(self)


class Policy(Part, ABC):
    """Decides which samples an epoch trains on, from one score a sample.

    A class of one's own derives from this one, has ``plan``, and states what differs from these defaults.

    Attributes:
        reads_score: Whether the plan depends on the scores.
        usual_score: The name of the score that it reads where the user has given none.
        needs_reference: Whether it compares with a reference set; its score then must rate the reference.
        probes: Whether its plans have samples that are passed forward only.
        by_place: Whether it knows samples by their place, from one epoch to the next; as a host of ``Calibrated``, or
            where the loader has a sampler of its own, it is otherwise shown only those that are at stake.
    """

    reads_score: bool = True
    usual_score: str = "das"
    needs_reference: bool = False
    probes: bool = False
    by_place: bool = False

    @abstractmethod
    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan the epoch ``ask.epoch``; samples come in ascending order, the callback shuffles them.

        Planning the same epoch again gives the same plan. A sample without a score is never pruned for its score.
        """

    def plan_on_shards(self, scores: Scores, ask: Ask, shard: Shard) -> EpochPlan:
        """Plan a rank's own samples, where no rank has them all; every rank plans its own at the same time.

        What the ranks keep together must not depend on how many there are. Sums over all ranks and numbers drawn by the
        samples' indices do that, see ``core.over_ranks``. A class that overrides ``plan`` has this only if it overrides it
        too.

        Args:
            scores: Of the own samples, on the device on which ranks add up.
            ask: The generator is in the same state on all ranks.
            shard: Whose samples they are.

        Returns:
            The plan, whose ``keep`` are places in the shard.

        Raises:
            NotImplementedError: By default.
        """
        raise NotImplementedError(f"{self!r} plans all samples at once.")

    def epoch_ended(self, scores: Scores, ask: Ask) -> None:
        """Told when the epoch ``ask.epoch`` is over, before the next one is planned."""

    @property
    def noise_rate(self) -> float | None:
        """The estimated share of wrong labels, NaN before there is an estimate; None if it makes none."""
        return None

    def suspects(self) -> Suspects | None:
        """As many samples as labels are estimated to be wrong, the most suspect first; None if it suspects no one."""
        return None

    def wrong_probability(self, suspicion: Tensor) -> Tensor | None:
        """How likely each label is wrong, float64[n], 0 where not known; None if the run has shown nothing to tell it by.

        Args:
            suspicion: float32[n], the score of each sample, high for suspect; NaN where it is not defined.
        """
        return None

    def conclusion(self) -> str:
        """What the run has come to and why, in a sentence for its end; "" where there is nothing to tell."""
        return ""


class Score(Part, ABC):
    """One number for each training sample, from its trajectory.

    A class of one's own derives from this one, is called with the trajectories, and states what differs from these
    defaults.

    Attributes:
        low_is: What a low value means: ``"easy"`` (already learnt) or ``"suspect"`` (label perhaps wrong).
        needs_reference: Whether the score is undefined without a reference set.
        rates_reference: Whether it rates the samples of the reference set too, by :meth:`reference_scores`.
        warm_up: How many closed epochs the store must have, or a whole window if that is less; before that the last
            loss is the score. Zero where it observes something else.
        window: How many of the last epochs it looks at; None for all that the store remembers.
        min_epochs: How many of them it needs; with a shorter window it could never be defined.
        observes: What its trajectories are of.
        by_sample: Of a score that looks at each sample alone, the names of the tensors in its state whose last dimension is
            the samples, so that ranks can share it out; None where it looks at several samples together.
    """

    low_is: Orientation = "easy"
    needs_reference: bool = False
    rates_reference: bool = False
    warm_up: int = 0
    window: int | None = None
    min_epochs: int = 0
    observes: Observable = "loss"
    by_sample: tuple[str, ...] | None = None

    @abstractmethod
    def __call__(self, store: TrajectoryStore) -> Tensor:
        """Score every sample: float32[n], NaN where undefined; the same again for the same epoch.

        It is called from the first closed epoch on. An infinite score counts as none.
        """

    def reference_scores(self) -> Tensor:
        """As of the last call: float32[r], NaN where undefined; empty where the reference is not rated, or is none."""
        return torch.empty(0)


def as_call(part: object) -> str:
    """A policy or score as the call that makes it, with the arguments that it stores under their own names.

    Functions and objects without a ``repr`` of their own are shown by name: an address would differ in each process.

    Example:
        >>> class Mine:
        ...     def __init__(self, ratio=0.3, turn=abs):
        ...         self.ratio, self.turn = ratio, turn
        >>> as_call(Mine())
        'Mine(ratio=0.3, turn=abs)'
    """
    names = inspect.signature(type(part)).parameters
    given = ", ".join(f"{name}={_shown(getattr(part, name))}" for name in names if hasattr(part, name))
    return f"{type(part).__name__}({given})"


def _shown(value: Any) -> str:
    kind: Any = type(value)
    if hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return repr(value) if kind.__repr__ is not object.__repr__ else str(kind.__qualname__)
