"""Hooks in the graph of one loss: sample weights go in, what samples have shown comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignprune_pl.core.trajectory import Observable, Observed
from alignprune_pl.fit.graph import Cut, Exit, Node
from alignprune_pl.fit.shown import Shown, logits_and_labels, observe
from alignprune_pl.fit.terms import Classified, Term, Terms

_ALIKE = 0.01  # by what share of itself a number in bfloat16 may be off


class Scale(NamedTuple):
    """By what a loss is multiplied, of which no graph but the numbers of a batch have said whether it is a mean.

    Attributes:
        rows: The samples of that batch.
        factor: ``rows`` where it was a mean over the batch, 1 of a sum.
        counted: How much an element then counts for; 1 of a plain mean or sum.
    """

    rows: int
    factor: int
    counted: float

    @property
    def is_sum(self) -> bool:
        """Whether it is a sum, which no batch's size divides."""
        return self.factor == 1

    def of_batch(self, share: Tensor, rows: int) -> Tensor:
        """The factor in another batch, an element of which has ``share`` of the loss: float[].

        The loss was divided by the samples of the batch, or by a number that is the same in all batches. It is the number
        only where an element then counts for as much as before: weights of classes, or of the loss, change that too.
        """
        by_rows, by_constant = ((share * factor / self.counted).log().abs() for factor in (rows, self.factor))
        is_constant = (by_constant < _ALIKE) & ~(by_rows <= by_constant)
        return torch.where(is_constant, float(self.factor), float(rows))


class Recorder:
    """Follows one backward pass, the last one.

    What is recorded of sample i is its loss as it is trained on: the sum of (dL/de) e over its elements e. Where L is a mean
    over the batch, that is multiplied by the samples in it. Where it is a sum divided by the size of a full batch, that is
    the factor in smaller ones too. Dividing by the gradient at the loss itself takes out factors that are not the loss's,
    such as those of gradient accumulation and of a loss scaler.

    Args:
        loss: float[], what is trained on, with its graph.
        at: Where each sample's gradient passes.
        terms: What of the loss can be told by samples. None records the norm of each sample's gradient at ``at`` instead;
            for cross-entropy that is EL2N (Paul et al., NeurIPS 2021).
        rows: m, the samples of the batch.
        weight: float[m], what the gradient of each sample is multiplied by; None for ones.
        observes: What is read from terms with logits.
        running: Whose backward pass is under way, shared by all of a step: losses may have a part of the graph in common.
        scale: What an earlier batch has shown, where the graph does not say whether the loss is a mean over the batch.
        classifies: Whether to keep the log-probabilities too.

    Attributes:
        scale: Likewise, or what this batch has shown.
        classified: Log-probabilities float32[m, C] and labels int64[m] of each term that was read; None of one without.
    """

    def __init__(
        self,
        loss: Tensor,
        at: Cut,
        terms: Terms | None,
        rows: int,
        weight: Tensor | None,
        observes: Observable,
        running: list[Recorder],
        scale: Scale | None = None,
        classifies: bool = False,
    ) -> None:
        self.scale = scale
        self._classifies = classifies
        self._rows, self._weight, self._observes, self._running = rows, weight, observes, running
        self._factor: Tensor | int | None = None  # until the first term shows it
        # The mean of a single sample is one over the batch only if that of a larger one was.
        if terms is None or (terms.is_averaged and (rows > 1 or scale is None)):
            self._factor = rows
        elif scale is not None and (scale.is_sum or scale.rows == rows):
            self._factor = scale.factor
        self._at_loss: Tensor | None = None
        self._is_norm = terms is None
        self._begin()
        self._handles = [loss.register_hook(self._of_loss)]
        read = () if terms is None else self._read(terms.found)
        self._kept = {(term.node, term.output) for term, _ in read if term.node in at.beyond}
        for term, places in read:
            self._handles.append(term.node.register_prehook(partial(self._of_term, term, places)))
        if weight is not None or self._is_norm or self._kept:
            for node, exits in groupby(sorted(at.exits, key=lambda edge: id(edge.node)), key=lambda edge: edge.node):
                self._handles.append(node.register_hook(partial(self._of_exits, tuple(exits))))

    def remove(self) -> None:
        """Take the hooks out again, by which the graph and this would hold each other."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def observed(self) -> Observed | None:
        """What each of the rows has shown: float32[m]; None before the backward pass."""
        if self._at_loss is None:
            return None
        at_loss = self._at_loss.float()
        if self._is_norm:
            norms = [gradient.float().reshape(self._rows, -1).norm(dim=1) for gradient in self._unweighted.values()]
            return Observed(torch.stack(norms).norm(dim=0) * self._rows / at_loss.abs()) if norms else None
        if self._sum is None or self._share is None:
            return None
        if self._factor is None:
            share = float(self._share.sum() / max(1, int((self._share != 0).sum())) / at_loss.abs())
            factor = self._rows if _is_mean(share, self._rows, max(1, self._elements // self._rows)) else 1
            if self._rows > 1 and share > 0:
                self.scale = Scale(self._rows, factor, float(self._of_one / at_loss.abs()) * factor)
            at_loss = at_loss / factor
        seen = self._share != 0
        value = self._sum / (at_loss if self._observes == "loss" else self._share)
        # Of a sample of which nothing counts nothing has been observed.
        value = torch.where(seen, value, torch.nan)
        pair, classes = (self._shown[0].pair, self._shown[0].classes) if len(self._shown) == 1 else (None, 0)
        return Observed(value, pair, classes, seen)

    def _read(self, terms: Sequence[tuple[Term, Tensor | None]]) -> Sequence[tuple[Term, Tensor | None]]:
        """Where logits are read, the terms that have some, if any has."""
        if self._observes == "loss":
            return terms
        with_logits = [(term, places) for term, places in terms if isinstance(term, Classified)]
        if not with_logits:
            self._observes = "loss"
        return with_logits or terms

    def _begin(self) -> None:
        self.classified: list[tuple[Tensor, Tensor] | None] = []
        self._sum: Tensor | None = None
        self._share: Tensor | None = None
        self._of_one = torch.zeros(())  # how much of the loss an element has, of the first term
        self._elements = 0
        self._shown: list[Shown] = []
        # The unweighted gradient at an exit: what terms there are read by, or whose norm is observed.
        self._unweighted: dict[tuple[Node, int], Tensor] = {}

    def _of_loss(self, gradient: Tensor) -> None:
        self._begin()  # it may go back several times, as for a look at its gradient: the last time counts
        self._at_loss = gradient.detach() if gradient.numel() == 1 else gradient.new_ones(())
        self._running[:] = [self]

    def _is_running(self) -> bool:
        return bool(self._running) and self._running[0] is self

    def _of_term(self, term: Term, places: Tensor | None, gradients: tuple[Tensor | None, ...]) -> None:
        gradient = self._unweighted.pop((term.node, term.output), gradients[term.output])
        if gradient is None or not self._is_running():
            return
        gradient = gradient.detach()
        if self._factor is not None:
            # First of all, as 1 / b times b is 1: what a sample has shown must not depend on the batch's size.
            gradient = gradient * self._factor
        if self._classifies:
            self.classified.append(logits_and_labels(term, gradient) if places is None else None)
        shown = observe(term, gradient, self._observes)
        value, share = shown.value, shown.share
        if value.ndim == 0:
            if self._rows > 1:
                return
            value, share = value.reshape(1), share.reshape(-1)
        # A sign that the whole term has, as one that is maximised, is not a weight.
        size = share.abs().expand_as(value)
        if self._factor is None and self._sum is None:
            self._of_one = size.sum() / (size != 0).sum().clamp(min=1)
            if self.scale is not None:
                assert self._at_loss is not None
                self._factor = self.scale.of_batch(self._of_one / self._at_loss.float().abs(), self._rows)
                share, size = share * self._factor, size * self._factor
        counted = (share if self._observes == "loss" else size) * value
        if share.ndim:
            counted = counted.masked_fill(size == 0, 0.0)  # of what does not count, not even that it is not a number
        summed, shared = (_by_row(part) if self._rows > 1 else part.sum().reshape(1) for part in (counted, size))
        if places is not None:
            zeros = summed.new_zeros(self._rows)
            summed, shared = (zeros.index_add(0, places.to(zeros.device), part) for part in (summed, shared))
        self._elements += value.numel()
        self._sum = summed if self._sum is None else self._sum + summed
        self._share = shared if self._share is None else self._share + shared
        self._shown.append(shown if places is None else Shown(value, share))

    def _of_exits(
        self, exits: tuple[Exit, ...], inputs: tuple[Tensor | None, ...], outputs: Any
    ) -> tuple[Tensor | None, ...] | None:
        if not self._is_running():
            return None
        passed = list(inputs)
        for edge in exits:
            gradient, key = passed[edge.slot], (edge.into, edge.output)
            if gradient is None:
                continue
            if self._is_norm or key in self._kept:
                so_far = self._unweighted.get(key)
                self._unweighted[key] = gradient.detach() if so_far is None else so_far + gradient.detach()
            if self._weight is not None:
                weight = self._weight.to(gradient.dtype)
                passed[edge.slot] = gradient * weight.view(-1, *[1] * (gradient.ndim - 1))
        return tuple(passed)


def _by_row(elements: Tensor) -> Tensor:
    """The sum of each row: float[m] of float[m, ...]."""
    return elements if elements.ndim == 1 else elements.reshape(len(elements), -1).sum(dim=1)


def _is_mean(share: float, rows: int, elements: int) -> bool:
    """Whether a sample that has ``share`` of a loss, in so many elements, has it of a mean over ``rows`` and not of a sum.

    Told by which it is nearer to: a sum of a sample's elements or their mean, summed over samples or averaged.
    """
    apart = [
        (abs(math.log(max(share, 1e-30) / own / over)), over < 1) for own in (1, elements) for over in (1, 1 / rows)
    ]
    return min(apart)[1]
