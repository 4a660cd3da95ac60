"""Calibrated pruning: a clean reference says how many labels are wrong, and those samples are probed, not trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_count, check_number, refused
from alignprune_pl.core.contracts import Ask, Policy, Scores, Suspects
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.core.streams import calibration_stream
from alignprune_pl.policies.infobatch import InfoBatch
from alignprune_pl.policies.noise_rate import estimate_noise_rate
from alignprune_pl.policies.subsets import highest, indices, random_subset, share_count

# The run's length where it is not known.
_USUAL_EPOCHS = 30
# More samples make no better estimate.
_MOST_CALIBRATING = 100_000
# Of what would be kept of each class if all had the same share, so much is kept at least.
_CLASS_FLOOR = 0.75
# However high the margin, so much of what the estimate leaves is kept.
_SMALLEST_REST = 0.75


@POLICIES.register("calibrated")
class Calibrated(Policy):
    """Leaves out as many of the most suspect samples as a clean reference shows labels to be wrong; a host prunes the rest.

    Two questions are kept apart. *Is the label wrong?* Suspects are not trained on, never weigh more than others and do
    not enter the annealing; after each epoch they are passed forward, so that what is known of them never becomes
    memory, and a clean one among them comes back by itself. *Is it learnt already?* is the host's question, asked
    about the others alone.

    The share of wrong labels is estimated each epoch by :func:`~alignprune_pl.policies.noise_rate.estimate_noise_rate`
    from a fixed random part of the training set, the calibration samples. As the reference, they are passed forward and
    not trained on, so that nothing of theirs is memorised either; in the epochs from ``relax_until`` on they are trained
    as all others, and the estimate stays. Where it is within its error it is zero, and nothing is suspect, as mostly on
    clean data.

    In the warm-up all others are trained. Then the estimate times a margin is left out, but at first no more than
    ``cap``, as a network that has seen little cannot tell a few right labels from many wrong ones. The margin falls until
    ``relax_until``, as a clean sample left out early costs less than a wrong label memorised. Where the loss shows which
    class a sample is given, no class loses much more than others, so that none is forgotten.

    A host that knows samples by their place (UCB, RS2, static random) sees all of them, the suspects without a score. A
    host that is told of an epoch's end, needs a reference or probes is refused.

    Args:
        host: Prunes the samples that are not suspect, a policy or its name; by default ``InfoBatch(ratio=0.6)``.
        warm_up: The share of the epochs in which all samples but those that calibrate are trained.
        cap: The share of the samples that is left out at most in the first epochs after it.
        cap_until: The share of the epochs after which the estimate alone counts.
        margin: What the estimate is multiplied by at first; three quarters of what it leaves are kept in any case.
        final_margin: What it is multiplied by at last.
        relax_until: The share of the epochs after which the final margin holds and calibration samples are trained.
        probe_share: The share of the suspects that is passed forward, drawn anew each time.
        probe_period: How many epochs there are from one time to the next.
        calibration: The share of the training set that calibrates, in (0, 0.5]; 100,000 samples at most.
        smoothing: The share of the old estimate in the new one.
        given_rate: The share of wrong labels where it is known; no reference is needed then, and nothing is estimated.

    Raises:
        ValueError: If a share or margin is out of range, ``probe_period`` < 1, or ``host`` is no policy, unknown, itself
            calibrated, or looks at more than scores.
    """

    usual_score = "rival"
    probes = True

    def __init__(
        self,
        host: Policy | str | None = None,
        warm_up: float = 0.1,
        cap: float = 0.6,
        cap_until: float = 1 / 3,
        margin: float = 1.25,
        final_margin: float = 1.0,
        relax_until: float = 2 / 3,
        probe_share: float = 1.0,
        probe_period: int = 1,
        calibration: float = 0.05,
        smoothing: float = 0.5,
        given_rate: float | None = None,
    ) -> None:
        self.host: Policy = InfoBatch(ratio=0.6) if host is None else POLICIES.make(host)
        if isinstance(self.host, Calibrated):
            raise ValueError(f"host={self.host!r} is given, but a host that is not calibrated itself is expected.")
        hears = type(self.host).epoch_ended is not Policy.epoch_ended
        if hears or self.host.needs_reference or self.host.probes:
            raise ValueError(
                f"host={self.host!r} is given, but a host that looks at the scores alone is expected: it would not be told "
                "of reference and probes."
            )
        _check_phases(warm_up, cap_until, relax_until, margin, final_margin)
        self.warm_up = _check_share("warm_up", warm_up)
        self.cap = _check_share("cap", cap)
        self.cap_until = cap_until
        self.margin = margin
        self.final_margin = final_margin
        self.relax_until = relax_until
        self.probe_share = check_number("probe_share", probe_share, "(0, 1]", "a share")
        self.probe_period = check_count("probe_period", probe_period, 1, "a number of epochs")
        self.calibration = check_number("calibration", calibration, "(0, 0.5]", "a share")
        self.smoothing = _check_share("smoothing", smoothing)
        self.given_rate = None if given_rate is None else _check_share("given_rate", given_rate)
        self.needs_reference = given_rate is None
        self.reset()

    def reset(self) -> None:
        """Forget all estimates."""
        self._calibrating = torch.empty(0, dtype=torch.int64)
        self._max_epochs: int | None = None
        self._has_calibrated = False
        self._rate: float | None = self.given_rate
        self._labels = torch.empty(0, dtype=torch.int64)
        self._suspicion = torch.empty(0, dtype=torch.float32)
        self._is_suspect = torch.empty(0, dtype=torch.bool)
        self.host.reset()

    @property
    def noise_rate(self) -> float:
        """The estimated share of wrong labels; NaN before the first epoch is over."""
        return math.nan if self._rate is None else self._rate

    def suspects(self) -> Suspects:
        """As many samples as labels are estimated to be wrong, the most suspect first; none before there is an estimate.

        They are not quite those that an epoch leaves out, which are more while there is a margin, and of each class not all.

        Raises:
            RuntimeError: Before an epoch is planned.
        """
        if len(self._suspicion) == 0:
            raise RuntimeError("There are no suspects before an epoch is planned; ask after fit.")
        order = self._suspicion.nan_to_num(-math.inf).argsort(descending=True, stable=True)
        known = int((~self._suspicion.isnan()).sum())
        count = min(known, share_count(len(order), self._rate or 0.0))
        return Suspects(order[:count], self._suspicion.clone(), self.noise_rate)

    def epoch_ended(self, scores: Scores, ask: Ask) -> None:
        """Estimate the share of wrong labels."""
        self._labels = ask.labels.clone()
        if len(self._calibrating) == 0 or not self._is_calibrating(ask.epoch):
            return
        rate = estimate_noise_rate(scores.suspicion[self._calibrating], ask.reference.suspicion)
        if math.isnan(rate):
            return
        # In the warm-up, the estimate of the last epoch is the best one.
        is_first = self._rate is None or ask.epoch < self._epochs(self.warm_up)
        self._rate = rate if is_first else self.smoothing * self.noise_rate + (1 - self.smoothing) * rate

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        n = len(scores)
        if len(self._suspicion) != n:
            # The same samples for the whole run, also if its first epoch is planned again.
            own = calibration_stream(ask.generator)
            # Something must be left to train on, however few samples there are.
            size = min(math.ceil(self.calibration * n), _MOST_CALIBRATING, n // 2)
            self._calibrating = random_subset(torch.arange(n), size, own).sort().values
        self._max_epochs, epoch = ask.max_epochs, ask.epoch
        # A run that goes on for longer than planned has trained on them.
        self._has_calibrated |= epoch >= self._epochs(self.relax_until)
        self._suspicion = scores.suspicion.clone()
        self._is_suspect = self._chosen(self._suspect_count(n, epoch), ask.generator)
        left_out = self._is_suspect.clone()
        if self._is_calibrating(epoch):
            left_out[self._calibrating] = True
        if epoch < self._epochs(self.warm_up):
            plan = EpochPlan.of(indices(~left_out))
        else:
            plan = self._of_host(scores, left_out, ask)
        return EpochPlan(plan.keep, plan.weight, self._probes(epoch, ask.generator))

    def _epochs(self, share: float) -> float:
        """A share of the run in epochs, undisturbed by rounding."""
        return round(share * (self._max_epochs or _USUAL_EPOCHS), 6)

    def _is_calibrating(self, epoch: int) -> bool:
        """Whether calibration samples are kept from the training."""
        return self.given_rate is None and not self._has_calibrated and epoch < self._epochs(self.relax_until)

    def _suspect_count(self, n: int, epoch: int) -> int:
        start, capped, relaxed = (self._epochs(s) for s in (self.warm_up, self.cap_until, self.relax_until))
        if epoch < start or not self._rate:
            return 0
        margin = self.margin + (self.final_margin - self.margin) * _progress(epoch, start, relaxed)
        wanted = min(self._rate * margin, 1 - _SMALLEST_REST * (1 - self._rate))
        # The cap holds for a third of its phase, and then opens.
        opened = _progress(epoch, start + (capped - start) / 3, capped)
        return share_count(n, opened * wanted + (1 - opened) * min(self.cap, wanted))

    def _chosen(self, count: int, generator: torch.Generator) -> Tensor:
        """The ``count`` most suspect samples, without the least suspect ones of each class: bool[n]."""
        n = len(self._suspicion)
        suspicion = self._suspicion.nan_to_num(-math.inf)  # a sample without a score is not suspect
        # Labels that are known in part say nothing of the classes.
        if count and len(self._labels) == n and bool((self._labels >= 0)[suspicion > -math.inf].all()):
            stay = _least_of_each(suspicion, self._labels, (1 - count / n) * _CLASS_FLOOR)
            suspicion = suspicion.masked_fill(stay, -math.inf)
        return highest(suspicion, count, generator) & (suspicion > -math.inf)

    def _of_host(self, scores: Scores, left_out: Tensor, ask: Ask) -> EpochPlan:
        """What the host plans among those that are not left out."""
        if self.host.by_place:
            plan = self.host.plan(scores.without(left_out), ask)
            stays = ~left_out[plan.keep]
            return EpochPlan(plan.keep[stays], plan.weight[stays])
        rest = indices(~left_out)
        labels = ask.labels[rest] if len(ask.labels) else ask.labels
        plan = self.host.plan(scores.of(rest), replace(ask, labels=labels))
        if len(plan.probe):
            raise ValueError(
                f"host={self.host!r} planned {len(plan.probe)} probes, but a host that plans none is expected."
            )
        return EpochPlan(rest[plan.keep], plan.weight)

    def _probes(self, epoch: int, generator: torch.Generator) -> Tensor:
        """The calibration samples and the suspects whose turn it is, int64[p] in ascending order."""
        probed = torch.zeros(len(self._is_suspect), dtype=torch.bool)
        after = epoch - math.ceil(self._epochs(self.warm_up))
        if after <= 0 or after % self.probe_period == 0:
            suspects = indices(self._is_suspect)
            if self.probe_share < 1:
                suspects = random_subset(suspects, math.ceil(self.probe_share * len(suspects)), generator)
            probed[suspects] = True
        if self._is_calibrating(epoch):
            probed[self._calibrating] = True
        return indices(probed)

    def state_dict(self) -> dict[str, Any]:
        """The estimate and what it is made from, the suspects, and what the host remembers."""
        return {
            "calibrating": self._calibrating,
            "max_epochs": self._max_epochs,
            "has_calibrated": self._has_calibrated,
            "rate": self._rate,
            "labels": self._labels,
            "suspicion": self._suspicion,
            "is_suspect": self._is_suspect,
            "host": self.host.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self._calibrating, self._max_epochs, self._rate = state["calibrating"], state["max_epochs"], state["rate"]
        self._has_calibrated = state["has_calibrated"]
        self._labels, self._suspicion, self._is_suspect = state["labels"], state["suspicion"], state["is_suspect"]
        self.host.load_state_dict(state["host"])


def _check_share(name: str, share: float) -> float:
    return check_number(name, share, "[0, 1)", "a share", "0.4 means 40 %")


def _check_phases(warm_up: float, cap_until: float, relax_until: float, margin: float, final_margin: float) -> None:
    """Refuse phases that are not in order, and margins that rise."""
    for name, share in (("warm_up", warm_up), ("cap_until", cap_until), ("relax_until", relax_until)):
        check_number(name, share, "[0, 1]", "a share of the epochs")
    for name, number in (("margin", margin), ("final_margin", final_margin)):
        check_number(name, number, "(0, inf)", "a number", "1 leaves out as many as the estimate says")
    if not warm_up <= cap_until <= relax_until:
        raise ValueError(
            f"warm_up={warm_up}, cap_until={cap_until} and relax_until={relax_until} are given, but shares of the "
            "epochs in this order are expected."
        )
    if final_margin > margin:
        raise ValueError(refused("final_margin", final_margin, f"at most the first margin, {margin},", "margins fall"))


def _progress(epoch: float, start: float, end: float) -> float:
    """How far an epoch is from ``start`` to ``end``, in [0, 1]."""
    return min(1.0, max(0.0, (epoch - start) / (end - start))) if end > start else float(epoch >= end)


def _least_of_each(suspicion: Tensor, labels: Tensor, share: float) -> Tensor:
    """The least suspect ``share`` of the samples of each label: bool[n]; of those whose label is not known, none."""
    order = suspicion.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    sizes = torch.bincount(labels + 1)
    label = labels[order] + 1
    place = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[label]
    # As share_count has it, undisturbed by the rounding of the share.
    counts = (share * sizes.double()).round(decimals=6).floor()
    stays = (place < counts[label]) & (label > 0)
    return torch.zeros(len(order), dtype=torch.bool).scatter_(0, order, stays)
