"""The share of wrong labels: what the reference says, what the valley says, and what is made of both."""

from __future__ import annotations

import math

import pytest
import torch

from alignprune_pl.policies import noise_rate
from alignprune_pl.policies.noise_rate import beyond_valley, estimate_noise_rate, rate_by_reference

NAN, INF = math.nan, math.inf
# Mean and deviation of the losses' logarithm.
CLEAN, WRONG = (-2.0, 0.8), (1.2, 0.35)
SEEDS = range(5)


def by_reference(losses: torch.Tensor, reference: torch.Tensor) -> float:
    return rate_by_reference(losses, reference)[0]


def draw(size: int, kind: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    mean, deviation = kind
    return (mean + deviation * torch.randn(size, generator=generator)).exp()


def samples(rate, seed, *, reference=200, clean=CLEAN, wrong=WRONG, shift=0.0):
    """2000 noisy losses and those of some clean samples, whose logarithm may be shifted."""
    generator = torch.Generator().manual_seed(seed)
    count = round(rate * 2000)
    noisy = torch.cat([draw(2000 - count, clean, generator), draw(count, wrong, generator)])
    return noisy, draw(reference, (clean[0] + shift, clean[1]), generator)


def errors(function, rate, **settings):
    return torch.tensor([function(*samples(rate, seed, **settings)) - rate for seed in SEEDS])


@pytest.mark.parametrize("reference", [200, 1000])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.4, 0.6, 0.8])
def test_the_share_of_wrong_labels_is_found(rate, reference):
    # A few wrong labels are within the error of a small reference.
    for function in (estimate_noise_rate, by_reference) if rate * reference > 30 else (by_reference,):
        found = errors(function, rate, reference=reference)
        assert found.abs().max() < 0.07, function.__name__
        assert found.mean().abs() < 0.04, function.__name__


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4, 0.6, 0.8])
def test_the_valley_of_well_separated_losses_is_found(rate):
    assert errors(lambda noisy, _: beyond_valley(noisy)[0], rate).abs().max() < 0.01


@pytest.mark.parametrize("reference", [20, 200, 1000])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7])
def test_the_standard_error_is_about_what_chance_changes(rate, reference):
    found = torch.tensor([rate_by_reference(*samples(rate, seed, reference=reference)) for seed in range(40)])
    assert 0.5 < found[:, 1].mean() / found[:, 0].std() < 2.5


def variance(share: float, size: int) -> float:
    """As of a sample with one more that counts and one more that does not."""
    share = (share * size + 1) / (size + 2)
    return share * (1 - share) / (size + 2)


@pytest.mark.parametrize(("noisy", "wrong", "clean"), [(100, 30, 20), (100, 0, 20), (10, 10, 3), (2000, 500, 1000)])
def test_the_standard_error_is_that_of_both_samples_and_never_zero(noisy, wrong, clean):
    losses = torch.tensor([0.1] * (noisy - wrong) + [5.0] * wrong)
    rate, error = rate_by_reference(losses, torch.full((clean,), 0.1))
    right = 1 - wrong / noisy
    assert rate == pytest.approx(wrong / noisy)
    assert error == pytest.approx(math.sqrt(variance(right, noisy) + right**2 * variance(1.0, clean)), rel=1e-4)
    assert error > 0


def test_the_standard_error_is_of_the_estimate_that_is_highest_less_its_own():
    reference = torch.arange(40.0)
    # The estimate is highest at the lower thresholds, 0.3 or so, its error lowest at the upper ones.
    losses = torch.cat([torch.full((70,), 10.0), torch.linspace(20.0, 29.0, 38), torch.full((92,), 30.0)])
    estimates, errors_of = [], []
    for quantile in torch.linspace(0.5, 0.95, 10).tolist():
        threshold = reference.quantile(quantile)
        right, clean = (float((x <= threshold).float().mean()) for x in (losses, reference))
        estimates.append(1 - right / clean)
        errors_of.append(math.sqrt(variance(right, 200) + (right / clean) ** 2 * variance(clean, 40)) / clean)
    surest = max(range(10), key=lambda i: estimates[i] - errors_of[i])
    highest = max(range(10), key=estimates.__getitem__)
    assert errors_of[surest] not in (errors_of[highest], min(errors_of), max(errors_of))
    assert rate_by_reference(losses, reference)[1] == pytest.approx(errors_of[surest], rel=1e-4)


@pytest.mark.parametrize("reference", [20, 200, 1000])
def test_chance_alone_makes_no_estimate_of_clean_data(reference):
    found = torch.tensor([estimate_noise_rate(*samples(0.0, seed, reference=reference)) for seed in range(100)])
    alone = torch.tensor([by_reference(*samples(0.0, seed, reference=reference)) for seed in range(100)])
    assert (alone > 0).float().mean() > 0.6
    assert (found > 0).float().mean() < (0.1 if reference == 20 else 0.05)


def test_half_as_many_low_losses_are_half_the_labels():
    reference = torch.arange(200.0)
    assert by_reference(torch.cat([reference, torch.full((200,), 1e3)]), reference) == pytest.approx(0.5)


def test_the_two_thresholds_with_the_highest_estimates_count():
    # Half are wrong, but their losses lie between the quantiles 0.5 and 0.55 of the reference, 49.5 and 54.45.
    reference, wrong = torch.arange(100.0), torch.full((100,), 52.0)
    lowest, highest = 1 - (50 / 200) / 0.5, 1 - (195 / 200) / 0.95
    assert by_reference(torch.cat([reference, wrong]), reference) == pytest.approx((lowest + highest) / 2)


@pytest.mark.parametrize("reference", [200, 1000])
def test_clean_data_have_a_rate_of_zero_within_the_sampling_error(reference):
    for function in (estimate_noise_rate, by_reference):
        found = errors(function, 0.0, reference=reference)
        assert found.max() < 0.1
        assert found.mean() < 0.05


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lower", [0.3, 1.0])
def test_clean_data_that_have_been_trained_on_have_a_rate_of_zero(seed, lower):
    noisy, reference = samples(0.0, seed, shift=lower)
    assert by_reference(noisy, reference) < 0
    assert estimate_noise_rate(noisy, reference) == 0


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.6])
@pytest.mark.parametrize("wrong", [0.0, -0.5, -1.0])
def test_overlapping_losses_make_the_references_estimate_too_low_but_not_too_high(rate, wrong):
    found = errors(by_reference, rate, reference=1000, wrong=(wrong, 0.8))
    assert found.max() < 0.055
    if wrong == -1.0:
        assert found.mean() < -0.03
        assert (found + rate).min() > 0  # a part of them is found all the same


@pytest.mark.parametrize(("rate", "reference"), [(0.3, 100), (0.5, 200), (0.7, 100)])
def test_the_valley_makes_the_sampling_error_smaller(rate, reference):
    pairs = [samples(rate, seed, reference=reference) for seed in range(20)]
    alone, both = (torch.tensor([f(*pair) for pair in pairs]) - rate for f in (by_reference, estimate_noise_rate))
    assert both.std() < 0.75 * alone.std()
    assert both.mean().abs() < 0.75 * alone.mean().abs() + 0.003


def test_hard_clean_samples_beyond_the_valley_are_not_taken_for_wrong():
    # A tenth of the clean samples is as hard as wrong labels are, noisy and reference alike.
    generator = torch.Generator().manual_seed(0)
    noisy = torch.cat([draw(2520, CLEAN, generator), draw(280, WRONG, generator), draw(1200, WRONG, generator)])
    reference = torch.cat([draw(900, CLEAN, generator), draw(100, WRONG, generator)])
    assert beyond_valley(noisy)[0] == pytest.approx(0.37, abs=0.01)
    assert estimate_noise_rate(noisy, reference) == pytest.approx(0.3, abs=0.03)


def test_a_valley_within_the_clean_losses_is_not_trusted():
    # Two in five clean samples are hard, noisy and reference alike; one label in five is wrong, and harder still.
    generator = torch.Generator().manual_seed(0)
    hard = (1.5, 0.1)
    clean = [draw(960, CLEAN, generator), draw(640, hard, generator)]
    noisy = torch.cat([*clean, draw(400, (3.0, 0.1), generator)])
    reference = torch.cat([draw(600, CLEAN, generator), draw(400, hard, generator)])
    assert beyond_valley(noisy)[0] > 0.4
    assert estimate_noise_rate(noisy, reference) == by_reference(noisy, reference) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(
    ("of_both", "expected"),
    [
        # By reference, its standard error; beyond the valley, of them and of the reference.
        ((0.2, 0.05, 0.24, 0.0), 0.22),
        ((0.2, 0.05, 0.14, 0.0), 0.17),
        # No more than three standard errors between the two.
        ((0.2, 0.05, 0.34, 0.0), 0.27),
        ((0.2, 0.05, 0.36, 0.0), 0.2),
        ((0.2, 0.05, 0.06, 0.0), 0.13),
        ((0.2, 0.05, 0.04, 0.0), 0.2),
        # Without the share of the reference.
        ((0.2, 0.05, 0.43, 0.25), 0.22),
        ((0.2, 0.05, 0.25, 0.25), 0.2),
        # A third of the reference at most.
        ((0.2, 0.05, 0.5, 1 / 3), 0.2),
        ((0.2, 0.05, 0.5, 0.325), (0.2 + 0.175 / 0.675) / 2),
        ((0.2, 0.05, 1.0, 1.0), 0.2),
        # Three standard errors from zero at least.
        ((0.14, 0.05, 0.3, 0.0), 0.0),
        ((0.16, 0.05, 0.2, 0.0), 0.18),
        ((0.0, 0.05, 0.4, 0.0), 0.0),
        ((-0.1, 0.01, 0.4, 0.0), 0.0),
        # 0.95 at most.
        ((0.99, 0.01, 1.0, 0.0), 0.95),
        ((0.99, 0.01, 0.5, 0.0), 0.95),
        ((0.97, 0.1, 0.8, 0.0), 0.885),
    ],
)
def test_the_estimate_is_the_mean_of_reference_and_valley_where_both_agree(monkeypatch, of_both, expected):
    monkeypatch.setattr(noise_rate, "rate_by_reference", lambda *_: of_both[:2])
    monkeypatch.setattr(noise_rate, "beyond_valley", lambda *_: list(of_both[2:]))
    assert estimate_noise_rate(torch.ones(3), torch.ones(3)) == pytest.approx(expected)


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
    for noisy, reference in ((empty[:0], some), (some, empty[:0])):
        assert math.isnan(by_reference(noisy, reference))


UNUSUAL = {
    "constant and equal": (torch.full((100,), 0.5), torch.full((20,), 0.5), 0.0),
    "constant and higher": (torch.full((100,), 2.0), torch.full((20,), 0.5), 0.95),
    "constant and lower": (torch.full((100,), 0.5), torch.full((20,), 2.0), 0.0),
    "all zero": (torch.zeros(100), torch.zeros(20), 0.0),
    "noisy ones zero": (torch.zeros(100), torch.arange(20.0), 0.0),
    "reference zero": (torch.arange(1.0, 101), torch.zeros(20), 0.95),
    "two values": (torch.tensor([0.1] * 70 + [5.0] * 30), torch.full((20,), 0.1), 0.3),
    "few of two values": (torch.tensor([0.1] * 90 + [5.0] * 10), torch.full((20,), 0.1), 0.0),
    "many of two values": (torch.tensor([0.1] * 900 + [5.0] * 100), torch.full((200,), 0.1), 0.1),
    "a reference of one": (torch.tensor([0.1] * 70 + [5.0] * 30), torch.tensor([0.2]), 0.0),
    "one sample, high": (torch.tensor([3.0]), torch.ones(20), 0.95),
    "one sample, low": (torch.tensor([0.1]), torch.ones(20), 0.0),
    "one of each, equal": (torch.tensor([0.7]), torch.tensor([0.7]), 0.0),
    "one of each, higher": (torch.tensor([0.7]), torch.tensor([0.2]), 0.95),
    "two samples": (torch.tensor([0.0, 3.0]), torch.tensor([1.0]), 0.0),
    "enormous": (torch.tensor([0.1] * 50 + [3e38] * 50), torch.full((20,), 0.2), 0.5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("noisy", "reference", "expected"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_losses_give_a_share(noisy, reference, expected, dtype):
    rate = estimate_noise_rate(noisy.to(dtype), reference.to(dtype))
    assert rate == pytest.approx(expected, abs=1e-6)
    assert 0 <= rate <= 0.95
    assert all(0 <= share <= 1 for share in beyond_valley(noisy.to(dtype), reference.to(dtype)))


def test_a_loss_in_double_precision_is_not_above_itself():
    loss = torch.tensor([0.7], dtype=torch.float64)  # above its rounded value
    assert by_reference(loss, loss) == 0


def test_each_sample_has_its_own_share_beyond_the_valley():
    noisy = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1, 0.3, 40.0, 50.0, 60.0, 50.0])
    others = torch.tensor([0.2, 0.2, 0.2, 45.0]), torch.tensor([50.0, 60.0]), torch.tensor([0.1])
    assert beyond_valley(noisy, *others) == pytest.approx([0.4, 0.25, 1.0, 0.0])


def test_differences_between_tiny_losses_are_no_valley():
    assert beyond_valley(torch.tensor([1e-8] * 50 + [9e-4] * 50)) == [0.0]
    assert beyond_valley(torch.tensor([1e-8] * 50 + [9e-2] * 50)) == [0.5]


def test_the_valley_is_that_of_the_logarithm():
    # Clean losses spread over two orders of magnitude, and are evenly spread in their logarithm only.
    generator = torch.Generator().manual_seed(0)
    noisy = torch.cat([draw(1000, (-3.0, 1.0), generator), draw(1000, (2.0, 0.7), generator)])
    assert beyond_valley(noisy)[0] == pytest.approx(0.5, abs=0.01)
