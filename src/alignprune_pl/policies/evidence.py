"""What a run shows of wrong labels: how many there are, which ones, and what they do to its network."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.contracts import Ask, Scores
from alignprune_pl.policies.noise_rate import estimate_noise_rate
from alignprune_pl.policies.right_labels import (
    Gap,
    RightLabels,
    agreement,
    fit_right_labels,
    line_of,
    pattern_harm,
    twin_gap,
    wrong_that_stay,
)
from alignprune_pl.policies.subsets import indices, members, most_suspect, random_subset

_MOST = 20_000  # samples held; more make no better estimate
_FEWEST = 100  # samples that are held, where there are so many
_SMOOTHING = 0.5  # the share of the old rate in the new one
# The most that training on a wrong label harms, in losses of a right one: whatever is nine times as likely right is trained.
_MOST_HARM = 9.0
# Without a gap the share of wrong labels among what is trained must fall to this part of it, or nothing is left out: a
# network that tells fewer has not learnt enough yet, and loses as much by fewer samples as it wins by fewer wrong labels.
_STAY = 2 / 3


class Evidence:
    """Compares three groups that are passed forward after an epoch: the reference, held samples and their twins.

    Args:
        even_gap: The gap at which training on a wrong label costs as much as leaving out a right one.
        line: P(right) from which on training on a sample is worth it; None for what is measured.

    Attributes:
        held: int64[m], a random part of the training set that is not trained on.
        twins: int64[m], as many others, which are trained as all are.
        rate: The estimated share of wrong labels; NaN before there is an estimate.
        right: P(right | suspicion); None before.
        gap: The widest so far: what a network has shown itself to be able to, it is, also where suspects are left out since.
        memorises: Whether the gap has surely reached ``even_gap``: at first, or later in two epochs running, as in so many
            epochs chance opens one now and then.
        line: The line in force; zero where the network tells too few of the wrong labels.
        wrong: float64[m], P(wrong) of the held samples when they were last compared, ascending; empty before.
    """

    def __init__(self, even_gap: float, line: float | None) -> None:
        self.held = self.twins = torch.empty(0, dtype=torch.int64)
        self.rate = math.nan
        self.right: RightLabels | None = None
        self.gap = Gap()
        self.memorises = self._is_wide = False
        self.line = line or 0.0
        self.wrong = torch.empty(0, dtype=torch.float64)
        self._first: tuple[Tensor, Tensor] | None = None
        self._even_gap, self._follows = even_gap, line is None

    def draw(self, n: int, share: float, generator: torch.Generator) -> None:
        """Draw the groups: a share of the n samples of the training set is held, and something is left to train on."""
        size = min(math.ceil(share * n), _MOST, n // 4)
        both = random_subset(torch.arange(n), 2 * size, generator)
        self.held, self.twins = both[:size].sort().values, both[size:].sort().values

    def add(self, scores: Scores, ask: Ask, is_first: bool) -> None:
        """Take over what an epoch has shown.

        Args:
            scores: Those of the training set after it.
            ask: What the policy was told at its end.
            is_first: Whether the run has begun just now: no earlier rate counts, and a gap need not be seen again.
        """
        pair = ask.probed[self.held], ask.probed[self.twins]
        gaps = [twin_gap(*pair), *([] if self._first is None else [twin_gap(*pair, self._first)])]
        self._first = self._first or pair
        was_wide, self._is_wide = self._is_wide, any(gap.is_sure and gap.least >= self._even_gap for gap in gaps)
        self.memorises |= self._is_wide and (was_wide or is_first)
        for gap in gaps:
            if gap.least > self.gap.least or math.isnan(self.gap.least):
                self.gap = gap
        noisy, reference = (part[part.isfinite()] for part in (scores.suspicion[self.held], ask.reference.suspicion))
        rate = estimate_noise_rate(noisy, reference)
        if math.isnan(rate):
            return
        self.rate = rate if is_first or self.right is None else _SMOOTHING * self.rate + (1 - _SMOOTHING) * rate
        self.right = fit_right_labels(noisy, reference, self.rate)
        self.wrong = 1 - self.right(noisy).double().sort(descending=True).values
        if self._follows:
            if self.memorises:
                self.line = line_of(self.right(reference), min(self.gap.least / self._even_gap, _MOST_HARM))
            else:
                wrong = self._wrong_by_place(scores.suspicion)
                harm = pattern_harm(self.rate, agreement(ask.labels, ask.rivals, wrong))
                self.line = line_of(self.right(reference), harm)
                if wrong_that_stay(self.right(noisy), self.line) > _STAY:
                    self.line = 0.0

    def give_back(self) -> None:
        """Hold half as many samples from now on, if enough are left to measure by."""
        if len(self.held) < 2 * _FEWEST:
            return
        self.held = self.held[::2]
        if self._first is not None:
            self._first = self._first[0][::2], self._first[1]

    def below_the_line(self, suspicion: Tensor) -> Tensor:
        """Which samples are less likely right than the line: bool[n], of ``suspicion``, float32[n].

        P(right) is that of samples that are not trained on. What is trained on looks more right than it is, so that of the
        others the most suspect count, as large a share of them as of the held ones.
        """
        assert self.right is not None
        n = len(suspicion)
        below = self.right(suspicion[self.held]) < self.line
        others = indices(~members(n, self.held))
        found = most_suspect(suspicion[others], float(below.float().mean())).index
        return members(n, torch.cat([others[found], self.held[below]]))

    def wrong_probability(self, suspicion: Tensor) -> Tensor | None:
        """How likely each label is wrong: as likely as that of the held sample with the same place among the held ones.

        What is trained on looks more right than it is, so that a curve fitted to held samples would rate it too low. The
        order stays, and what holds of a random part of the samples holds of all: as large a share of each probability.

        Args:
            suspicion: float32[n], high for suspect; NaN where it is not defined.

        Returns:
            float64[n], 0 where the suspicion is NaN; None before there is an estimate.
        """
        return None if len(self.wrong) == 0 else self._wrong_by_place(suspicion)

    def _wrong_by_place(self, suspicion: Tensor) -> Tensor:
        probability = torch.zeros(len(suspicion), dtype=torch.float64)
        known = indices(~suspicion.isnan())
        values = suspicion[known].sort().values
        first, behind = (torch.searchsorted(values, suspicion[known], right=right) for right in (False, True))
        place = (first + behind).double() / (2 * len(known)) * len(self.wrong) - 0.5
        place = place.clamp(0, len(self.wrong) - 1)
        lower, upper = self.wrong[place.floor().long()], self.wrong[place.ceil().long()]
        probability[known] = torch.lerp(lower, upper, place.frac())
        return probability

    def conclusion(self, left_out: float, hosted: bool) -> str:
        """What it all came to; "" before there is an estimate.

        Args:
            left_out: The share of the samples that is left out at last.
            hosted: Whether the host prunes the others.
        """
        if self.right is None:
            return ""
        if left_out:
            # A run that ends early has closed the line after its last plan.
            below = f", those with P(label right) below {self.line:.2f}," if self.line else ""
            share = f"{left_out:.1%} of the samples{below} were left out"
        elif self._follows and not self.line and self.rate >= 5e-4:  # else it would say 0.0 %
            share = "Nothing was left out, as it tells too few of the wrong labels"
        else:
            share = "Nothing was left out"
        memory = "memorises what it is trained on" if self.memorises else "is not seen to memorise"
        return (
            f"Calibrated pruning: about {self.rate:.1%} of the labels are wrong. The network {memory} "
            f"(gap to held samples {self.gap}). "
            f"{share}, and the host policy {'pruned the others' if hosted else 'did not prune'}."
        )

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "held": self.held,
            "twins": self.twins,
            "rate": self.rate,
            "right": None if self.right is None else astuple(self.right),
            "gap": astuple(self.gap),
            "memorises": [self.memorises, self._is_wide],
            "line": self.line,
            "wrong": self.wrong,
            "first": None if self._first is None else list(self._first),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.held, self.twins, self.rate = (state[name] for name in ("held", "twins", "rate"))
        self.line = state["line"]
        self.wrong = state.get("wrong", self.wrong)  # of a run that began before there was one
        self.right = None if state["right"] is None else RightLabels(*state["right"])
        self.gap = Gap(*state["gap"])
        self.memorises, self._is_wide = state["memorises"]
        self._first = None if state["first"] is None else tuple(state["first"])
