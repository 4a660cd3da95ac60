"""What every noise model keeps to, and that one that does not is found out."""

from __future__ import annotations

import random
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import alignprune_pl.noise
from alignprune_pl.noise import (
    Asymmetric,
    Clean,
    Given,
    Human,
    InstanceDependent,
    LabelledData,
    PairFlip,
    Symmetric,
    TransitionMatrix,
)

N, C = 400, 4
MATRIX = [[0.7, 0.1, 0.1, 0.1], [0.0, 1.0, 0.0, 0.0], [0.3, 0.0, 0.7, 0.0], [0.25, 0.25, 0.25, 0.25]]
DRAWN = [
    Symmetric(0.4),
    Symmetric(0.4, over="all"),
    Asymmetric(0.4),
    PairFlip(0.4),
    InstanceDependent(0.4),
    TransitionMatrix(MATRIX),
]
FOUND = [Given(), Clean(), Human(), Human("worse")]
EVERY = DRAWN + FOUND
# With nothing to flip: every one that has a ratio. Instance-dependent rates spread around theirs.
NOTHING = [Symmetric(0.0), Symmetric(0.0, "all"), Asymmetric(0.0), PairFlip(0.0), InstanceDependent(0.0, std=0)]


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_data(n: int = N) -> LabelledData:
    """Clean labels, given ones and human ones that differ from each other, and small images."""
    draw = g(99)
    images = torch.randn(n, 6, generator=draw)
    clean, given, worst = (torch.randint(C, (n,), generator=draw) for _ in range(3))
    return LabelledData(given, C, clean, {0: 1, 1: 0, 3: 2}, lambda at: images[at], {"worst": worst}, "toys")


def tensors(data: LabelledData) -> list[torch.Tensor]:
    values = [getattr(data, field.name) for field in fields(data)] + list(data.annotations.values())
    return [value for value in values if isinstance(value, torch.Tensor)] + [
        data.features(torch.arange(len(data.given)))
    ]


def check_form(noise):
    """int64[n] of classes and bool[n], also of a single sample and of none."""
    for n in (N, 1, 0):
        noisy, mask = noise(make_data(n), g())
        assert (noisy.dtype, mask.dtype) == (torch.int64, torch.bool)
        assert noisy.shape == mask.shape == (n,)
        assert ((noisy >= 0) & (noisy < C)).all()


def check_mask(noise):
    """The mask has the labels that differ from the clean ones."""
    data = make_data()
    noisy, mask = noise(data, g())
    assert torch.equal(mask, noisy != data.clean)


def check_seeds(noise):
    """The labels are the generator's alone, and no other generator is touched."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = noise(make_data(), g(1))[0]
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002
    torch.manual_seed(5)
    assert torch.equal(first, noise(make_data(), g(1))[0])


def check_inputs(noise):
    """What it is given stays as it is, also when somebody changes what it gave."""
    data = make_data()
    before = [tensor.clone() for tensor in tensors(data)]
    noisy, mask = noise(data, g())
    noisy.fill_(0)
    mask.fill_(True)
    assert all(torch.equal(*pair) for pair in zip(before, tensors(data), strict=True))


def check_repr(noise):
    """It shows the arguments that make it again."""
    made_again = eval(repr(noise), vars(alignprune_pl.noise))
    assert repr(made_again) == repr(noise)
    assert torch.equal(made_again(make_data(), g())[0], noise(make_data(), g())[0])


CHECKS = [check_form, check_mask, check_seeds, check_inputs, check_repr]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("noise", EVERY, ids=repr)
def test_every_noise_keeps_the_contract(noise, check):
    check(noise)


def test_every_noise_model_is_among_them():
    public = {getattr(alignprune_pl.noise, name) for name in alignprune_pl.noise.__all__}
    models = {one for one in public if isinstance(one, type)} - {LabelledData, alignprune_pl.noise.Noise}
    assert models == {type(noise) for noise in EVERY}


class Broken:
    """Breaks one part of the contract."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, data, generator):
        if self.how == "global":
            return Symmetric(0.4)(data, torch.default_generator)
        if self.how == "alias":
            return data.clean, data.clean != data.clean
        noisy, mask = Symmetric(0.4)(data, generator)
        return {"float": noisy.float(), "mask": noisy}.get(self.how, noisy), ~mask if self.how == "mask" else mask

    def __repr__(self):
        return "Symmetric(ratio=0.3)"


@pytest.mark.parametrize(
    ("how", "check"),
    [
        ("float", check_form),
        ("mask", check_mask),
        ("global", check_seeds),
        ("alias", check_inputs),
        ("repr", check_repr),
    ],
)
def test_one_that_breaks_the_contract_is_found_out(how, check):
    with pytest.raises(AssertionError):
        check(Broken(how))


@pytest.mark.parametrize("noise", DRAWN, ids=repr)
def test_another_seed_draws_other_labels(noise):
    assert not torch.equal(noise(make_data(), g(1))[0], noise(make_data(), g(2))[0])


@pytest.mark.parametrize("noise", DRAWN, ids=repr)
def test_synthetic_noise_starts_from_the_clean_labels_where_they_are_known(noise):
    data = make_data()
    assert torch.equal(data.labels, data.clean)
    assert torch.equal(noise(data, g())[0], noise(replace(data, given=data.clean), g())[0])


@pytest.mark.parametrize("noise", DRAWN, ids=repr)
def test_synthetic_noise_starts_from_the_given_labels_where_nobody_knows_the_clean_ones(noise):
    data = replace(make_data(), clean=None)
    assert torch.equal(data.labels, data.given)
    noisy, mask = noise(data, g())
    assert torch.equal(noisy, noise(replace(data, clean=data.given), g())[0])
    assert torch.equal(mask, noisy != data.given)
    assert mask.any()


@pytest.mark.parametrize("noise", NOTHING, ids=repr)
def test_a_ratio_of_zero_leaves_every_clean_label(noise):
    noisy, mask = noise(make_data(), g())
    assert torch.equal(noisy, make_data().clean)
    assert not mask.any()


@pytest.mark.parametrize("make", [Symmetric, Asymmetric, PairFlip, InstanceDependent])
@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_outside_zero_to_one_is_refused(make, ratio):
    with pytest.raises(
        ValueError, match=rf"^ratio={ratio} is given, but a noise ratio in \[0, 1\) is expected; 0.4 fl"
    ):
        make(ratio)


@pytest.mark.parametrize("noise", [Symmetric(0.4), Asymmetric(0.4), PairFlip(0.4), InstanceDependent(0.4)], ids=repr)
def test_a_single_class_is_refused(noise):
    zeros = torch.zeros(5, dtype=torch.int64)
    data = LabelledData(zeros, 1, features=lambda at: torch.ones(len(at), 2))
    with pytest.raises(
        ValueError,
        match=r"^num_classes=1 is given, but a number of classes of at least 2 is expected",
    ):
        noise(data, g())


ONES = torch.ones(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"given": ONES.float()}, r"^toys's labels are torch.float32\[3\], but int64\[n\] is expected; convert them"),
        ({"given": ONES.view(3, 1)}, r"^toys's labels are torch.int64\[3, 1\], but int64\[n\] is expected"),
        ({"given": -ONES}, "^toys's labels range from -1 to -1, but classes 0 to 1 are expected; renumber them"),
        ({"clean": 2 * ONES}, "^toys's clean labels range from 2 to 2, but classes 0 to 1 are expected"),
        ({"clean": ONES[:2]}, "^toys's clean labels are 2, but 3 are expected, one for each label that it gives; take"),
        ({"annotations": {"worst": ONES.int()}}, r"^toys's human labels worst are torch.int32\[3\]"),
        ({"annotations": {"worst": ONES[:1]}}, "^toys's human labels worst are 1, but 3 are expected"),
    ],
)
def test_labels_that_do_not_fit_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        LabelledData(**{"given": ONES, "num_classes": 2, "name": "toys"} | changes)
