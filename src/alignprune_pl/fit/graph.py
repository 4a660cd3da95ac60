"""Where in the autograd graph of a loss the gradient of each sample passes, once.

A sample's weight multiplies its row of the gradient there. That is exact on two conditions, and the graph tells whether they
hold. All trained parameters get their gradient through such rows, and through them once. Between the rows and the loss no
sample has a part of another's. The search goes from the loss through functions that keep rows apart, as far as it can: to
the network's output, or to where rows are mixed before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn
from torch.autograd.function import BackwardCFunction

from alignprune_pl.fit.layouts import Edge, Layout, Layouts

Node = Any  # torch.autograd.graph.Node; its saved tensors and metadata are not declared

_LEAF = "torch::autograd::AccumulateGrad"


def names(words: str) -> frozenset[str]:
    """The words."""
    return frozenset(words.split())


# Functions are known by their nodes' names, "Mul" of MulBackward0.
# What stands between a parameter and the operation that uses it, and leaves it the parameter.
_CARRIES = names(
    "T Transpose Permute View UnsafeView ToCopy Expand Unsqueeze Squeeze Split SplitWithSizes Slice Select AsStrided "
    "Clone Alias"
)
# Operations of parameters and data of which nothing but a network's layer makes use.
_LAYERS = names(
    "Addmm Mm Linear Convolution NativeBatchNorm CudnnBatchNorm MiopenBatchNorm NativeLayerNorm NativeGroupNorm "
    "Embedding CompiledFunction"
)
# They take data in by an argument that has no place in the graph.
_INDEX = names(
    "Embedding EmbeddingBag Index IndexSelect IndexAdd IndexPut Gather Scatter ScatterAdd Take NllLoss NllLoss2D "
    "Where MaskedFill MaskedSelect MaskedScatter"
)
# With one number, or a few, they add up terms of a loss.
_SUMS = names("Add Sub Stack Cat")
# Losses whose arguments are of one shape.
_LIKE = names("BinaryCrossEntropy BinaryCrossEntropyWithLogits HuberLoss KlDiv MseLoss SmoothL1Loss SoftMarginLoss")
# Each element is one of the same place in what they were given.
ELEMENTWISE = _LIKE | names(
    "Abs Add Alias Celu Clamp ClampMax ClampMin Clone Cos Div Elu Erf Exp Expm1 Gelu Hardsigmoid Hardswish Hardtanh "
    "LeakyRelu Lerp Log Log10 Log1P Log2 LogSigmoid MaskedFill Maximum Minimum Mish Mul NanToNum NativeDropout Neg "
    "Pow Reciprocal Relu Rsqrt Rsub Sigmoid Silu Sin Softplus Softshrink Sqrt Square Sub Tanh Threshold ToCopy Where "
    "Xlogy"
)
# They work along dimensions, or move these, and keep rows apart if the first is not among them.
ALONG = names(
    "Amax Amin Cat Cumsum Expand Flip Gather Glu IndexSelect LinalgVectorNorm LogSoftmax Logcumsumexp Logsumexp Max "
    "Mean Min Norm NllLoss NllLoss2D Permute Prod ReshapeAlias Select Slice Softmax Sort Split SplitWithSizes Squeeze "
    "Std Sum T Topk Transpose Unsqueeze UnsafeView Var View"
)
# Along the first dimension they leave no row that is a sample's.
_PICKS = names(
    "Amax Amin Cat Flip Gather Index IndexSelect LinalgVectorNorm Logsumexp Max Mean Min Norm Prod Roll Select Slice "
    "Sort Split SplitWithSizes Stack Std Sum Topk Unbind Var"
)
VIEWS = names("View UnsafeView ReshapeAlias")
_SAID = ("_saved_dim", "_saved_dims", "_saved_dim0", "_saved_dim1", "_saved_reduction")


class NoCutError(Exception):
    """There is no place where each sample's gradient passes once; says what stands there instead."""


@dataclass(frozen=True)
class Exit:
    """An edge of the graph by which the gradient leaves the loss's side.

    Attributes:
        node: The last node on the loss's side.
        slot: Which of its inputs.
        into: The first node on the network's side.
        output: Which of that node's outputs.
    """

    node: Node
    slot: int
    into: Node
    output: int


@dataclass(frozen=True)
class Cut:
    """What separates a loss from the network.

    Attributes:
        exits: Every path from the loss to what is trained crosses one of them, once; the batch is the first dimension of
            each.
        beyond: Nodes on the network's side, those that the exits lead to among them; not all of them.
        aside: Nodes of terms that no sample is part of, such as a penalty on parameters.
        heads: The parameters that make the network's output, where it is one layer's; otherwise empty.
    """

    exits: tuple[Exit, ...]
    beyond: frozenset[Node]
    aside: frozenset[Node]
    heads: tuple[nn.Parameter, ...]


def cut(root: Node, rows: int, to_output: bool = False, layouts: Layouts | None = None) -> Cut:
    """Find where the gradient of a batch of ``rows`` samples passes.

    Args:
        root: The loss's node.
        rows: m, how many samples the batch has.
        to_output: Go on to the network's last layer where the loss mixes samples, which then has no exact weights.
        layouts: What earlier batches have shown; this one adds to it.

    Raises:
        NoCutError: If there is no such place.
    """
    alone: dict[Node, bool] = {}
    stops: set[Node] = set()
    aside: set[Node] = set()
    stack, seen = [(root, 0)], {root}
    layout = Layout(rows, Layouts() if layouts is None else layouts)
    layout.see((root, 0), shape_of(root), None, kind_of(root))
    if _is_alone(root, alone):
        raise NoCutError("it depends on no sample")
    while stack:
        node, output = stack.pop()
        below = children(node)
        data = [(child, number) for child, number in below if not _is_alone(child, alone)]
        for slot, edge in enumerate(data):
            layout.see(edge, shape_of(*edge), (node, output), slot, kind_of(edge[0]), edge[1], said(edge[0]))
        is_row = layout.has_rows((node, output)) and (to_output or not _picks_rows(node, data, layout))
        is_mixed = len(data) < len(below) and not (kind_of(node) in _SUMS and not is_row)
        if node.name() == _LEAF:
            continue  # of data that asks for a gradient
        keeps = to_output and bool(data) and not _hides_parameters(node)
        if is_row and (is_mixed or not (keeps or _keeps_rows(node, output, data, layout))):
            stops.add(node)
            continue
        if not is_row and (is_mixed or _hides_parameters(node, "Checkpoint")):
            raise NoCutError(_described(node, output))
        if not is_row:
            _check_flattened(node, data, layout)
        aside.update(child for child, _ in below if alone[child])
        stack.extend(edge for edge in data if edge[0] not in seen)
        seen.update(child for child, _ in data)
    if not stops:
        raise NoCutError("it depends on no sample")
    beyond = stops if len(stops) == 1 else _descendants(stops, set())
    exits = _with_rows(root, beyond, frozenset(aside), layout)
    into = {edge.into for edge in exits}
    heads = parameters_of(exits[0].into) if len(into) == 1 and _is_layer(exits[0].into) else ()
    return Cut(exits, frozenset(beyond), frozenset(aside), heads)


def shape_of(node: Node, output: int = 0) -> tuple[int, ...]:
    """The shape of one of the tensors that a node made."""
    return tuple(node._input_metadata[output].shape)


def children(node: Node) -> list[tuple[Node, int]]:
    """The nodes that made what a node was given, and which of their outputs it was."""
    return [(child, output) for child, output in node.next_functions if child is not None]


def kind_of(node: Node) -> str:
    """Which function made something, "Mul" of MulBackward0."""
    return str(node.name().partition("Backward")[0])


def dimensions_of(node: Node, ndim: int) -> set[int] | None:
    """The dimensions that a node works along, of ``ndim``; None where it does not say."""
    found: list[int] = []
    for name in ("_saved_dim", "_saved_dims", "_saved_dim0", "_saved_dim1"):
        value = getattr(node, name, ())
        if value is None:
            return None
        found.extend(value if isinstance(value, tuple | list) else (value,))
    return {signed(number) % max(ndim, 1) for number in found} if found else None


def signed(number: int) -> int:
    """Torch shows a negative index as an unsigned number."""
    return number - 2**64 if number >= 2**63 else number


@cache
def _said_by(kind: type) -> tuple[str, ...]:
    return tuple(name for name in _SAID if hasattr(kind, name))


def said(node: Node) -> tuple[Any, ...]:
    """What a node says of dimensions and reduction."""
    return tuple(getattr(node, name) for name in _said_by(node.__class__))


def keeps_first(node: Node, ndim: int) -> bool:
    """Whether a function that works along dimensions, of the ``ndim`` that it was given, leaves the first alone."""
    kind = kind_of(node)
    if kind == "Permute":
        return bool(signed(node._saved_dims[0]) % ndim == 0)
    if kind == "T":
        return ndim < 2
    if kind == "Expand":
        return len(shape_of(node)) == ndim  # otherwise it puts a dimension before the first
    if kind in VIEWS or kind in ("NllLoss", "NllLoss2D"):
        return True
    along = dimensions_of(node, ndim)
    return along is not None and 0 not in along


def parameters_of(node: Node) -> tuple[nn.Parameter, ...]:
    """The parameters that a node uses as they are."""
    found = [parameter_of(child) for child, _ in children(node)]
    return tuple(parameter for parameter in found if parameter is not None)


def parameter_of(node: Node) -> nn.Parameter | None:
    """The parameter that a node makes available as it is; None where it does something else."""
    while (name := node.name()) != _LEAF:
        below = node.next_functions
        if len(below) != 1 or below[0][0] is None or name.partition("Backward")[0] not in _CARRIES:
            return None
        node = below[0][0]
    return node.variable if isinstance(node.variable, nn.Parameter) else None


def _hides_parameters(node: Node, name: str = "") -> bool:
    """A function written in Python may use parameters that the graph does not show, as a checkpointed block does."""
    return isinstance(node, BackwardCFunction) and name in type(node).__name__


def _is_layer(node: Node) -> bool:
    """Whether it is an operation of parameters that takes in something besides them."""
    kind = kind_of(node)
    if kind not in _LAYERS:
        return False
    # An embedding does so by an argument that is no node.
    return kind == "Embedding" or len(parameters_of(node)) < len(node.next_functions)


def _is_alone(node: Node, known: dict[Node, bool]) -> bool:
    """Whether what a node made depends on parameters and constants alone, and on no sample."""
    if node not in known:
        stack = [node]
        while stack:
            top = stack[-1]
            below = [] if _takes_data(top) else children(top)
            unknown = [child for child, _ in below if child not in known]
            if any(known.get(child) is False for child, _ in below) or not unknown:
                stack.pop()
                is_leaf = top.name() == _LEAF
                known[top] = (
                    isinstance(top.variable, nn.Parameter)
                    if is_leaf
                    else bool(below) and all(known.get(c) for c, _ in below)
                )
            else:
                stack.append(unknown[0])
    return known[node]


def _takes_data(node: Node) -> bool:
    """Whether a node is given something that is no parameter, and not a constant of an elementwise function."""
    kind = kind_of(node)
    if kind == _LEAF:
        return False
    if kind in _INDEX or _hides_parameters(node) or _is_layer(node):
        return True
    below = children(node)
    if len(below) == len(node.next_functions) or kind in _LIKE:
        return False
    return kind not in ELEMENTWISE or shape_of(node) not in [shape_of(child, number) for child, number in below]


def _keeps_rows(node: Node, output: int, data: list[Edge], layout: Layout) -> bool:
    """Whether row i of what a node made is of row i alone of each of what it was given."""
    if _hides_parameters(node) or not data or not all(map(layout.has_rows, data)):
        return False
    kind, given = kind_of(node), shape_of(*data[0])
    if kind in ALONG:
        return keeps_first(node, len(given))
    return kind in ELEMENTWISE and all(len(shape_of(*edge)) == len(shape_of(node, output)) for edge in data)


def _picks_rows(node: Node, data: list[Edge], layout: Layout) -> bool:
    """Whether a node picks, orders or sums up samples, so that the rows of what it made are none, if as many."""
    kind = kind_of(node)
    if kind not in _PICKS or not data:
        return False
    if kind == "Index":
        return node._saved_indices[0] is not None
    along = dimensions_of(node, len(shape_of(*data[0])) + (kind == "Stack"))
    if along is not None and 0 not in along:
        return False
    _check_open(data, layout)
    return kind == "Cat" or any(map(layout.has_rows, data))


def _check_flattened(node: Node, data: list[Edge], layout: Layout) -> None:
    """Refuse to follow rows that are made of a tensor of which either dimension could be the batch."""
    if kind_of(node) in VIEWS:
        _check_open([edge for edge in data if len(shape_of(*edge)) > 2], layout)


def _check_open(edges: list[Edge], layout: Layout) -> None:
    """Refuse a tensor of which it cannot be told whether its first or second dimension is the batch."""
    for edge in edges:
        if layout.is_open(edge):
            raise NoCutError(
                f"{_described(*edge)}, of which either dimension could be the batch (take another batch size)"
            )


def _described(node: Node, output: int = 0) -> str:
    return f"{kind_of(node)} of shape {shape_of(node, output)}"


def _with_rows(root: Node, beyond: set[Node], aside: frozenset[Node], layout: Layout) -> tuple[Exit, ...]:
    """The edges into ``beyond``, which grows towards the loss until the batch is the first dimension of all of them."""
    without: list[Exit] = []
    while root not in beyond:
        exits = _edges_into(root, beyond, aside)
        without = [edge for edge in exits if not layout.has_rows((edge.into, edge.output))]
        if not without:
            return tuple(exits)
        beyond |= _descendants([edge.node for edge in without], beyond)
    raise NoCutError("; ".join(_described(edge.into, edge.output) for edge in without) or _described(root))


def _edges_into(root: Node, beyond: set[Node], aside: frozenset[Node]) -> list[Exit]:
    stack, seen, exits = [root], {root}, []
    while stack:
        node = stack.pop()
        for slot, (child, output) in enumerate(node.next_functions):
            if child is None or child in aside or child.name() == _LEAF:
                continue
            if child in beyond:
                exits.append(Exit(node, slot, child, output))
            elif child not in seen:
                seen.add(child)
                stack.append(child)
    return exits


def _descendants(nodes: Iterable[Node], beyond: set[Node]) -> set[Node]:
    """The nodes, and all that they were made from, down to what is ``beyond``."""
    stack = list(nodes)
    seen = set(stack)
    while stack:
        for child, _ in children(stack.pop()):
            if child not in seen and child not in beyond:
                seen.add(child)
                stack.append(child)
    return seen
