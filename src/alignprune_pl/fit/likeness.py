"""The graphs of a training step look alike from one step to the next: what was found in one need not be searched for again.

Only the plain case is remembered: all gradients pass one layer, row i of every term is of sample i, and nothing but that
layer is made of parameters. Two graphs are alike if they lead down to the same layer, by nodes of the same functions and
dimensions that are joined in the same way, by tensors of the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import nn

from alignprune_pl.fit.graph import Cut, Exit
from alignprune_pl.fit.nodes import Node, kind_of, parameter_of, said, shape_of
from alignprune_pl.fit.terms import Term, Terms


@dataclass(frozen=True)
class Likeness:
    """How a graph looked between loss and network, and what was found in it, by the places of its nodes in a walk.

    Attributes:
        rows: m, the samples of the batch.
        looks: How each node looked.
        stop: The place of the layer.
        exits: Place and slot of the nodes that lead to it, and which of its outputs they take.
        terms: Kind and place of each term, which of its node's outputs it is, and the places of other nodes that it knows.
        told: What is known of all terms together.
        heads: The parameters that make the network's output.
    """

    rows: int
    looks: tuple[Any, ...]
    stop: int
    exits: tuple[tuple[int, int, int], ...]
    terms: tuple[tuple[type[Term], int, int, tuple[int, ...]], ...]
    told: Terms
    heads: tuple[nn.Parameter, ...]

    def found(self, root: Node, rows: int) -> tuple[Cut, Terms] | None:
        """What there is in another graph, if that is alike."""
        if rows != self.rows:
            return None
        nodes: list[Node] = []
        for seen, look in zip_longest(_walk(root, self.stop), self.looks):
            if seen is None or seen[1] != look:
                return None
            nodes.append(seen[0])
        stop = nodes[self.stop]
        exits = tuple(Exit(nodes[place], slot, stop, output) for place, slot, output in self.exits)
        terms = tuple(
            (kind(nodes[place], output, *(nodes[other] for other in others)), None)
            for kind, place, output, others in self.terms
        )
        return Cut(exits, frozenset((stop,)), frozenset(), self.heads), Terms(
            terms, self.told.is_whole, self.told.is_averaged
        )


def likeness(root: Node, at: Cut, told: Terms, rows: int) -> Likeness | None:
    """What to remember of a graph in which something was found; None of one that is not plain."""
    if not at.heads or at.aside or any(places is not None for _, places in told.found):
        return None
    stop = at.exits[0].into
    seen = list(_walk(root, stop))
    nodes = [node for node, _ in seen]
    # A leaf may be a parameter, now or in another step; which samples an index picks is not among the looks.
    if any(node is not stop and (not node.next_functions or kind_of(node) == "Index") for node in nodes):
        return None
    place = {node: number for number, node in enumerate(nodes)}
    return Likeness(
        rows,
        tuple(look for _, look in seen),
        place[stop],
        tuple((place[edge.node], edge.slot, edge.output) for edge in at.exits),
        tuple(
            (type(term), place[term.node], term.output, tuple(place[other] for other in term.others))
            for term, _ in told.found
        ),
        Terms((), told.is_whole, told.is_averaged),
        at.heads,
    )


def _walk(root: Node, stop: Node | int) -> Iterator[tuple[Node, Any]]:
    """The nodes down to ``stop``, or to the one at that place, each with its look."""
    nodes, places = [root], {root: 0}
    for number, node in enumerate(nodes):  # which grow on the way
        joined: list[Any] = []
        is_stop = number == stop or node is stop
        for child, output in node.next_functions:
            if child is None:
                joined.append(None)
            elif is_stop:
                joined.append(id(parameter_of(child)))  # that of None for data; the heads live as long as this
            else:
                if child not in places:
                    places[child] = len(nodes)
                    nodes.append(child)
                joined.append((places[child], output, shape_of(child, output)))
        yield node, (type(node), node.name(), joined, said(node))
