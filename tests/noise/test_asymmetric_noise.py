"""Asymmetric noise by a class map, and pair flip."""

import pytest
import torch

from alignprune_pl.noise import Asymmetric, LabelledData, PairFlip, asymmetric_noise, pair_flip_map

C = 5
# Class c has 100 * (c + 1) + 1 samples: classes of different sizes, and numbers that a ratio does not divide.
LABELS = torch.arange(C).repeat_interleave(100 * torch.arange(1, C + 1) + 1)[
    torch.randperm(1505, generator=torch.Generator().manual_seed(1))
]


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def counts(noisy):
    return torch.stack([torch.bincount(noisy[own == LABELS], minlength=C) for own in range(C)])


def intended(ratio, class_map):
    table = torch.zeros(C, C, dtype=torch.int64)
    for own in range(C):
        size = 100 * (own + 1) + 1
        flipped = round(ratio * size) if own in class_map else 0
        table[own, own] = size - flipped
        table[own, class_map.get(own, own)] += flipped
    return table


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.4, 0.9])
@pytest.mark.parametrize("class_map", [{2: 0, 3: 4, 4: 3}, {}, {0: 1, 1: 2, 2: 3, 3: 4, 4: 0}], ids=str)
def test_exactly_the_ratio_of_each_mapped_class_flips_and_no_other(ratio, class_map):
    noisy, mask = asymmetric_noise(LABELS, ratio, class_map, C, g())
    assert torch.equal(counts(noisy), intended(ratio, class_map))  # 3 and 4 swap without compounding
    assert torch.equal(mask, noisy != LABELS)


def test_which_samples_flip_is_drawn():
    mask = sum(asymmetric_noise(LABELS, 0.4, {4: 0}, C, g(seed))[1].int() for seed in range(100))[LABELS == 4]
    assert ((mask - 40).abs() <= 5 * (100 * 0.4 * 0.6) ** 0.5).all()


def test_asymmetric_noise_goes_by_the_data_sets_map_and_is_pair_flip_without_one():
    mapped = LabelledData(LABELS, C, class_map={0: 3})
    assert torch.equal(counts(Asymmetric(0.4)(mapped, g())[0]), intended(0.4, {0: 3}))
    assert torch.equal(Asymmetric(0.4)(LabelledData(LABELS, C), g())[0], PairFlip(0.4)(mapped, g())[0])

    unaffected = LabelledData(LABELS, C, class_map={})
    assert not Asymmetric(0.4)(unaffected, g())[1].any()


def test_the_order_of_the_map_does_not_matter():
    first, other = ({0: 1, 3: 2}, {3: 2, 0: 1})
    assert torch.equal(asymmetric_noise(LABELS, 0.4, first, C, g())[0], asymmetric_noise(LABELS, 0.4, other, C, g())[0])


def test_pair_flip_makes_each_class_the_next_whatever_the_map():
    noisy, mask = PairFlip(0.45)(LabelledData(LABELS, C, class_map={0: 3}), g())
    assert torch.equal(counts(noisy), intended(0.45, {0: 1, 1: 2, 2: 3, 3: 4, 4: 0}))
    assert torch.equal(noisy[mask], (LABELS[mask] + 1) % C)
    assert pair_flip_map(2) == {0: 1, 1: 0}
    assert repr(PairFlip(0.45)) == "PairFlip(ratio=0.45)"


def test_the_draws_are_those_of_every_version():
    noisy = asymmetric_noise(torch.arange(12) % 4, 0.5, {0: 1, 1: 0, 3: 2}, 4, g(3))[0]
    assert noisy.tolist() == [1, 1, 2, 2, 1, 0, 2, 2, 0, 0, 2, 3]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^class_map has 2->5, but classes 0 to 4 are expected; renumber them.$"):
        asymmetric_noise(LABELS, 0.2, {2: 5, 0: 1}, C, g())
    with pytest.raises(ValueError, match=r"^class_map has -1->0"):
        asymmetric_noise(LABELS, 0.2, {-1: 0}, C, g())
    with pytest.raises(ValueError, match=r"^labels range from 0 to 4, but classes 0 to 3"):
        asymmetric_noise(LABELS, 0.2, {}, 4, g())
    with pytest.raises(ValueError, match=r"^ratio=1.0 is given"):
        asymmetric_noise(LABELS, 1.0, {}, C, g())
    with pytest.raises(ValueError, match=r"^num_classes=1 is given, but a number of classes of at least 2 is expected"):
        pair_flip_map(1)
