"""What the samples of all ranks are like, from sums alone: their mean and which of them are the smallest, both exactly.

No rank ever has the values of another. Each says something of its own in a few numbers, and these are added up.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Part = Callable[[Tensor, Tensor], Tensor]
"""What is said of a block of samples, given their indices, int64[b], and values, float32[b]; always of one shape."""

Summed = Callable[[Part], Tensor]
"""Adds up what a part says of all blocks of all ranks."""

NUMBER_BITS = 48
VALUE_BITS = 32
_DIGIT = 16
BINS = 1 << _DIGIT
"""How many counts ranks add up at a time."""

_LIMIT = (1 << NUMBER_BITS) - 1
# Odd, so that multiplying by one modulo a power of two can be undone; their bits are those of splitmix64's.
_FIRST, _SECOND, _THIRD = 0x476D1CE4E5B9, 0x49BB133111EB, 0x79B97F4A7C15

# The exponents of float32, denormal numbers included, are -148 to 128.
_LOWEST = -148
_EXPONENTS = 277
_MANTISSA = 24


@dataclass(frozen=True)
class Numbers:
    """A random whole number in [0, 2^48) for each sample, by its index alone, whichever rank asks. No two are the same.

    Every step can be undone, which is why different indices have different numbers.

    Attributes:
        start: In [0, 2^48).
        key: Likewise.

    Example:
        >>> numbers = Numbers.drawn(torch.Generator().manual_seed(0))
        >>> bool((numbers(torch.tensor([7, 8]))[1:] == numbers(torch.tensor([8]))).all())
        True
    """

    start: int
    key: int

    @classmethod
    def drawn(cls, generator: torch.Generator) -> Numbers:
        """Those of a generator, which must be in the same state on all ranks."""
        start, key = torch.randint(0, 1 << NUMBER_BITS, (2,), generator=generator).tolist()
        return cls(start, key)

    def __call__(self, index: Tensor) -> Tensor:
        """The numbers of the samples ``index`` (int64[b], below 2^48): int64[b]."""
        x = (index + self.start).bitwise_and_(_LIMIT)
        for factor, shift in ((_FIRST, 23), (_SECOND, 25), (_THIRD, 22)):
            # What overflows 64 bits is not among the 48 that are kept.
            x = x.mul_(factor).bitwise_and_(_LIMIT)
            x = x.bitwise_xor_(x >> shift).bitwise_xor_(self.key)
        return x


def exact_sums(values: Tensor) -> Tensor:
    """The sum of ``values`` (float32[b], finite or NaN) in whole numbers, and how many are not NaN: int64[278].

    Mantissas are added up for each exponent apart. Nothing is rounded, so that no order of adding makes a difference.
    """
    mantissa, exponent = torch.frexp(values.nan_to_num(0.0))
    # In double precision, which has room for the mantissas of 2^29 samples.
    whole = torch.bincount(exponent - _LOWEST, mantissa.double() * (1 << _MANTISSA), _EXPONENTS)
    return torch.cat([whole.long(), (~values.isnan()).sum()[None]])


def exact_mean(summed: Summed) -> float:
    """The mean of all values that are not NaN, rounded once and to double precision; NaN where there are none.

    Ranks add up 2,224 bytes. It is the same for every number of ranks, and that of equal values is their value.
    """
    *whole, count = summed(lambda _, values: exact_sums(values)).tolist()
    if count == 0:
        return math.nan
    total = sum(mantissas << exponent for exponent, mantissas in enumerate(whole))
    return float(total / (count << (_MANTISSA - _LOWEST)))  # of integers, as exact as a float can be


def ordered(values: Tensor) -> Tensor:
    """Whole numbers in [0, 2^32) that are in the same order as ``values`` (float32[b], not NaN): int64[b]."""
    bits = (values + 0.0).view(torch.int32)  # a negative zero is zero
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() + (1 << (VALUE_BITS - 1))


def value_of(key: int) -> float:
    """The value that has this whole number in :func:`ordered`."""
    bits = key - (1 << (VALUE_BITS - 1))
    value: float = struct.unpack("f", struct.pack("i", bits if bits >= 0 else bits ^ 0x7FFFFFFF))[0]
    return value


@dataclass(frozen=True)
class Border:
    """Which keys are the smallest.

    Attributes:
        at: All below it are.
        room: So many of those that are equal to it are as well.
    """

    at: int
    room: int = 0


def smallest(summed: Summed, keys: Part, bits: int, wanted: Callable[[int], int]) -> Border:
    """Where a wanted number of smallest keys ends, exactly: digit by digit, from counts of the next digit.

    Ranks add up 512 KiB for each digit of 16 bits, and fewer digits than keys have where the border is found before.

    Args:
        summed: Over the samples of all ranks.
        keys: Of a block, int64[at most b] in [0, 2^bits), of those samples that have one.
        bits: A multiple of 16.
        wanted: How many, given how many keys there are; at most these.
    """
    found, smaller, size = 0, 0, 0  # the border's digits so far, and how many keys are below them
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        counts = summed(lambda index, values, f=found, s=shift: _digits(keys(index, values), f, s))  # type: ignore[misc]
        upto = counts.cumsum(0)
        if shift == bits - _DIGIT:
            size = wanted(int(upto[-1]))
            if size <= 0:
                return Border(0)
        digit = int(torch.searchsorted(upto, size - smaller))
        found = (found << _DIGIT) + digit
        if smaller + int(upto[digit]) == size:
            return Border((found + 1) << shift)
        smaller += int(upto[digit] - counts[digit])
    return Border(found, size - smaller)


def _digits(keys: Tensor, found: int, shift: int) -> Tensor:
    """How many keys that begin with ``found`` have each next digit: int64[BINS]."""
    digits = ((keys >> shift) - (found << _DIGIT)).clamp_(-1, BINS).add_(1)
    return torch.bincount(digits, minlength=BINS + 2)[1:-1]
