"""The contract of a policy, and what several of them share."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.plan import EpochPlan, permutation
from alignprune_pl.core.registry import Registry, as_call, check_memory


class Policy(Protocol):
    """Decides which samples an epoch trains on, from one score a sample.

    A class of one's own derives from this one. It stores the arguments of its constructor under their own names: by
    them a checkpoint knows its policy. A policy that remembers something from one epoch to the next also has the methods
    of :class:`Remembers`.

    Attributes:
        reads_score: Whether the plan depends on the scores.
        needs_reference: Whether it compares with a reference set. It then is :class:`Observant`.
        usual_score: The name of the score that it reads where the user has given none.
    """

    reads_score: bool = True
    needs_reference: bool = False
    usual_score: str = "das"

    def plan(
        self,
        scores: Tensor,
        epoch: int,
        generator: torch.Generator,
        max_epochs: int | None = None,
        low_is: Orientation = "easy",
    ) -> EpochPlan:
        """Plan one epoch; samples come in ascending order, the callback shuffles them.

        Planning the same epoch again gives the same plan.

        Args:
            scores: float32[n], NaN where a sample has no score; such a sample is never pruned for its score.
            epoch: The epoch to plan, from 0.
            generator: Where every random choice comes from.
            max_epochs: E, the length of the run; None where it is not known, and then nothing anneals.
            low_is: What a low score means, ``"easy"`` or ``"suspect"``.
        """
        ...

    def __repr__(self) -> str:
        return as_call(self)


@runtime_checkable
class Remembers(Protocol):
    """A policy or score that remembers something between epochs, which a checkpoint must hold."""

    def reset(self) -> None:
        """Forget it: a new run begins."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What is remembered; tensors on the CPU."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        ...


@runtime_checkable
class Observant(Protocol):
    """A policy that is told, when an epoch is over, how the score rates the reference set beside the training samples.

    Its score is one that rates the reference, see :class:`~alignprune_pl.scores.arguments.RatesReference`.
    """

    def observe(self, epoch: int, suspicion: Tensor, reference: Tensor, labels: Tensor) -> None:
        """Take in the scores of an epoch's end, turned so that high is suspect; before the next epoch is planned.

        Args:
            epoch: The epoch that is over, from 0.
            suspicion: float32[n], of each training sample; NaN where it has no score.
            reference: float32[r], of each reference sample as of one that is not trained on. Empty without a reference set.
            labels: int64[n], the training samples' labels as the loss has seen them; -1 where not known.
        """
        ...


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

    @property
    def scores(self) -> Tensor:
        """float32[k], the suspicion of each of ``index``."""
        return self.suspicion[self.index]


@runtime_checkable
class Suspecting(Protocol):
    """A policy that tells which samples it takes for wrongly labelled."""

    @property
    def noise_rate(self) -> float:
        """The estimated share of wrong labels; NaN before there is an estimate."""
        ...

    def suspects(self) -> Suspects:
        """As many samples as labels are estimated to be wrong, the most suspect first; an epoch may leave out more."""
        ...


def suspects_of(policy: Any) -> Suspects:
    """Its suspects.

    Raises:
        RuntimeError: If it suspects no one, or before there is a plan.
    """
    if not isinstance(policy, Suspecting):
        raise RuntimeError(f"{policy!r} tells no suspects; pass AlignPrune(policy='calibrated', reference=...).")
    return policy.suspects()


def estimated_noise_rate(policy: Any) -> float | None:
    """The share of wrong labels as it estimates it, NaN before there is an estimate; None if it makes none."""
    return policy.noise_rate if isinstance(policy, Suspecting) else None


def check_policy(policy: Any) -> None:
    """Refuse what is not a policy.

    Raises:
        ValueError: If it has no ``plan``, or one that cannot be called as policies are.
    """
    if not callable(getattr(policy, "plan", None)):
        raise ValueError(
            f"policy={policy!r} is given, but a policy with a method plan(scores, epoch, generator, ...) is expected; "
            "derive it from alignprune_pl.policies.Policy."
        )
    check_memory("policy", policy)
    try:
        inspect.signature(policy.plan).bind(None, 0, None, max_epochs=None, low_is="easy")
    except TypeError as error:
        raise ValueError(
            f"{type(policy).__name__}.plan cannot be called as plan(scores, epoch, generator, max_epochs=..., "
            f"low_is=...) ({error}); give it these parameters, or **_ for those that it does not read."
        ) from None


POLICIES: Registry[Policy] = Registry("policy", "alignprune_pl.policies", check_policy)
"""Every known policy by name."""


def check_ratio(ratio: float) -> float:
    """``ratio`` as given, if it is a pruning ratio.

    Raises:
        ValueError: If it is outside [0, 1).
    """
    if not (isinstance(ratio, int | float) and 0 <= ratio < 1):
        raise ValueError(
            f"ratio={ratio!r} is given, but a pruning ratio in [0, 1) is expected; 0.3 prunes three samples in ten."
        )
    return ratio


def check_delta(delta: float) -> float:
    """``delta`` as given, if it is a share of the epochs.

    Raises:
        ValueError: If it is outside [0, 1].
    """
    if not (isinstance(delta, int | float) and 0 <= delta <= 1):
        raise ValueError(
            f"delta={delta!r} is given, but a share of the epochs in [0, 1] is expected; 0.875 anneals the last eighth."
        )
    return delta


def anneals(epoch: int, max_epochs: int | None, delta: float) -> bool:
    """Whether ``epoch`` lies in the last (1 - delta) * E epochs, undisturbed by the rounding of delta * E.

    Example:
        >>> anneals(14, 25, 0.56), 14 >= 0.56 * 25
        (True, False)
    """
    return max_epochs is not None and epoch >= round(delta * max_epochs, 6)


def kept_count(n: int, ratio: float) -> int:
    """floor((1 - ratio) * n), undisturbed by the rounding of 1 - ratio.

    Example:
        >>> kept_count(10, 0.8), int((1 - 0.8) * 10)
        (2, 1)
    """
    return share_count(n, 1 - ratio)


def share_count(n: int, share: float) -> int:
    """floor(share * n), undisturbed by the rounding of the share.

    Example:
        >>> share_count(100, 0.29), int(0.29 * 100)
        (29, 28)
    """
    return math.floor(round(share * n, 6))


def random_subset(index: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """``size`` elements of ``index`` (int64[n]), uniformly without replacement, in random order."""
    return index.index_select(0, permutation(len(index), generator)[:size])


def members(n: int, index: Tensor) -> Tensor:
    """Whether each of n samples is among ``index`` (integers[k]): bool[n]."""
    return torch.zeros(n, dtype=torch.bool).index_fill_(0, index.long(), True)


def indices(mask: Tensor) -> Tensor:
    """The samples of a mask (bool[n]) in ascending order: int64[k]."""
    return mask.nonzero().squeeze(1)


def highest(scores: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The ``size`` samples with the highest scores, where samples without a score come first: bool[n].

    Of equal scores at the border as many are drawn as there is room for. All samples without a score are in it,
    even where they are more than ``size``.

    Example:
        >>> highest(torch.tensor([3.0, 1.0, torch.nan, 2.0]), 2, torch.Generator())
        tensor([ True, False,  True, False])
    """
    chosen = scores.isnan()
    scored = scores if not chosen.any() else scores[~chosen]
    room = min(size - int(chosen.sum()), len(scored))
    if room <= 0:
        return chosen
    border = scored.kthvalue(len(scored) - room + 1).values
    above, at = scores > border, indices(scores == border)
    chosen |= above
    return chosen.index_fill_(0, random_subset(at, room - int(above.sum()), generator), True)
