"""Sums over ranks tell the exact mean and the exact border, and numbers decide alike on all of them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from alignprune_pl.core.over_ranks import (
    NUMBER_BITS,
    VALUE_BITS,
    Numbers,
    exact_mean,
    exact_sums,
    ordered,
    smallest,
    value_of,
)
from alignprune_pl.core.streams import stream
from ranks import KINDS, WORLDS, N, Ranks, drawn, made_up

# ---- the numbers that decide at random ----------------------------------------------------------------------


def plainly(numbers, index):
    """The same in whole numbers of any size."""
    limit = (1 << NUMBER_BITS) - 1
    x = (index + numbers.start) & limit
    for factor, shift in ((0x476D1CE4E5B9, 23), (0x49BB133111EB, 25), (0x79B97F4A7C15, 22)):
        x = (x * factor) & limit
        x = x ^ (x >> shift) ^ numbers.key
    return x


def test_numbers_are_what_they_are_in_whole_numbers_without_overflow():
    numbers = Numbers.drawn(drawn(3))
    index = [0, 1, 2, N, 10**9, 2**31, 2**40 + 1, 2**48 - 1]
    assert numbers(torch.tensor(index)).tolist() == [plainly(numbers, one) for one in index]


def test_no_two_samples_have_the_same_number_and_they_are_evenly_spread():
    n, bins = 1 << 18, 256
    index = torch.arange(n)
    first, second = (Numbers.drawn(stream(0, "plan", epoch))(index) for epoch in (0, 1))
    assert len(first.unique()) == n
    assert 0 <= int(first.min()) <= int(first.max()) < 1 << NUMBER_BITS
    for shift in (NUMBER_BITS - 8, 20, 0):  # of the highest bits, of ones in the middle, of the lowest
        counts = torch.bincount((first >> shift) & (bins - 1), minlength=bins).double()
        assert abs(float((counts - n / bins).square().sum() * bins / n) - (bins - 1)) < 5 * math.sqrt(2 * bins)
    share = torch.stack([first, first.roll(1), first.roll(64), second]).double()
    apart = torch.corrcoef(share) - torch.eye(4)
    assert float(apart.abs().max()) < 5 / math.sqrt(n)


# ---- exact sums ---------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("world", WORLDS)
def test_the_mean_is_that_of_the_exact_sum(kind, world):
    values = made_up()[kind]
    known = [Fraction(value) for value in values[~values.isnan()].tolist()]
    expected = float(sum(known) / len(known)) if known else math.nan
    assert exact_mean(Ranks(values, world).summed) == pytest.approx(expected, abs=0, rel=0, nan_ok=True)


def test_a_mean_that_cancels_is_exact():
    values = torch.tensor([3e38, 1.0, -3e38, 1e-44, 2.0**-149, -(2.0**-149)])
    exact = sum(map(Fraction, values.tolist())) / 6
    assert exact_mean(lambda part: part(torch.arange(6), values)) == float(exact) > 0.16


def test_equal_values_are_never_below_their_mean_however_many_they_are():
    value = torch.tensor([0.1])
    sums = exact_sums(value) * 3_000_000_001
    assert exact_mean(lambda _: sums) == float(value)


@KINDS
@pytest.mark.parametrize("world", WORLDS)
def test_the_border_is_the_very_value_and_has_no_width(kind, world):
    values = made_up()[kind] + 0.0
    known = values[~values.isnan()]
    for size in {0, 1, len(known) // 3, len(known) - 1, len(known)} & set(range(len(known) + 1)):
        border = smallest(
            Ranks(values, world).summed, lambda _, v: ordered(v[~v.isnan()]), VALUE_BITS, lambda _, s=size: s
        )
        keys = ordered(known)
        assert int((keys < border.at).sum()) + border.room == size
        assert border.room <= int((keys == border.at).sum())
        if 0 < size < len(known):
            border_value = known.kthvalue(size).values
            inside = (keys < border.at) | ((keys == border.at) & (border.room > 0))
            assert known[inside].max() == border_value
            # Where there is something to draw, it is among those that have the border's very value.
            if border.room:
                assert bool((known[keys == border.at] == border_value).all())


def test_the_order_of_bits_is_the_order_of_values():
    values = torch.tensor([-3e38, -1.0, -1e-42, -0.0, 0.0, 1e-42, 0.5, 1.0, 3e38])
    keys = ordered(values).tolist()
    assert keys == sorted(keys)
    assert keys[3] == keys[4]
    assert len(set(keys)) == 8
    assert [value_of(key) for key in keys] == values.tolist()
    assert all(0 <= key < 1 << VALUE_BITS for key in keys)
