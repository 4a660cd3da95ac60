"""Where in the autograd graph of a loss the gradient of each sample passes, once.

A sample's weight multiplies its row of the gradient there. That is exact on two conditions, and the graph tells whether they
hold. All trained parameters get their gradient through such rows, and through them once. Between the rows and the loss no
sample has a part of another's. The search goes from the loss through functions that keep rows apart, as far as it can: to
the network's output, or to where rows are mixed before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from alignprune_pl.fit.layouts import Edge, Layout, Layouts
from alignprune_pl.fit.nodes import (
    ALONG,
    ELEMENTWISE,
    LEAF,
    VIEWS,
    children,
    dimensions_of,
    hides_parameters,
    is_alone,
    is_layer,
    is_led_by_parameters,
    keeps_first,
    kind_of,
    names,
    parameters_of,
    said,
    shape_of,
)
from alignprune_pl.fit.nodes import Node as Node

# With one number, or a few, they add up terms of a loss.
_SUMS = names("Add Sub Stack Cat")
# Along the first dimension they leave no row that is a sample's.
_PICKS = names(
    "Amax Amin Cat Flip Gather Index IndexSelect LinalgVectorNorm Logsumexp Max Mean Min Norm Prod Roll Select Slice "
    "Sort Split SplitWithSizes Stack Std Sum Topk Unbind Var"
)


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
    if is_alone(root, alone):
        raise NoCutError("it depends on no sample")
    while stack:
        node, output = stack.pop()
        below = children(node)
        data = [(child, number) for child, number in below if not is_alone(child, alone)]
        for slot, edge in enumerate(data):
            layout.see(edge, shape_of(*edge), (node, output), slot, kind_of(edge[0]), edge[1], said(edge[0]))
        is_row = layout.has_rows((node, output)) and (to_output or not _picks_rows(node, data, layout))
        is_mixed = len(data) < len(below) and not (kind_of(node) in _SUMS and not is_row)
        if node.name() == LEAF:
            continue  # of data that asks for a gradient
        keeps = to_output and bool(data) and not hides_parameters(node)
        if is_row and (is_mixed or not (keeps or _keeps_rows(node, output, data, layout))):
            stops.add(node)
            continue
        if not is_row and (is_mixed or hides_parameters(node, "Checkpoint")):
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
    _check_exits(exits, layout, alone)
    into = {edge.into for edge in exits}
    heads = parameters_of(exits[0].into) if len(into) == 1 and is_layer(exits[0].into) else ()
    return Cut(exits, frozenset(beyond), frozenset(aside), heads)


def has_no_sample(root: Node | None) -> bool:
    """Whether a loss depends on parameters and constants alone, as a penalty does; None is a tensor without a graph."""
    return root is None or is_alone(root, {})


def _keeps_rows(node: Node, output: int, data: list[Edge], layout: Layout) -> bool:
    """Whether row i of what a node made is of row i alone of each of what it was given."""
    if hides_parameters(node) or not data or not all(map(layout.has_rows, data)):
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
    for edge in filter(layout.is_open, edges):
        raise _open(edge)


def _check_exits(exits: tuple[Exit, ...], layout: Layout, alone: dict[Node, bool]) -> None:
    """Refuse classes that come first and are as many as the samples."""
    for edge in {(at.into, at.output) for at in exits}:
        if layout.is_open(edge) and is_led_by_parameters(*edge, alone):
            raise _open(edge)


def _open(edge: Edge) -> NoCutError:
    return NoCutError(f"{_described(*edge)}, of which either dimension could be the batch (take another batch size)")


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
            if child is None or child in aside or child.name() == LEAF:
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
