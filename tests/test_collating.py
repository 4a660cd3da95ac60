"""A ``collate_fn`` that gives the samples of a batch another order is told from one that keeps it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset, default_collate

from alignprune_pl import AlignPrune
from alignprune_pl.core.collating import loses_order
from helpers import Fixed, IndexLoss, Plain, make_data, make_loader, make_trainer

TRAIN, REFERENCE, _ = make_data()
ITEMS = [(torch.randn(length, 2), label) for length, label in [(3, 0), (5, 1), (2, 1), (4, 0)]]


def by_length(items):
    return sorted(items, key=lambda item: -len(item[0]))


def padded(items):
    return pad_sequence([x for x, _ in items], batch_first=True), torch.tensor([y for _, y in items])


def by_first_value(items):
    return default_collate(sorted(items, key=lambda item: float(item[0][1])))


def mixed(items):
    x, y = padded(items)
    return x.lerp(x[torch.randperm(len(x))], torch.rand(1)), y


@pytest.mark.parametrize(
    ("collate", "loses"),
    [
        (padded, False),
        (mixed, False),
        (lambda items: {"x": padded(items)[0], "at": torch.arange(len(items))}, False),
        (lambda items: {"boxes": [x for x, _ in items], "at": torch.arange(len(items))}, False),
        (lambda items: torch.ones(len(items)), False),
        (lambda items: [x.shape for x, _ in items] / 0, False),
        (lambda items: padded(by_length(items)), True),
        (lambda items: {"in": {"x": padded(by_length(items))[0].numpy()}, "n": len(items)}, True),
        (lambda items: [[len(x) for x, _ in by_length(items)], "words"], True),
        (lambda items: items.sort(key=lambda item: len(item[0])) or padded(items), True),
    ],
)
def test_a_batch_that_is_the_same_from_both_ends_has_lost_the_order(collate, loses):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    items = list(ITEMS)
    assert loses_order(collate, items) is loses
    assert [x.data_ptr() for x, _ in items] == [x.data_ptr() for x, _ in ITEMS]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]


def test_a_collate_fn_that_changes_samples_in_place_changes_none_of_the_batch_by_being_tried():
    def collate(items):
        for x, _ in items:
            x.sub_(1.0)
        return [x for x, _ in items]

    items = [(x.clone(), y) for x, y in ITEMS]
    batch = collate(items)
    assert loses_order(collate, items) is False
    assert all(torch.equal(now, x - 1) for now, (x, _) in zip(batch, ITEMS, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_whose_collate_fn_sorts_is_refused_before_the_first_update(workers):
    module = Plain()
    before = module.net[0].weight.clone()
    loader = make_loader(TRAIN, collate_fn=by_first_value, num_workers=workers)
    with pytest.raises(
        MisconfigurationException, match="collate_fn puts the samples of a batch in an order of its own"
    ):
        make_trainer(AlignPrune(REFERENCE, Fixed([60]), "loss"), max_epochs=1).fit(module, loader)
    assert torch.equal(module.net[0].weight, before)


def test_that_a_collate_fn_is_tried_changes_no_draw():
    class Augmented(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + torch.cat([torch.zeros(1), torch.randn(4)]), y

    runs = []
    for collate in (None, lambda items: default_collate(items)):
        module = IndexLoss()
        torch.manual_seed(1)
        loader = make_loader(Augmented(*TRAIN.tensors), collate_fn=collate)
        make_trainer(AlignPrune(policy=Fixed([60]), score="loss"), max_epochs=2).fit(module, loader)
        runs.append((module.batches, torch.get_rng_state().tolist()))
    assert runs[0] == runs[1]


def test_samples_that_are_not_trained_on_are_not_loaded_for_it():
    class Damaged(TensorDataset):
        def __getitem__(self, index):
            assert index >= 100, "damaged"
            return super().__getitem__(index)

    module = IndexLoss()
    sampler = SubsetRandomSampler(range(100, 150))
    loader = DataLoader(Damaged(*TRAIN.tensors), 16, sampler=sampler, collate_fn=lambda items: default_collate(items))
    make_trainer(AlignPrune(policy="infobatch", score="loss"), max_epochs=1).fit(module, loader)
    assert sorted(module.trained(0)) == list(range(100, 150))
