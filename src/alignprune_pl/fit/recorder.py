"""Hooks in the graph of one loss: sample weights go in, what samples have shown comes out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.trajectory import Observable, Observed
from alignprune_pl.fit.graph import Cut, Exit, Node
from alignprune_pl.fit.terms import Classified, Shown, Term, Terms, logits_and_labels, observe


class Recorder:
    """Follows one backward pass.

    What is recorded of sample i is the loss as it is trained on: the sum over its elements e of (dL/de) e, times b where
    L is a mean over the batch. The gradient at the loss itself takes out what is not the loss's, such as the factors of
    gradient accumulation and of a loss scaler.

    Args:
        loss: float[], what is trained on, with its graph.
        at: Where each sample's gradient passes.
        terms: What of the loss can be told by samples; None to record the norm of each sample's gradient at ``at``, which
            for cross-entropy is EL2N (Paul et al., NeurIPS 2021).
        rows: m, the samples of the batch.
        weight: float[m], what the gradient of each sample is multiplied by; None for ones.
        observes: What is read from terms with logits.
        classifies: Whether to keep the log-probabilities too.

    Attributes:
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
        classifies: bool = False,
    ) -> None:
        self.classified: list[tuple[Tensor, Tensor] | None] = []
        self._classifies = classifies
        self._rows, self._weight, self._observes = rows, weight, observes
        self._factor = rows if terms is None or terms.is_averaged else 1
        self._at_loss: Tensor | None = None
        self._sum: Tensor | None = None
        self._share: Tensor | None = None
        self._gradients: dict[tuple[Node, int], Tensor] | None = {} if terms is None else None
        self._shown: list[Shown] = []
        loss.register_hook(self._of_loss)
        for term, places in () if terms is None else self._read(terms.found):
            term.node.register_prehook(partial(self._of_term, term, places))
        if weight is not None or terms is None:
            for node, exits in groupby(sorted(at.exits, key=lambda edge: id(edge.node)), key=lambda edge: edge.node):
                node.register_hook(partial(self._of_exits, tuple(exits)))

    def observed(self) -> Observed | None:
        """What each of the rows has shown: float32[m]; None before the backward pass."""
        if self._at_loss is None:
            return None
        at_loss = self._at_loss.float()
        if self._gradients is not None:
            norms = [gradient.float().reshape(self._rows, -1).norm(dim=1) for gradient in self._gradients.values()]
            return Observed(torch.stack(norms).norm(dim=0) * self._factor / at_loss.abs()) if norms else None
        if self._sum is None or self._share is None:
            return None
        seen = self._share != 0
        value = self._sum / at_loss if self._observes == "loss" else self._sum / self._share
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

    def _of_loss(self, gradient: Tensor) -> None:
        self._at_loss = gradient.detach()

    def _of_term(self, term: Term, places: Tensor | None, gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[term.output]
        if gradient is None:
            return
        gradient = gradient.detach() * self._factor
        if self._classifies:
            self.classified.append(logits_and_labels(term, gradient) if places is None else None)
        shown = observe(term, gradient, self._observes)
        value, share = shown.value, shown.share
        # A sign that the whole term has, as one that is maximised, is not a weight.
        size = share.abs().expand_as(value)
        counted = (share if self._observes == "loss" else size) * value
        if share.ndim:
            counted = counted.masked_fill(size == 0, 0.0)  # of what does not count, not even that it is not a number
        summed, shared = (_by_row(part) for part in (counted, size))
        if places is not None:
            zeros = summed.new_zeros(self._rows)
            summed, shared = (zeros.index_add(0, places.to(zeros.device), part) for part in (summed, shared))
        self._sum = summed if self._sum is None else self._sum + summed
        self._share = shared if self._share is None else self._share + shared
        self._shown.append(shown if places is None else Shown(value, share))

    def _of_exits(
        self, exits: tuple[Exit, ...], inputs: tuple[Tensor | None, ...], outputs: Any
    ) -> tuple[Tensor | None, ...]:
        passed = list(inputs)
        for edge in exits:
            gradient = passed[edge.slot]
            if gradient is None:
                continue
            if self._gradients is not None:
                key = (edge.into, edge.output)
                so_far = self._gradients.get(key)
                self._gradients[key] = gradient.detach() if so_far is None else so_far + gradient.detach()
            if self._weight is not None:
                weight = self._weight.to(gradient.dtype)
                passed[edge.slot] = gradient * weight.view(-1, *[1] * (gradient.ndim - 1))
        return tuple(passed)


def _by_row(elements: Tensor) -> Tensor:
    """The sum of each row: float[m] of float[m, ...]."""
    return elements if elements.ndim == 1 else elements.reshape(len(elements), -1).sum(dim=1)
