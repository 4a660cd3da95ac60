"""What of a loss can be told sample by sample, and where in its graph.

A term is a tensor whose elements belong to samples and in which the loss is linear. With the gradient that comes to it, each
element counts for as much as it does in training: masks, factors and mixing are in that gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alignprune_pl.core.trajectory import MOST_CLASSES, Observable
from alignprune_pl.fit.graph import Cut, Node, children, shape_of

# Functions that are linear in each of what they are given, or rearrange it.
_LINEAR = (
    "Add", "Sub", "Rsub", "Neg", "Mean", "Sum", "Nansum", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Expand",
    "Permute", "Transpose", "TBackward", "Select", "Slice", "Split", "Unbind", "Index", "Masked", "Where", "Gather", "Take",
    "Topk", "Sort", "Stack", "Cat", "ToCopy", "Clone", "Alias", "MulBackward1", "DivBackward1",
)  # fmt: skip
_MEAN = 1  # torch's number of that reduction


@dataclass(frozen=True)
class Seen:
    """What was seen while a step ran.

    Attributes:
        value: float[m, ...], a tensor, or the elements of a call.
        share: float[], of each element in what the call made; None of a tensor.
        is_averaged: Whether the call divides by how many there are.
    """

    value: Tensor
    share: Tensor | None = None
    is_averaged: bool = False


@dataclass(frozen=True, eq=False)
class Term:
    """Elements that belong to samples, m of them or m times some.

    Attributes:
        node: The node that made them, or what they were reduced to.
        output: Which of the node's outputs.
    """

    node: Node
    output: int

    @property
    def is_averaged(self) -> bool:
        """Whether it divides by how many there are."""
        return bool(getattr(self.node, "_saved_reduction", 0) == _MEAN)

    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has: float[m, ...] both, the second perhaps float[].

        Args:
            gradient: Of the loss, with respect to the term.
        """
        raise NotImplementedError


class Elements(Term):
    """The elements of a loss of ``torch.nn.functional`` that torch keeps for the backward pass."""

    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has."""
        elements = _ELEMENTS[self.node.name()](self.node).detach().float()
        share = gradient.float()
        return elements, share / elements.numel() if self.is_averaged else share


class Classified(Term):
    """Log-probabilities of classes."""

    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has; nothing where the target is ignored."""
        raise NotImplementedError

    def classified(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities float[m, C, ...], label int64[m, 1, ...] and how much each element counts, float[m, ...].

        The label is 0 where it is ignored, and the largest of soft ones.
        """
        raise NotImplementedError

    def distribution(self, gradient: Tensor) -> Tensor:
        """What the probabilities should be: float[m, C, ...]."""
        raise NotImplementedError


class Likelihood(Classified):
    """The negative log-likelihood of one class: ``nll_loss``, and ``cross_entropy`` with it."""

    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has; nothing where the target is ignored."""
        logits, label, _ = self.classified(gradient)
        return -logits.gather(1, label).squeeze(1), self._share(gradient)

    def _share(self, gradient: Tensor) -> Tensor:
        node = self.node
        target, ignored = node._saved_target, _signed(node._saved_ignore_index)
        share = gradient.float() / node._saved_total_weight if self.is_averaged else gradient.float()
        counts: Tensor = (target != ignored) * share
        if node._saved_weight is not None:
            counts = counts * node._saved_weight.detach().float()[target.masked_fill(target == ignored, 0)]
        return counts

    def classified(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, label, and how much each element counts."""
        target, ignored = self.node._saved_target, _signed(self.node._saved_ignore_index)
        label = target.masked_fill(target == ignored, 0).long().unsqueeze(1)
        return self.node._saved_self.detach().float(), label, self._share(gradient)

    def distribution(self, gradient: Tensor) -> Tensor:
        """What the probabilities should be: float[m, C, ...]."""
        logits, label, _ = self.classified(gradient)
        return torch.zeros_like(logits).scatter_(1, label, 1.0)


class SoftLikelihood(Classified):
    """Log-probabilities that count for several classes: soft targets, label smoothing, several labels mixed."""

    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has."""
        logits, _, share = self.classified(gradient)
        loss = (self._by_class(gradient) * logits).sum(1)
        return torch.where(share != 0, loss / share, 0.0), share

    def classified(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, the largest label, and how much each element counts."""
        gradient, logits = self._by_class(gradient), self._by_class(self.node._saved_result.detach())
        return logits, gradient.argmin(1, keepdim=True), -gradient.sum(1)

    def distribution(self, gradient: Tensor) -> Tensor:
        """What the probabilities should be: float[m, C, ...]."""
        gradient = self._by_class(gradient)
        return gradient / gradient.sum(1, keepdim=True)

    def _by_class(self, tensor: Tensor) -> Tensor:
        return tensor.float().movedim(class_dimension(self.node), 1)


def class_dimension(node: Node) -> int:
    """Over which dimension log-probabilities are."""
    return int(_signed(node._saved_dim) % len(shape_of(node)))


@dataclass(frozen=True, eq=False)
class Value(Term):
    """What was seen while the step ran."""

    seen: Seen

    @property
    def is_averaged(self) -> bool:
        """Whether it divides by how many there are."""
        return self.seen.is_averaged

    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has."""
        share = gradient.float()
        return self.seen.value.float(), share if self.seen.share is None else share * self.seen.share.float()


def _signed(number: int) -> int:
    """Torch shows a negative index as an unsigned number."""
    return number - 2**64 if number >= 2**63 else number


def _of(function: Callable[..., Tensor], *options: str) -> Callable[[Node], Tensor]:
    def elements(node: Node) -> Tensor:
        chosen = {option: getattr(node, f"_saved_{option}") for option in options}
        return function(node._saved_self, node._saved_target, reduction="none", **chosen)

    return elements


_ELEMENTS: dict[str, Callable[[Node], Tensor]] = {
    "MseLossBackward0": _of(F.mse_loss),
    "SmoothL1LossBackward0": _of(F.smooth_l1_loss, "beta"),
    "HuberLossBackward0": _of(F.huber_loss, "delta"),
    "BinaryCrossEntropyBackward0": _of(F.binary_cross_entropy, "weight"),
    "BinaryCrossEntropyWithLogitsBackward0": _of(F.binary_cross_entropy_with_logits, "weight", "pos_weight"),
    "AbsBackward0": lambda node: node._saved_self.abs(),  # l1_loss
}


@dataclass(frozen=True)
class Terms:
    """What can be told of a loss by samples.

    Attributes:
        found: The terms, which do not overlap, each with the sample of each of its rows, int64[m]; None where row i is of
            sample i.
        is_whole: Whether they make up all of the loss that depends on samples.
        is_averaged: Whether the loss is a mean over the batch and not a sum.
    """

    found: tuple[tuple[Term, Tensor | None], ...]
    is_whole: bool
    is_averaged: bool

    @property
    def needs_values(self) -> bool:
        """Whether a term was found by a value that was seen while the step ran."""
        return any(isinstance(term, Value) for term, _ in self.found)


def terms(root: Node, at: Cut, rows: int, seen: Mapping[Node, Seen]) -> Terms:
    """Take a loss apart.

    Args:
        root: Its node.
        at: What separates it from the network, where the search ends.
        rows: m, the samples of the batch.
        seen: What was seen while the step ran, by the nodes that made it.
    """
    found: dict[Node, Term] = {}
    is_whole, is_averaged = True, False
    # Beneath a function that is not linear a value says nothing; a loss that torch knows still counts by its gradient.
    stack, visited = [(root, 0, False)], {(root, False)}
    while stack:
        node, output, is_bent = stack.pop()
        term = _term(node, output, is_bent, seen)
        if term is not None:
            found[node] = term
            continue
        is_linear, shape = _is_linear(node), shape_of(node, output)
        is_lost = node in at.beyond or (not is_linear and shape[:1] == (rows,))
        is_whole = is_whole and not is_lost and (is_linear or not shape)
        is_averaged = is_averaged or node.name().startswith(("Mean", "Div"))
        for child, number in () if is_lost else children(node):
            step = (child, is_bent or not is_linear)
            if child not in at.aside and step not in visited:
                visited.add(step)
                stack.append((child, number, step[1]))
    for node in [node for node, term in found.items() if isinstance(term, Likelihood)]:
        if any(child in found for child, _ in children(node)):
            del found[node]  # the log-probabilities beneath it count for other classes as well
    placed = [(term, samples_of(term, at, rows)) for term in found.values()]
    told = tuple((term, places) for term, places in placed if places is not False)
    is_averaged = is_averaged or any(term.is_averaged for term in found.values())
    return Terms(told, is_whole and len(told) == len(placed), is_averaged)  # type: ignore[arg-type]


def _term(node: Node, output: int, is_bent: bool, seen: Mapping[Node, Seen]) -> Term | None:
    """What can be told of what a node made."""
    name = node.name()
    if name in _ELEMENTS:
        return Elements(node, output)
    if name.startswith("NllLoss"):
        return Likelihood(node, output)
    if name.startswith("LogSoftmax") and not is_bent and class_dimension(node) > 0:
        return SoftLikelihood(node, output)
    return Value(node, output, seen[node]) if node in seen and not is_bent else None


def _is_linear(node: Node) -> bool:
    name, below = node.name(), children(node)
    if name.startswith(("MulBackward0", "Dot", "Mv")):
        return len(below) == 1
    if name.startswith("DivBackward0"):
        return len(below) == 1 and node.next_functions[0][0] is not None
    if name.startswith(("Add", "Sub", "Rsub")) and len(shape_of(node)):
        return 1 < len(node.next_functions) == len(below)  # a number added to each element is not in the gradient
    return bool(name.startswith(_LINEAR))


def samples_of(term: Term, at: Cut, rows: int) -> Tensor | bool | None:
    """Which sample each of a term's rows is of: int64[m], None where row i is of sample i, False if it cannot be told.

    A step that flattens tokens into the batch, or picks some elements, does so by functions whose nodes know how.
    """
    path: list[tuple[Node, tuple[int, ...], tuple[int, ...]]] = []
    node, output = term.node, term.output
    while node not in at.beyond:
        below = [(child, number) for child, number in children(node) if child not in at.aside]
        if not below:
            return False
        path.append((node, shape_of(node, output), shape_of(*below[0])))
        node, output = below[0]
    index: Tensor | None = None
    for node, shape, given in reversed(path):
        step = _rows_through(node, shape, given, index, rows)
        if step is False:
            return False
        index = step  # type: ignore[assignment]
    return index


def _rows_through(
    node: Node, shape: tuple[int, ...], given: tuple[int, ...], index: Tensor | None, rows: int
) -> Tensor | bool | None:
    """The samples of what a function has made, from those of what it was given."""
    name = node.name()
    if name.startswith(("Transpose", "Permute", "TBackward")):
        return index if _keeps_first(node, len(given)) else False
    if name.startswith("Index") and hasattr(node, "_saved_indices"):
        first = node._saved_indices[0]
        if first is None:
            return index
        of = _rows(index, given[0], first.device)
        if first.dtype in (torch.bool, torch.uint8):
            return of.view(-1, *[1] * (first.ndim - 1)).expand(first.shape)[first.bool()]
        return of[first].reshape(-1) if first.ndim == 1 else False
    if name.startswith("MaskedSelect"):
        mask = node._saved_mask
        whole = torch.broadcast_shapes(mask.shape, given)
        of = _rows(index, given[0], mask.device)
        return (
            of.view(-1, *[1] * (len(given) - 1)).expand(whole)[mask.expand(whole)]
            if len(whole) == len(given)
            else False
        )
    if len(shape) == 0 or not given or shape[0] == given[0]:
        return index
    if name.startswith(("View", "UnsafeView", "Reshape")) and shape[0] % given[0] == 0:
        return _rows(index, given[0]).repeat_interleave(shape[0] // given[0])
    return False


def _rows(index: Tensor | None, rows: int, device: torch.device | None = None) -> Tensor:
    return torch.arange(rows, device=device) if index is None else index.to(device or index.device)


def _keeps_first(node: Node, ndim: int) -> bool:
    if node.name().startswith("Permute"):
        return bool(_signed(node._saved_dims[0]) % ndim == 0)
    if node.name().startswith("Transpose"):
        return 0 not in (_signed(node._saved_dim0) % ndim, _signed(node._saved_dim1) % ndim)
    return ndim < 2


@dataclass(frozen=True)
class Shown:
    """What a term shows.

    Attributes:
        value: float[m, ...], of each element.
        share: float[m, ...] or float[], how much of the loss the element is.
        pair: int64[m], label and strongest other class of each sample, as :class:`Observed` has them; None of a term without
            one class a sample, or with more classes than a store of trajectories takes.
        classes: C, of the pairs; otherwise 0.
    """

    value: Tensor
    share: Tensor
    pair: Tensor | None = None
    classes: int = 0


def observe(term: Term, gradient: Tensor, observes: Observable) -> Shown:
    """What ``observes`` says of each element of a term.

    Args:
        term: The term; with logits, for what is read from them.
        gradient: Of the loss, with respect to the term.
        observes: ``"loss"``, ``"el2n"``, ``"margin"`` or ``"rival"``, which has pairs. Of soft labels the largest counts.
    """
    if observes == "loss" or not isinstance(term, Classified):
        return Shown(*term.counted(gradient))
    logits, label, share = term.classified(gradient)
    if observes == "el2n":
        return Shown((logits.softmax(dim=1) - term.distribution(gradient)).norm(dim=1), share)
    others, rival = logits.scatter(1, label, -torch.inf).max(dim=1)
    margin = logits.gather(1, label).squeeze(1) - others
    if observes == "margin":
        return Shown(margin, share)
    # A CPU computes the last elements of a batch in another way: wider, so that a sample's loss does not depend on its
    # place, nor a plan on the number of ranks.
    wide = margin.double() if margin.device.type == "cpu" else margin
    value, classes = F.softplus(-wide).float(), logits.shape[1]
    if logits.ndim != 2 or classes > MOST_CLASSES:
        return Shown(value, share)
    return Shown(value, share, (label.squeeze(1) * classes + rival).masked_fill(share == 0, -1), classes)


def logits_and_labels(term: Term, gradient: Tensor) -> tuple[Tensor, Tensor] | None:
    """Log-probabilities float32[m, C] and labels int64[m], of soft labels the largest; None without one class a sample."""
    if not isinstance(term, Classified):
        return None
    logits, label, share = term.classified(gradient)
    return (logits, label.squeeze(1)) if logits.ndim == 2 and bool((share != 0).all()) else None
