"""What the nodes of an autograd graph say: which function made a tensor, of what, and along which dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn
from torch.autograd.function import BackwardCFunction

Node = Any  # torch.autograd.graph.Node; its saved tensors and metadata are not declared

LEAF = "torch::autograd::AccumulateGrad"


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
VIEWS = names("View UnsafeView ReshapeAlias")
_PRODUCTS = names("Mm Addmm Bmm Baddbmm")
_SAID = ("_saved_dim", "_saved_dims", "_saved_dim0", "_saved_dim1", "_saved_reduction")


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
    while (name := node.name()) != LEAF:
        below = node.next_functions
        if len(below) != 1 or below[0][0] is None or name.partition("Backward")[0] not in _CARRIES:
            return None
        node = below[0][0]
    return node.variable if isinstance(node.variable, nn.Parameter) else None


def hides_parameters(node: Node, name: str = "") -> bool:
    """A function written in Python may use parameters that the graph does not show, as a checkpointed block does."""
    return isinstance(node, BackwardCFunction) and name in type(node).__name__


def is_layer(node: Node) -> bool:
    """Whether it is an operation of parameters that takes in something besides them."""
    kind = kind_of(node)
    if kind not in _LAYERS:
        return False
    # An embedding does so by an argument that is no node.
    return kind == "Embedding" or len(parameters_of(node)) < len(node.next_functions)


def is_alone(node: Node, known: dict[Node, bool]) -> bool:
    """Whether what a node made depends on parameters and constants alone, and on no sample.

    Args:
        node: The node.
        known: Of which nodes it is known, to which this adds those that it comes by. Each is looked at once.
    """
    path: list[tuple[Node, Iterator[tuple[Node, int]]]] = []
    below = iter([(node, 0)])
    while node not in known:
        child = next((child for child, _ in below if not known.get(child)), None)
        if child is None:
            top, below = path.pop()
            known[top] = True
            continue
        is_known = known[child] if child in known else _is_alone_at_once(child)
        if is_known is None:
            path.append((child, below))
            below = iter(children(child))
        elif is_known:
            known[child] = True
        else:
            known.update(dict.fromkeys((child, *(top for top, _ in path)), False))
    return known[node]


def _is_alone_at_once(node: Node) -> bool | None:
    """The same, where the node itself tells; None where what it was given has to."""
    if node.name() == LEAF:
        return isinstance(node.variable, nn.Parameter)
    return False if not children(node) or _takes_data(node) else None


def is_led_by_parameters(node: Node, output: int, alone: dict[Node, bool]) -> bool:
    """Whether the first dimension is one of parameters alone, such as the classes of ``weight @ features.T``."""
    place = 0
    while True:
        kind, shape = kind_of(node), shape_of(node, output)
        if kind in _PRODUCTS:
            first, second = (factor is not None and is_alone(factor, alone) for factor, _ in node.next_functions[-2:])
            return (first, second) == ((True, False) if place == len(shape) - 2 else (False, True))
        data = [edge for edge in children(node) if not is_alone(edge[0], alone)]
        if not data:
            return False
        node, output, made = *data[0], node
        if (moved := _place_before(made, place, shape, shape_of(node, output))) is None:
            return False
        place = moved


def _place_before(node: Node, place: int, shape: tuple[int, ...], given: tuple[int, ...]) -> int | None:
    """Which dimension a node was given became the one at ``place``; None where that is not followed."""
    kind = kind_of(node)
    if kind in ("T", "Transpose"):
        turned = [0, 1] if kind == "T" else sorted(dimensions_of(node, len(shape)) or ())
        return turned[turned.index(place) - 1] if place in turned else place
    if kind == "Permute":
        return signed(node._saved_dims[place]) % len(shape)
    if kind in VIEWS:  # that puts in or takes out dimensions of one element
        kept, before = ([dim for dim, size in enumerate(sizes) if size != 1] for sizes in (shape, given))
        same = [shape[dim] for dim in kept] == [given[dim] for dim in before] and place in kept
        return before[kept.index(place)] if same else None
    return place if shape == given else None


def _takes_data(node: Node) -> bool:
    """Whether a node is given something that is no parameter, and not a constant of an elementwise function."""
    kind = kind_of(node)
    if kind in _INDEX or hides_parameters(node) or is_layer(node):
        return True
    below = children(node)
    if len(below) == len(node.next_functions) or kind in _LIKE:
        return False
    return kind not in ELEMENTWISE or shape_of(node) not in [shape_of(child, number) for child, number in below]
