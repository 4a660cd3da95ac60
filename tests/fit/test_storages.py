"""However a step writes to parameters that are not trained, reference and probes leave no trace in them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from alignprune_pl import AlignPrune, NoPruning
from alignprune_pl.fit import storages
from alignprune_pl.fit.storages import Storages
from helpers import Plain, make_data, make_loader, make_trainer

MOMENTUM = 0.9


def by_setting_data(theirs, ours):
    for b, a in zip(theirs, ours, strict=True):
        b.data = b.data * MOMENTUM + a.data * (1 - MOMENTUM)


def by_data_in_place(theirs, ours):
    for b, a in zip(theirs, ours, strict=True):
        b.data.mul_(MOMENTUM).add_(a.data, alpha=1 - MOMENTUM)


def under_no_grad(theirs, ours):
    with torch.no_grad():
        for b, a in zip(theirs, ours, strict=True):
            b.copy_(torch.lerp(b, a, 1 - MOMENTUM))


def all_at_once(theirs, ours):
    with torch.no_grad():
        torch._foreach_lerp_(list(theirs), list(ours), 1 - MOMENTUM)


class Taught(Plain):
    """Its teacher is a moving average that begins with a step, by default the first."""

    def __init__(self, write, is_frozen=True, is_hidden=False, first=0):
        super().__init__()
        self.write, self.first = write, first
        teacher = copy.deepcopy(self.net).requires_grad_(not is_frozen)
        self.teachers = [teacher] if is_hidden else nn.ModuleList([teacher])

    def training_step(self, batch, batch_idx):
        if self.global_step >= self.first:
            self.write(self.teachers[0].parameters(), self.net.parameters())
        return super().training_step(batch, batch_idx)


KINDS = {
    "by setting data": {"write": by_setting_data},
    "by data in place": {"write": by_data_in_place},
    "not frozen": {"write": under_no_grad, "is_frozen": False},
    "all at once": {"write": all_at_once},
    "no part of the module": {"write": by_data_in_place, "is_hidden": True},
    # An epoch has 13 steps: the reference at its end is the first to see that the teacher is written to.
    "later": {"write": under_no_grad, "first": 13},
}


@pytest.fixture(params=["copied", "watched"])
def _large(request, monkeypatch):
    if request.param == "watched":
        monkeypatch.setattr(storages, "_SMALL", 0)


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("kind", KINDS)
def test_a_momentum_teacher_is_as_without_a_reference(kind):
    runs = []
    for callback in ([], [AlignPrune(make_data()[1], NoPruning(), "loss")]):
        torch.manual_seed(3)
        module = Taught(**KINDS[kind])
        first = copy.deepcopy(module.teachers[0])
        make_trainer(*callback, max_epochs=2).fit(module, make_loader(make_data()[0], shuffle=False))
        runs.append(list(module.teachers[0].parameters()))
    assert not all(map(torch.equal, runs[0], first.parameters()))
    for then, now in zip(*runs, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


@pytest.mark.usefixtures("_large")
def test_memory_stays_where_it_is_and_is_put_back_whatever_is_done_to_it():
    tensors = [torch.arange(4.0) for _ in range(5)]
    tensors.append(tensors[0][2:])  # shares its memory
    where = [tensor.data_ptr() for tensor in tensors]
    held = Storages(tensors, [])
    with held.watched():
        tensors[5][0] = 7
        tensors[1].data = torch.ones(9)
        tensors[2].resize_(2, 1).zero_()
        tensors[3].set_(torch.ones(1))
        torch.add(tensors[0], 1, out=tensors[4])
    held.put_back()
    assert [tensor.data_ptr() for tensor in tensors] == where
    assert all(tensor.tolist() == [0, 1, 2, 3] for tensor in tensors[:5])
    assert tensors[5].tolist() == [2, 3]


@pytest.mark.usefixtures("_large")
def test_batch_norm_outside_of_a_module_is_put_back():
    mean, variance = torch.zeros(3), torch.ones(3)
    held = Storages([mean, variance], [])
    with held.watched():
        nn.functional.batch_norm(torch.randn(8, 3), mean, variance, training=True)
    assert mean.any()
    held.put_back()
    assert mean.tolist() == [0, 0, 0]
    assert variance.tolist() == [1, 1, 1]


def test_of_large_tensors_only_those_are_copied_that_are_written_to(monkeypatch):
    monkeypatch.setattr(storages, "_SMALL", 4000)
    frozen, teacher = torch.ones(1000), torch.ones(10)
    copied = []
    clone = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda tensor: copied.append(tensor.nbytes) or clone(tensor))
    held = Storages([frozen, teacher], [])
    with held.watched():
        teacher.mul_(frozen[:10] + 1)
    with held.watched():
        teacher.mul_(3)
    held.put_back()
    assert copied == [40]
    assert teacher.tolist() == [1] * 10


def test_a_write_to_a_large_tensor_that_cannot_be_seen_is_told(monkeypatch):
    monkeypatch.setattr(storages, "_SMALL", 0)
    teacher = nn.Parameter(torch.ones(3))
    held = Storages([teacher], [])
    with held.watched():  # as compiled code does
        teacher.detach().numpy()[:] = 2
        torch.autograd.graph.increment_version(teacher)
    with pytest.warns(UserWarning, match=r"wrote to 1 large tensors .* write to them in on_train_batch_end"):
        held.put_back()


@pytest.mark.skipif(
    not hasattr(TorchDispatchMode, "ignore_compile_internals"), reason="this torch compiles nothing that is watched"
)
def test_a_compiled_part_is_compiled_where_large_tensors_are_watched(monkeypatch):
    monkeypatch.setattr(storages, "_SMALL", 0)
    torch._dynamo.reset()
    compiled, weight = [], torch.ones(3)
    net = torch.compile(lambda x: x * weight, backend=lambda graph, _: compiled.append(graph) or graph.forward)
    with Storages([weight], []).watched():
        net(torch.ones(3))
    assert len(compiled) == 1


@pytest.mark.usefixtures("_large")
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_memory_that_cannot_be_written_to_breaks_nothing(tmp_path):
    np.save(tmp_path / "features.npy", np.ones(3))
    with torch.inference_mode():
        inferred = torch.ones(3)
    read_only = torch.from_numpy(np.load(tmp_path / "features.npy", mmap_mode="r"))
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    others = [
        nested,
        torch.ones(3).to_sparse(),
        torch.empty(3, device="meta"),
        nn.UninitializedParameter(),
        torch.ones(()),
    ]
    held = Storages([read_only, inferred, torch.ones(1).expand(3), *others], [])
    with held.watched():
        others[-1].add_(read_only.sum())
    held.put_back()
    assert others[-1] == 1
    assert read_only.tolist() == inferred.tolist() == [1, 1, 1]
