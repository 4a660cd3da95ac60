"""Which nodes of a graph depend on parameters alone."""

import pytest
import torch
from torch import nn

from alignprune_pl.fit import nodes
from alignprune_pl.fit.nodes import is_alone

PENALTIES = {
    "stacked": lambda parts: torch.stack([part.square().sum() for part in parts]).sum(),
    "concatenated": lambda parts: torch.cat([part.flatten() for part in parts]).norm(),
    "added up": lambda parts: sum(part.square().sum() for part in parts),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_of_a_penalty_on_many_parameters_each_node_is_looked_at_a_few_times(name, monkeypatch):
    looked_at = []

    def children(node):
        looked_at.extend(found := original(node))
        return found

    original = nodes.children
    monkeypatch.setattr(nodes, "children", children)
    counts = []
    for count in (100, 400):
        loss = PENALTIES[name]([nn.Parameter(torch.ones(3)) for _ in range(count)])
        looked_at.clear()
        assert is_alone(loss.grad_fn, {})
        counts.append(len(looked_at))
    assert counts[1] < 5 * counts[0]


@pytest.mark.parametrize("first", [True, False])
def test_what_has_data_in_it_is_not_alone_and_its_other_parts_are(first):
    weight, x = nn.Parameter(torch.ones(3)), torch.ones(3, requires_grad=True)
    penalty, data = weight.square().sum().exp(), x.exp().sum()
    loss = torch.stack([data, penalty, penalty] if first else [penalty, data, penalty])
    known = {}
    assert not is_alone(loss.grad_fn, known)
    assert not is_alone(data.grad_fn, known)
    assert is_alone(penalty.grad_fn, known)
    assert not is_alone(loss.grad_fn, known)
    assert all(known[node] == is_alone(node, {}) for node in list(known))


def test_a_constant_is_no_parameter():
    weight = nn.Parameter(torch.ones(3))
    assert is_alone((weight * torch.ones(3)).grad_fn, {})
    assert not is_alone((weight * torch.ones(5, 3)).grad_fn, {})
