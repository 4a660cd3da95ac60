"""What of a loss can be told sample by sample, and where in its graph.

A term is a tensor whose elements belong to samples and in which the loss is linear. With the gradient that comes to it, each
element counts for as much as it does in training: masks, factors and mixing are in that gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from alignprune_pl.fit.graph import Cut
from alignprune_pl.fit.nodes import Node, children, kind_of, names, shape_of, signed
from alignprune_pl.fit.rows import samples_of

# Functions that are linear in each of what they are given, or rearrange it.
_LINEAR = names(
    "Add Alias Cat Clone Expand Gather Index IndexSelect MaskedFill MaskedSelect Mean Nansum Neg Permute ReshapeAlias "
    "Rsub Select Slice Sort Split SplitWithSizes Squeeze Stack Sub Sum T Take ToCopy Topk Transpose Unbind Unsqueeze "
    "UnsafeView View"
)
_LIKELIHOODS = names("NllLoss NllLoss2D")
_RESHAPES = names("ReshapeAlias Squeeze UnsafeView Unsqueeze View")
Output = tuple[Node, int]  # what a node made, and which of its outputs that is
_MEAN = 1  # torch's number of that reduction


@dataclass(frozen=True)
class Seen:
    """What was seen while a step ran.

    Attributes:
        value: float[m, ...], a tensor, or the elements of a call.
        share: float[], of each element in what the call made; None of a tensor.
        is_averaged: Whether the call divides by how many there are.
        version: Of the tensor, as it was seen; -1 of what nobody else holds.
    """

    value: Tensor
    share: Tensor | None = None
    is_averaged: bool = False
    version: int = -1

    @property
    def is_intact(self) -> bool:
        """Whether nothing has changed the tensor in place since."""
        return self.version in (-1, self.value._version)


@dataclass(frozen=True, eq=False)
class Term(ABC):
    """Elements that belong to samples, m of them or m times some.

    Attributes:
        node: The node that made them, or what they were reduced to.
        output: Which of the node's outputs.
    """

    node: Node
    output: int

    @property
    def others(self) -> tuple[Node, ...]:
        """Nodes that it knows besides."""
        return ()

    @property
    def is_averaged(self) -> bool:
        """Whether it divides by how many there are."""
        return bool(getattr(self.node, "_saved_reduction", 0) == _MEAN)

    @abstractmethod
    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has: float[m, ...] both, the second perhaps float[].

        Args:
            gradient: Of the loss, with respect to the term.
        """


class Elements(Term):
    """The elements of a loss of ``torch.nn.functional`` that torch keeps for the backward pass."""

    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has."""
        elements = _ELEMENTS[kind_of(self.node)](self.node).detach().float()
        share = gradient.float()
        return elements, share / elements.numel() if self.is_averaged else share


class Classified(Term):
    """Log-probabilities of classes."""

    @abstractmethod
    def classified(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities float[m, C, ...], label int64[m, 1, ...] and how much each element counts, float[m, ...].

        The label is 0 where it is ignored, and the largest of soft ones.
        """

    @abstractmethod
    def distribution(self, gradient: Tensor) -> Tensor:
        """What the probabilities should be: float[m, C, ...]."""


class Likelihood(Classified):
    """The negative log-likelihood of one class: ``nll_loss``, and ``cross_entropy`` with it."""

    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has; nothing where the target is ignored."""
        logits, label, share = self.classified(gradient)
        return -logits.gather(1, label).squeeze(1), share

    def classified(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, label, and how much each element counts."""
        node = self.node
        logits, weight, label = node._saved_self.detach().float(), node._saved_weight, label_of(node)
        ignored = node._saved_target == signed(node._saved_ignore_index)
        share = gradient.float() / node._saved_total_weight if self.is_averaged else gradient.float()
        if weight is not None:
            share = share * weight.detach().float()[label]
        share = torch.where(ignored, 0.0, share)
        if logits.ndim == 1:  # one sample alone
            return logits[None], label.reshape(1, 1), share.reshape(1)
        return logits, label.unsqueeze(1), share

    def distribution(self, gradient: Tensor) -> Tensor:
        """What the probabilities should be: float[m, C, ...]."""
        logits, label, _ = self.classified(gradient)
        return torch.zeros_like(logits).scatter_(1, label, 1.0)


@dataclass(frozen=True, eq=False)
class SoftLikelihood(Classified):
    """Log-probabilities that count for several classes: soft targets, label smoothing, several labels mixed.

    Attributes:
        named: The likelihood of one class that they count in as well, as with label smoothing. It says the label, where by
            the weights of classes another one may count for more. None where there is none, or several.
    """

    named: Node | None = None
    label: Tensor | None = field(
        init=False
    )  # read now: the gradient passes that node before it comes here, and frees it

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", None if self.named is None else label_of(self.named, ignored=-1))

    @property
    def others(self) -> tuple[Node, ...]:
        """Nodes that it knows besides."""
        return () if self.named is None else (self.named,)

    def counted(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each element, and how much of it the loss has."""
        logits, gradient = self._by_class(self.node._saved_result.detach()), self._by_class(gradient)
        size = gradient.abs().sum(1)
        return torch.where(size != 0, (gradient * logits).sum(1) / size, 0.0), size

    def classified(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, the label that is named or else the largest, and how much each element counts."""
        gradient, logits = self._by_class(gradient), self._by_class(self.node._saved_result.detach())
        share = -gradient.sum(1)
        label = largest = gradient.argmin(1, keepdim=True)
        if self.label is not None and self.label.numel() == share.numel():
            label = self.label.reshape(share.shape).unsqueeze(1)
        return logits, torch.where(label < 0, largest, label), share

    def distribution(self, gradient: Tensor) -> Tensor:
        """What the probabilities should be: float[m, C, ...]."""
        gradient = self._by_class(gradient)
        return gradient / gradient.sum(1, keepdim=True)

    def _by_class(self, tensor: Tensor) -> Tensor:
        return tensor.float().movedim(class_dimension(self.node), 1)


def label_of(node: Node, ignored: int = 0) -> Tensor:
    """The classes that a likelihood is of, int64 in their shape; ``ignored`` where one is."""
    target: Tensor = node._saved_target.long()
    return target.masked_fill(target == signed(node._saved_ignore_index), ignored)


def class_dimension(node: Node) -> int:
    """Over which dimension log-probabilities are."""
    return int(signed(node._saved_dim) % len(shape_of(node)))


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


def _of(function: Callable[..., Tensor], *options: str) -> Callable[[Node], Tensor]:
    def elements(node: Node) -> Tensor:
        chosen = {option: getattr(node, f"_saved_{option}") for option in options}
        return function(node._saved_self, node._saved_target, reduction="none", **chosen)

    return elements


_ELEMENTS: dict[str, Callable[[Node], Tensor]] = {
    "MseLoss": _of(F.mse_loss),
    "SmoothL1Loss": _of(F.smooth_l1_loss, "beta"),
    "HuberLoss": _of(F.huber_loss, "delta"),
    "BinaryCrossEntropy": _of(F.binary_cross_entropy, "weight"),
    "BinaryCrossEntropyWithLogits": _of(F.binary_cross_entropy_with_logits, "weight", "pos_weight"),
    "Abs": lambda node: node._saved_self.abs(),  # l1_loss
}


@dataclass(frozen=True)
class Terms:
    """What can be told of a loss by samples.

    Attributes:
        found: The terms, which do not overlap, each with the sample of each of its rows, int64[m]; None where row i is of
            sample i.
        is_whole: Whether they make up all of the loss that depends on samples.
        is_averaged: Whether the loss is a mean over the batch and not a sum; None where that takes numbers to tell.
    """

    found: tuple[tuple[Term, Tensor | None], ...]
    is_whole: bool
    is_averaged: bool | None

    @property
    def needs_values(self) -> bool:
        """Whether a term was found by a value that was seen while the step ran."""
        return any(isinstance(term, Value) for term, _ in self.found)


def terms(root: Node, at: Cut, rows: int, seen: Mapping[Output, Seen]) -> Terms:
    """Take a loss apart.

    Args:
        root: Its node.
        at: What separates it from the network, where the search ends.
        rows: m, the samples of the batch.
        seen: What was seen while the step ran, by the nodes that made it and their outputs.
    """
    opened: set[Output] = set()
    found, is_whole, is_mean = _search(root, at, rows, seen, opened)
    while over := _over(found, at):  # what is beneath them has their gradient too, and would count twice
        opened |= over
        found, is_whole, is_mean = _search(root, at, rows, seen, opened)
    placed = [(term, samples_of(term.node, term.output, at, rows)) for term in found.values()]
    told = tuple((term, places) for term, places in placed if places is not False)
    is_mean = is_mean or any(
        term.is_averaged and not _is_of_one(term.seen.value if isinstance(term, Value) else term.node, rows)
        for term in found.values()
    )
    return Terms(told, is_whole and len(told) == len(placed), True if is_mean else None)  # type: ignore[arg-type]


def _search(
    root: Node, at: Cut, rows: int, seen: Mapping[Output, Seen], opened: set[Output]
) -> tuple[dict[Output, Term], bool, bool]:
    """The terms of a loss, but none of what is opened; whether they are whole, and whether a mean is on the way."""
    found: dict[Output, Term] = {}
    is_whole, is_mean = True, False
    # Beneath a function that is not linear a value says nothing; a loss that torch knows still counts by its gradient.
    stack, visited = [(root, 0, False)], {(root, 0, False)}
    while stack:
        node, output, is_bent = stack.pop()
        term = None if (node, output) in opened else _term(node, output, is_bent, seen)
        if term is not None and (node not in at.beyond or isinstance(term, Value)):
            found[node, output] = term
            continue
        is_linear, shape = _is_linear(node), shape_of(node, output)
        is_row = shape[:1] == (rows,)
        is_lost = node in at.beyond or (not is_linear and is_row)
        is_whole = is_whole and not is_lost and (is_linear or not shape)
        is_mean = is_mean or (not is_row and kind_of(node) == "Mean" and not _is_of_one(node, rows))
        for child, number in () if is_lost else children(node):
            step = (child, number, is_bent or not is_linear)
            if child not in at.aside and step not in visited:
                visited.add(step)
                stack.append(step)
    for made in [made for made, term in found.items() if isinstance(term, Likelihood)]:
        if any(edge in found for edge in children(made[0])):
            del found[made]  # the log-probabilities beneath it count for other classes as well
    likelihoods = {node for node, _, _ in visited if kind_of(node) in _LIKELIHOODS}
    for (node, output), term in found.items():
        named = [above for above in likelihoods if _of_views(above) is node] if isinstance(term, SoftLikelihood) else []
        if len(named) == 1:
            found[node, output] = SoftLikelihood(node, output, named[0])
    return found, is_whole, is_mean


def _of_views(node: Node) -> Node:
    """What a function was given, however that has been reshaped on the way."""
    node = children(node)[0][0]
    while kind_of(node) in _RESHAPES:
        node = children(node)[0][0]
    return node


def _over(found: Mapping[Output, Term], at: Cut) -> set[Output]:
    """Terms that were made of others."""
    if len(found) < 2:
        return set()
    has_beneath: dict[Node, bool] = {}
    stack = [node for node, _ in found]
    while stack:
        node = stack[-1]
        below = [] if node in at.beyond else [edge for edge in children(node) if edge[0] not in at.aside]
        unknown = [child for child, _ in below if child not in has_beneath]
        if unknown and not any(edge in found for edge in below):
            stack.extend(unknown)
            continue
        has_beneath[stack.pop()] = any(edge in found or has_beneath.get(edge[0], False) for edge in below)
    return {edge for edge in found if has_beneath[edge[0]]}


def _is_of_one(reduced: Tensor | Node, rows: int) -> bool:
    """Whether what is reduced, or what a node was given, is of one sample of several; its mean is none over the batch."""
    shape = reduced.shape if isinstance(reduced, Tensor) else shape_of(*children(reduced)[0])
    return rows > 1 and shape[:1] == (1,)


def _term(node: Node, output: int, is_bent: bool, seen: Mapping[Output, Seen]) -> Term | None:
    """What can be told of what a node made."""
    kind = kind_of(node)
    if kind in _ELEMENTS and shape_of(*children(node)[0]):
        return Elements(node, output)
    if kind in _LIKELIHOODS:
        return Likelihood(node, output)
    if kind == "LogSoftmax" and not is_bent and class_dimension(node) > 0:
        return SoftLikelihood(node, output)
    value = None if is_bent else seen.get((node, output))
    return Value(node, output, value) if value is not None and value.is_intact else None


def _is_linear(node: Node) -> bool:
    kind, below = kind_of(node), children(node)
    if kind in ("Mul", "Dot", "Mv", "Mm", "Bmm"):
        return len(below) == 1
    if kind == "Div":
        return len(below) == 1 and node.next_functions[0][0] is not None
    if kind == "Where":
        return len(below) == len(node.next_functions)
    if kind in ("Add", "Sub", "Rsub") and len(shape_of(node)):
        return 1 < len(node.next_functions) == len(below)  # a number added to each element is not in the gradient
    return kind in _LINEAR
