"""Where in the autograd graph of a loss the gradient of each sample passes, once.

A sample's weight multiplies its row of the gradient at the network's output. That is exact if everything which is
trained on gets its gradient through that output, and through it once; the graph tells whether it does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.autograd.function import BackwardCFunction

Node = Any  # torch.autograd.graph.Node; its saved tensors and metadata are not declared

_LEAF = "torch::autograd::AccumulateGrad"
# What stands between a parameter and the operation that uses it, and leaves it the parameter.
_CARRIES = (
    "TBackward", "Transpose", "Permute", "View", "UnsafeView", "ToCopy", "Expand", "Unsqueeze", "Squeeze", "Split",
    "Slice", "Select", "AsStrided", "Clone", "Alias",
)  # fmt: skip
# Operations of parameters and data of which nothing but a network's layer makes use.
_LAYERS = (
    "Addmm", "Mm", "Linear", "Convolution", "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "NativeLayerNorm",
    "NativeGroupNorm", "Embedding", "CompiledFunction",
)  # fmt: skip
# They take data in by an argument that has no place in the graph.
_INDEX = ("Embedding", "Index", "Gather", "Scatter", "Take", "Nll", "Where", "Masked")
# With one number, or a few, they add up terms of a loss.
_SUMS = ("AddBackward", "SubBackward", "Stack", "Cat")


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


def cut(root: Node, rows: int) -> Cut:
    """Find where the gradient of a batch of ``rows`` samples passes.

    Args:
        root: The loss's node.
        rows: m, how many samples the batch has.

    Raises:
        NoCutError: If there is no such place.
    """
    found = _before_one_layer(root)
    if found is not None:
        beyond = {found}
        exits = _with_rows(root, beyond, frozenset(), rows, known=None)
        return Cut(exits, frozenset(beyond), frozenset(), parameters_of(found))
    return _by_whole_graph(root, rows)


def shape_of(node: Node, output: int = 0) -> tuple[int, ...]:
    """The shape of one of the tensors that a node made."""
    return tuple(node._input_metadata[output].shape)


def children(node: Node) -> list[tuple[Node, int]]:
    """The nodes that made what a node was given, and which of their outputs it was."""
    return [(child, output) for child, output in node.next_functions if child is not None]


def parameters_of(node: Node) -> tuple[nn.Parameter, ...]:
    """The parameters that a node uses as they are."""
    found = [_parameter(child) for child, _ in children(node)]
    return tuple(parameter for parameter in found if parameter is not None)


def _parameter(node: Node) -> nn.Parameter | None:
    while (name := node.name()) != _LEAF:
        below = node.next_functions
        if len(below) != 1 or below[0][0] is None or not name.startswith(_CARRIES):
            return None
        node = below[0][0]
    return node.variable if isinstance(node.variable, nn.Parameter) else None


def _hides_parameters(node: Node) -> bool:
    """A function written in Python may use parameters that the graph does not show, as a checkpointed block does."""
    return isinstance(node, BackwardCFunction)


def _before_one_layer(root: Node) -> Node | None:
    """The layer that all paths lead to; None where it takes more to tell."""
    stack, seen, layers = [root], {root}, set()
    if parameters_of(root):
        return None
    while stack:
        node = stack.pop()
        if _hides_parameters(node) or len(seen) > 500:
            return None
        for child, _ in children(node):
            if child in seen:
                continue
            seen.add(child)
            found = len(parameters_of(child))
            if found == 0:
                stack.append(child)
                continue
            name = child.name()
            # A layer takes in something besides its parameters, as an embedding does by an argument that is no node.
            if not name.startswith(_LAYERS) or (
                found == len(child.next_functions) and not name.startswith("Embedding")
            ):
                return None
            layers.add(child)
    return layers.pop() if len(layers) == 1 else None


def _by_whole_graph(root: Node, rows: int) -> Cut:
    trained: dict[Node, bool] = {}  # leads to a parameter
    alone: dict[Node, bool] = {}  # leads to parameters, and takes in no data
    for node in _children_first(root):
        below = children(node)
        if node.name() == _LEAF:
            trained[node] = alone[node] = isinstance(node.variable, nn.Parameter)
            continue
        hides = _hides_parameters(node)
        trained[node] = hides or any(trained[child] for child, _ in below)
        # What an elementwise function takes besides is a constant, unless it makes it a value for each sample.
        is_scaled = node.name().startswith(("Mul", "Div", "Add", "Sub")) and not _has_rows(node, 0, rows)
        alone[node] = (
            len(below) > 0
            and (is_scaled or len(below) == len(node.next_functions))
            and not hides
            and not node.name().startswith(_INDEX)
            and all(alone[child] for child, _ in below)
        )
    if alone[root] or not trained[root]:
        raise NoCutError("it depends on no sample")
    aside: set[Node] = set()
    stack, seen, layers = [root], {root}, set()
    while stack:
        node = stack.pop()
        below = [child for child, _ in children(node) if trained[child]]
        of_parameters = [child for child in below if alone[child]]
        is_sum = node.name().startswith(_SUMS) and not _has_rows(node, 0, rows)
        hides = _hides_parameters(node) and (_has_rows(node, 0, rows) or "Checkpoint" in node.name())
        if hides or (of_parameters and not is_sum):
            layers.add(node)
            continue
        aside.update(of_parameters)
        for child in below:
            if not alone[child] and child not in seen:
                seen.add(child)
                stack.append(child)
    beyond = _descendants(layers, set())
    exits = _with_rows(root, beyond, frozenset(aside), rows, known=(trained, alone))
    heads = parameters_of(exits[0].into) if len({edge.into for edge in exits}) == 1 else ()
    return Cut(exits, frozenset(beyond), frozenset(aside), heads)


def _with_rows(
    root: Node,
    beyond: set[Node],
    aside: frozenset[Node],
    rows: int,
    known: tuple[dict[Node, bool], dict[Node, bool]] | None,
) -> tuple[Exit, ...]:
    """The edges into ``beyond``, which grows towards the loss until the batch is the first dimension of all of them."""
    trained, alone = known if known is not None else ({}, {})
    without: list[Exit] = []
    while root not in beyond:
        exits = _edges_into(root, beyond, aside, trained)
        without = [edge for edge in exits if not _has_rows(edge.into, edge.output, rows) or alone.get(edge.into, False)]
        if not without:
            return tuple(exits)
        beyond |= _descendants([edge.node for edge in without], beyond)
    at = [(edge.into.name(), shape_of(edge.into, edge.output)) for edge in without] or [(root.name(), shape_of(root))]
    raise NoCutError(
        "; ".join(f"{name.removesuffix('0').removesuffix('Backward')} of shape {shape}" for name, shape in at)
    )


def _edges_into(root: Node, beyond: set[Node], aside: frozenset[Node], trained: dict[Node, bool]) -> list[Exit]:
    stack, seen, exits = [root], {root}, []
    while stack:
        node = stack.pop()
        for slot, (child, output) in enumerate(node.next_functions):
            if child is None or child in aside or not trained.get(child, True):
                continue
            if child in beyond:
                exits.append(Exit(node, slot, child, output))
            elif child not in seen:
                seen.add(child)
                stack.append(child)
    return exits


def _has_rows(node: Node, output: int, rows: int) -> bool:
    return shape_of(node, output)[:1] == (rows,)


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


def _children_first(root: Node) -> list[Node]:
    """All nodes, each after those that it was made from."""
    order: list[Node] = []
    stack, seen = [(root, False)], set()
    while stack:
        node, is_done = stack.pop()
        if is_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((child, False) for child, _ in children(node))
    return order
