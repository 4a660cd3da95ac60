"""The share of wrong labels, as far as a reference shows it."""

from __future__ import annotations

import math

import pytest
import torch

from alignprune_pl.policies.noise_rate import estimate_noise_rate

NAN, INF = math.nan, math.inf
# Mean and deviation of the losses' logarithm.
CLEAN, WRONG = (-2.0, 0.8), (1.2, 0.35)
SEEDS = range(10)


def draw(size: int, kind: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    mean, deviation = kind
    return (mean + deviation * torch.randn(size, generator=generator)).exp()


def samples(rate, seed, *, reference=200, clean=CLEAN, wrong=WRONG, shift=0.0):
    """2000 noisy losses and those of some clean samples, whose logarithm may be shifted."""
    generator = torch.Generator().manual_seed(seed)
    count = round(rate * 2000)
    noisy = torch.cat([draw(2000 - count, clean, generator), draw(count, wrong, generator)])
    return noisy, draw(reference, (clean[0] + shift, clean[1]), generator)


def errors(rate, **settings):
    return torch.tensor([estimate_noise_rate(*samples(rate, seed, **settings)) - rate for seed in SEEDS])


@pytest.mark.parametrize("reference", [200, 1000])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.4, 0.6, 0.8])
def test_the_share_of_wrong_labels_is_found(rate, reference):
    found = errors(rate, reference=reference)
    assert found.abs().max() < 0.07
    assert found.mean().abs() < 0.04


@pytest.mark.parametrize("reference", [20, 200, 1000])
def test_chance_makes_little_of_clean_data(reference):
    found = errors(0.0, reference=reference)
    assert found.mean() < (0.1 if reference == 20 else 0.03)
    assert found.max() < (0.3 if reference == 20 else 0.1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lower", [0.3, 1.0])
def test_clean_data_that_have_been_trained_on_have_a_rate_of_zero(seed, lower):
    assert estimate_noise_rate(*samples(0.0, seed, shift=lower)) == 0


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.6])
@pytest.mark.parametrize("wrong", [0.0, -0.5, -1.0])
def test_overlapping_losses_make_the_estimate_too_low_but_not_too_high(rate, wrong):
    found = errors(rate, reference=1000, wrong=(wrong, 0.8))
    assert found.max() < 0.055
    if wrong == -1.0:
        assert found.mean() < -0.03
        assert (found + rate).min() > 0  # a part of them is found all the same


def variance(share: float, size: int) -> float:
    """As of a sample with one more that counts and one more that does not."""
    share = (share * size + 1) / (size + 2)
    return share * (1 - share) / (size + 2)


@pytest.mark.parametrize(("noisy", "wrong", "clean"), [(100, 30, 20), (100, 20, 200), (10, 5, 9), (2000, 500, 1000)])
def test_half_a_standard_error_of_both_samples_is_taken_off(noisy, wrong, clean):
    losses = torch.tensor([0.1] * (noisy - wrong) + [5.0] * wrong)
    right = 1 - wrong / noisy
    error = math.sqrt(variance(right, noisy) + right**2 * variance(1.0, clean))
    found = estimate_noise_rate(losses, torch.full((clean,), 0.1))
    assert found == pytest.approx(wrong / noisy - error / 2, rel=1e-4)


def test_the_threshold_counts_whose_estimate_is_highest_less_half_its_error():
    reference = torch.arange(40.0)
    # The estimate is highest at the lower thresholds, 0.3 or so, its error lowest at the upper ones.
    losses = torch.cat([torch.full((70,), 10.0), torch.linspace(20.0, 29.0, 38), torch.full((92,), 30.0)])
    least = []
    for quantile in torch.linspace(0.5, 0.95, 10).tolist():
        threshold = reference.quantile(quantile)
        right, clean = (float((x <= threshold).float().mean()) for x in (losses, reference))
        error = math.sqrt(variance(right, 200) + (right / clean) ** 2 * variance(clean, 40)) / clean
        least.append(1 - right / clean - error / 2)
    assert least.index(max(least)) not in (0, 9)
    assert estimate_noise_rate(losses, reference) == pytest.approx(max(least), rel=1e-4)


def test_losses_that_are_not_finite_do_not_count():
    noisy, reference = samples(0.3, 0)
    broken = torch.tensor([NAN, INF, -INF] * 50)
    expected = estimate_noise_rate(noisy, reference)
    assert estimate_noise_rate(torch.cat([broken, noisy]), reference) == expected
    assert estimate_noise_rate(noisy, torch.cat([reference, broken])) == expected


@pytest.mark.parametrize("empty", [torch.empty(0), torch.tensor([NAN, INF])])
def test_without_losses_there_is_no_estimate(empty):
    some = torch.rand(5)
    for noisy, reference in ((empty, some), (some, empty), (empty, empty)):
        assert math.isnan(estimate_noise_rate(noisy, reference))


UNUSUAL = {
    "constant and equal": (torch.full((100,), 0.5), torch.full((20,), 0.5), 0.0, 0.0),
    "constant and higher": (torch.full((100,), 2.0), torch.full((20,), 0.5), 0.9, 0.95),
    "constant and lower": (torch.full((100,), 0.5), torch.full((20,), 2.0), 0.0, 0.0),
    "all zero": (torch.zeros(100), torch.zeros(20), 0.0, 0.0),
    "noisy ones zero": (torch.zeros(100), torch.arange(20.0), 0.0, 0.0),
    "reference zero": (torch.arange(1.0, 101), torch.zeros(20), 0.9, 0.95),
    "a reference of one": (torch.tensor([0.1] * 70 + [5.0] * 30), torch.tensor([0.2]), 0.0, 0.3),
    "one sample, high": (torch.tensor([3.0]), torch.ones(20), 0.5, 0.95),
    "one sample, low": (torch.tensor([0.1]), torch.ones(20), 0.0, 0.0),
    "one of each, equal": (torch.tensor([0.7]), torch.tensor([0.7]), 0.0, 0.0),
    "two samples": (torch.tensor([0.0, 3.0]), torch.tensor([1.0]), 0.0, 0.5),
    "enormous": (torch.tensor([0.1] * 50 + [3e38] * 50), torch.full((20,), 0.2), 0.4, 0.5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("noisy", "reference", "least", "most"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_losses_give_a_share(noisy, reference, least, most, dtype):
    assert least <= estimate_noise_rate(noisy.to(dtype), reference.to(dtype)) <= most
