"""Calibrated pruning: a sample is left out where its label is probably wrong, as far as that harms the network."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_number
from alignprune_pl.core.contracts import Ask, Policy, Scores, Suspects
from alignprune_pl.core.growing import resized
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.registry import POLICIES
from alignprune_pl.core.streams import calibration_stream
from alignprune_pl.policies.evidence import Evidence
from alignprune_pl.policies.hosted import check_host, plan_of_host
from alignprune_pl.policies.infobatch import InfoBatch
from alignprune_pl.policies.subsets import anneals, indices, least_of_each, members, most_suspect

_WARM_UP = 2  # epochs, after which a network that memorises shows it
# The share of the samples below which no host prunes: it can save little more, and an epoch has few steps as it is.
_LITTLE = 1 / 3
_EACH_CLASS = 0.5  # what is trained of each class at least, of the share that is trained of all


@POLICIES.register("calibrated")
class Calibrated(Policy):
    """Leaves out the samples whose label is probably wrong, as far as that harms the network; a host prunes the rest.

    After each epoch three groups are passed forward: the clean reference; *held* samples, a random part of the training
    set that is not trained on; and their *twins*, as many others that are. Held samples and reference tell how likely each
    label is right. Held samples and twins tell what a wrong label does to this network. The *gap* is how much nearer the
    network is to labels that it is trained on. Without a gap it memorises nothing.

    From the third epoch on samples are left out where P(wrong) times the harm of training exceeds P(right) times the loss of
    leaving out. With a gap the harm is ``gap / even_gap``, in losses of a right label. Without one it is at most 1, and the
    less, the less often wrong labels of a class agree, as only such outvote right ones. What is left out is passed
    forward after each epoch. So it is rated without being memorised, and can come back. A network without a gap has not
    learnt enough yet, and is trained on all, where that would not lower the share of wrong labels by a third.

    The host prunes the others where there is a gap and a third of the samples to train on: a network that memorises nothing
    has not finished learning.

    Args:
        host: Prunes the samples that are not left out, a policy or its name; by default ``InfoBatch(ratio=0.6)``.
        line: P(right) from which on a sample is trained; None for the line that the run's own measurements give.
        even_gap: The gap at which training on a wrong label costs as much as leaving out a right one.
        calibration: The share of the training set that is held, in (0, 0.25], and 20,000 samples at most. Where the first
            two epochs show no gap, half of them are given back, if they are 200 or more.
        until: The share of the epochs after which held samples are trained too, and what is left out stays so, unprobed.

    Raises:
        ValueError: If a number is out of range, or ``host`` is no policy, unknown, or looks at more than scores.
    """

    usual_score = "rival"
    needs_reference = True
    probes = True

    def __init__(
        self,
        host: Policy | str | None = None,
        line: float | None = None,
        even_gap: float = 0.01,
        calibration: float = 0.05,
        until: float = 0.5,
    ) -> None:
        self.host: Policy = InfoBatch(ratio=0.6) if host is None else check_host(POLICIES.make(host))
        self.line = None if line is None else check_number("line", line, "[0, 1]", "a probability")
        self.even_gap = check_number("even_gap", even_gap, "(0, inf)", "a share", "0.01 is a gap of 1 %")
        self.calibration = check_number("calibration", calibration, "(0, 0.25]", "a share")
        self.until = check_number("until", until, "[0, 1]", "a share of the epochs")
        self.reset()

    def reset(self) -> None:
        """Forget all estimates."""
        self._evidence = Evidence(self.even_gap, self.line)
        self._suspicion = torch.empty(0, dtype=torch.float32)
        self._left_out = torch.empty(0, dtype=torch.bool)
        self._settled_at: int | None = None  # the first epoch that trains on held samples
        self.host.reset()

    @property
    def noise_rate(self) -> float:
        """The estimated share of wrong labels; NaN before the first epoch is over."""
        return self._evidence.rate

    def suspects(self) -> Suspects:
        """As many samples as labels are estimated to be wrong; those that an epoch leaves out depend on the line besides.

        Raises:
            RuntimeError: Before an epoch is planned.
        """
        if len(self._suspicion) == 0:
            raise RuntimeError("There are no suspects before an epoch is planned; ask after fit.")
        return most_suspect(self._suspicion, self.noise_rate)

    def wrong_probability(self, suspicion: Tensor) -> Tensor | None:
        """How likely each label is wrong, float64[n], by what held samples have shown; None before there is an estimate."""
        return self._evidence.wrong_probability(suspicion)

    def conclusion(self) -> str:
        """What was left out at last, and why."""
        return self._evidence.conclusion(float(self._left_out.float().mean()), self._lets_host())

    def _lets_host(self) -> bool:
        """Whether the host prunes those that are not left out."""
        return self._evidence.memorises and float((~self._left_out).float().mean()) >= _LITTLE

    def epoch_ended(self, scores: Scores, ask: Ask) -> None:
        """Estimate how many labels are wrong, which ones, and what they do."""
        is_measured = self._settled_at is None or ask.epoch < self._settled_at
        if is_measured and len(self._suspicion):  # a stream's first epoch had no plan
            self._evidence.add(scores, ask, is_first=ask.epoch < _WARM_UP)
            # A network that memorises at once has much to lose by wrong labels, another one much by fewer samples.
            if ask.epoch == _WARM_UP - 1 and not self._evidence.memorises:
                self._evidence.give_back()

    def plan(self, scores: Scores, ask: Ask) -> EpochPlan:
        """Plan one epoch; see :class:`~alignprune_pl.Policy`."""
        n = len(scores)
        if len(self._suspicion) != n:
            # The same samples for the whole run, also if its first epoch is planned again.
            self._evidence.draw(n, self.calibration, calibration_stream(ask.generator))
            self._left_out = torch.zeros(n, dtype=torch.bool)
        self._suspicion = scores.suspicion.clone()
        held, left_out = members(n, self._evidence.held), self._left_out
        # An epoch that was planned and never trained is planned anew, as where a run goes on for longer than it was to.
        has_settled = self._settled_at is not None and self._settled_at < ask.epoch
        if not has_settled:
            if self._evidence.right is not None and ask.epoch >= _WARM_UP:
                below = self._evidence.below_the_line(self._suspicion)
                if len(ask.labels):  # a class that has not been learnt yet looks wrong as a whole
                    trained = float((~below).float().mean())
                    below &= ~least_of_each(ask.labels, self._suspicion, _EACH_CLASS * trained)
                if not bool((below | held).all()):  # something must be trained
                    self._left_out = left_out = below
            has_settled = anneals(ask, self.until)
            self._settled_at = ask.epoch if has_settled else None
        probed = torch.zeros(n, dtype=torch.bool)
        if not has_settled:
            left_out = left_out | held
            probed = left_out | members(n, self._evidence.twins)
        is_hosted = ask.epoch >= _WARM_UP and self._lets_host()
        rest = plan_of_host(self.host, scores, left_out, ask) if is_hosted else EpochPlan.of(indices(~left_out))
        return EpochPlan(rest.keep, rest.weight, indices(probed))

    def grow(self, num_samples: int) -> None:
        """None of the new samples is held: nothing can be measured by what came late."""
        if len(self._suspicion):
            self._suspicion = resized(self._suspicion, num_samples, math.nan)
            self._left_out = resized(self._left_out, num_samples, False)
        self.host.grow(num_samples)

    def state_dict(self) -> dict[str, Any]:
        """What the run has shown, what is left out, and what the host remembers."""
        return {
            "evidence": self._evidence.state_dict(),
            "suspicion": self._suspicion,
            "left_out": self._left_out,
            "settled_at": self._settled_at,
            "host": self.host.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self._evidence.load_state_dict(state["evidence"])
        self._suspicion, self._left_out = state["suspicion"], state["left_out"]
        self._settled_at = state["settled_at"]
        self.host.load_state_dict(state["host"])
