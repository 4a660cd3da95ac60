"""How likely labels are right, from which probability on they are worth training on, and what trained ones leave behind."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from alignprune_pl.policies.right_labels import (
    Gap,
    RightLabels,
    agreement,
    fit_right_labels,
    line_of,
    pattern_harm,
    twin_gap,
)

NAN, INF = math.nan, math.inf


def drawn(seed: int, rate: float = 0.3, apart: float = 4.0, noisy: int = 4000, clean: int = 1000):
    """Losses of noisy samples, which of them are right, and losses of clean ones; by normal leads of unit variance.

    Of these, P(right) is a logistic curve of slope ``apart``.
    """
    generator = torch.Generator().manual_seed(seed)
    is_wrong = torch.rand(noisy, generator=generator) < rate
    lead = torch.randn(noisy, generator=generator) + apart * (is_wrong.float() - 0.5)
    reference = torch.randn(clean, generator=generator) - apart / 2
    return F.softplus(lead), ~is_wrong, F.softplus(reference)


@pytest.mark.parametrize("apart", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8])
def test_the_curve_of_normal_leads_is_found(rate, apart):
    offsets, slopes = [], []
    for seed in range(5):
        noisy, is_right, reference = drawn(seed, rate, apart)
        curve = fit_right_labels(noisy, reference, float((~is_right).float().mean()))
        offsets.append(curve.offset)
        slopes.append(curve.slope)
    assert sum(slopes) / 5 == pytest.approx(apart, rel=0.2)
    assert sum(offsets) / 5 == pytest.approx(math.log((1 - rate) / rate), abs=0.6 if rate < 0.1 else 0.35)


@pytest.mark.parametrize("clean", [20, 200])
def test_few_clean_samples_make_probabilities_that_are_nearly_right(clean):
    gaps = []
    for seed in range(8):
        noisy, is_right, reference = drawn(seed, apart=3.0, noisy=1000, clean=clean)
        right = fit_right_labels(noisy, reference, 0.3)(noisy)
        bins = (right * 10).long().clamp(max=9)
        gaps.append(
            sum(
                abs(float(right[bins == b].mean() - is_right[bins == b].float().mean())) * int((bins == b).sum())
                for b in bins.unique().tolist()
            )
            / 1000
        )
    assert sum(gaps) / 8 < (0.1 if clean == 20 else 0.04)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.95, 1.0])
def test_the_mean_probability_is_that_of_the_rate(rate):
    noisy, _, reference = drawn(0)
    assert float(fit_right_labels(noisy, reference, rate)(noisy).mean()) == pytest.approx(1 - rate, abs=1e-3)


def test_where_suspicion_tells_nothing_all_labels_are_as_likely_right():
    generator = torch.Generator().manual_seed(0)
    noisy, reference = (F.softplus(torch.randn(size, generator=generator)) for size in (4000, 1000))
    right = fit_right_labels(noisy, reference, 0.4)(noisy)
    assert float(right.std()) < 0.06
    same = torch.full((50,), 0.7)
    assert fit_right_labels(same, same, 0.4)(same).tolist() == pytest.approx([0.6] * 50, abs=1e-3)
    # Clean samples with higher losses than noisy ones do not turn it round.
    assert fit_right_labels(reference, noisy + 1, 0.4).slope == 0


def test_the_more_suspect_is_the_less_likely_right_and_without_suspicion_a_label_is_right():
    noisy, _, reference = drawn(0)
    curve = fit_right_labels(noisy, reference, 0.3)
    right = curve(torch.tensor([0.0, 1e-40, 0.01, 0.5, 3.0, 90.0, INF, NAN]))
    assert right.isfinite().all()
    assert right[:-1].tolist() == sorted(right[:-1].tolist(), reverse=True)
    assert (right[0] > 0.99, right[5] < 1e-6, right[-1] == 1) == (True, True, True)


def test_a_suspicion_that_is_no_loss_is_taken_as_it_is():
    noisy, _, reference = drawn(0, apart=2.0)
    lead, clean = noisy.expm1().log(), reference.expm1().log()
    curve = fit_right_labels(lead, clean, 0.3)
    assert not curve.is_loss
    assert torch.allclose(curve(lead), fit_right_labels(noisy, reference, 0.3)(noisy), atol=1e-4)


def test_a_curve_is_that_of_its_numbers():
    assert RightLabels(1.0, 2.0)(F.softplus(torch.tensor([0.5]))).item() == pytest.approx(0.5)
    assert RightLabels(1.0, 2.0, is_loss=False)(torch.tensor([0.5, -0.5])).tolist() == pytest.approx(
        [0.5, 0.8808], abs=1e-4
    )


@pytest.mark.parametrize("harm", [0.1, 0.25, 1.0, 4.0, 50.0])
def test_the_line_is_where_both_mistakes_cost_the_same_by_the_right_labels_that_are_left(harm):
    right = torch.linspace(0.0, 1.0, 10_001)
    line = line_of(right, harm)
    left = float((right >= line).float().mean())
    assert harm * (1 - line) == pytest.approx(line / left, rel=1e-3)


def test_where_all_clean_samples_are_surely_right_the_line_is_that_of_the_harm_alone():
    right = torch.full((100,), 0.999)
    assert [line_of(right, harm) for harm in (0.0, 0.25, 1.0, 9.0)] == pytest.approx([0, 0.2, 0.5, 0.9])


def test_where_scores_cannot_tell_the_line_does_not_leave_out_everything():
    right = torch.full((100,), 0.6)
    assert bool((right >= line_of(right, 50.0)).all())


def mislabelled(kind: str, n: int, seed: int, rate: float = 0.4, classes: int = 10):
    """Labels, strongest other classes and which labels are wrong, of n samples."""
    generator = torch.Generator().manual_seed(seed)
    true, turned = (torch.randint(low, classes, (n,), generator=generator) for low in (0, 1))
    is_wrong = torch.rand(n, generator=generator) < rate
    labels = (true + (1 if kind == "pair flip" else turned)) % classes
    return torch.where(is_wrong, labels, true), torch.where(is_wrong, true, (true + turned) % classes), is_wrong


@pytest.mark.parametrize(("kind", "expected"), [("symmetric", 1 / 9), ("pair flip", 1.0)])
@pytest.mark.parametrize("n", [100, 1000, 20_000])
def test_wrong_labels_agree_always_under_pair_flip_and_as_chance_has_it_under_symmetric_noise_also_few(
    kind, expected, n
):
    found = [agreement(*mislabelled(kind, n, seed)) for seed in range(200 if n < 2000 else 3)]
    assert sum(found) / len(found) == pytest.approx(expected, abs=0.02)


def test_the_surer_labels_are_wrong_the_more_they_count():
    flipped, spread = mislabelled("pair flip", 5000, 0), mislabelled("symmetric", 5000, 1)
    labels, rivals = (torch.cat(both) for both in zip(flipped[:2], spread[:2], strict=True))
    found = [
        agreement(labels, rivals, torch.cat([flipped[2] * a, spread[2] * b]).float())
        for a, b in ((1, 0), (1, 1), (0, 1))
    ]
    # Of both half as many: a pair of them agrees always, never or by chance.
    assert found == pytest.approx([1.0, (1 + 1 / 9 + 2 / 9) / 4, 1 / 9], abs=0.01)


def test_classes_with_more_wrong_labels_have_more_of_the_say():
    labels, rivals = torch.tensor([1] * 6 + [2, 3]), torch.tensor([0] * 6 + [4] * 2)
    # Each wrong label of the one can be compared with five others, each of the other with one.
    assert agreement(labels, rivals, torch.ones(8)) == pytest.approx(5 / 6)
    more = torch.cat([labels, torch.tensor([-1, 1])]), torch.cat([rivals, torch.tensor([0, -1])])
    assert agreement(*more, torch.ones(10)) == pytest.approx(5 / 6)  # of the others nothing is known


def test_a_label_that_may_be_wrong_counts_by_how_likely_that_is_and_is_not_compared_with_itself():
    wrong = torch.tensor([1.0, 0.5, 0.5])
    alike = 2 * 1.0 * 0.5  # the first two, either way round
    found = agreement(torch.tensor([1, 1, 2]), torch.zeros(3, dtype=torch.int64), wrong)
    assert found == pytest.approx(alike / (wrong.sum() ** 2 - (wrong**2).sum()))


@pytest.mark.parametrize(("classes", "n", "rate"), [(1000, 2000, 0.4), (1000, 5000, 0.1), (100, 300, 0.4)])
@pytest.mark.parametrize("kind", ["symmetric", "pair flip"])
def test_classes_with_one_wrong_label_have_no_say(kind, classes, n, rate):
    expected = {"symmetric": 1 / (classes - 1), "pair flip": 1.0}[kind]
    found = [agreement(*mislabelled(kind, n, seed, rate, classes)) for seed in range(20)]
    assert sum(found) / len(found) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("size", [0, 5])
def test_where_no_label_and_rival_are_known_all_wrong_labels_are_taken_to_agree(size):
    unknown = torch.full((size,), -1)
    assert agreement(unknown, unknown, torch.ones(size)) == 1.0
    assert agreement(torch.arange(5), unknown, torch.ones(5)) == 1.0
    labels = torch.arange(5)  # no two are of one class
    assert agreement(labels, (labels + 1) % 5, torch.ones(5)) == agreement(labels, 0 * labels, torch.zeros(5)) == 1.0


@pytest.mark.parametrize(
    ("rate", "agree"), [(0.2, 1 / 9), (0.5, 1 / 9), (0.8, 1 / 9), (0.4, 0.4), (0.1, 0.3), (0.6, 0.5)]
)
def test_a_wrong_label_harms_by_how_much_less_surely_right_ones_win(rate, agree):
    right, alike = 1 - rate, agree * rate

    def wins(right: float, alike: float) -> float:
        return (right - alike) / math.sqrt(right + alike)

    step = 1e-6
    gain_of_right = wins(right + step, alike) - wins(right - step, alike)
    loss_by_wrong = wins(right, alike - step) - wins(right, alike + step)
    assert pattern_harm(rate, agree) == pytest.approx(min(1.0, agree * loss_by_wrong / gain_of_right), rel=1e-4)


def test_labels_that_never_agree_do_no_harm_and_none_do_more_than_a_right_one_is_worth():
    assert [pattern_harm(rate, agree) for rate, agree in ((0.3, 0.0), (0.3, 1.0), (0.0, 1.0))] == [0.0, 1.0, 1.0]


def test_where_wrong_labels_that_agree_win_they_harm_as_much_as_where_they_draw():
    assert [pattern_harm(rate, 1.0) for rate in (0.5, 0.7, 0.9)] == [1.0] * 3
    assert pattern_harm(0.9, 0.25) == pytest.approx(0.25)


def losses_of(size: int, right: float, wrong: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    is_wrong = torch.rand(size, generator=generator) < 0.4
    return torch.where(is_wrong, wrong, right) * (0.5 + torch.rand(size, generator=generator))


def test_a_network_that_memorises_has_a_gap_and_one_that_does_not_has_none():
    held = losses_of(1000, 0.2, 2.5, 0)
    memorised, not_memorised = losses_of(1000, 0.1, 0.8, 1), losses_of(1000, 0.2, 2.5, 2)
    assert 0.3 < twin_gap(held, memorised).value < 0.6
    assert twin_gap(held, memorised).least > 0.25
    assert abs(twin_gap(held, not_memorised).value) < 0.1
    assert twin_gap(held, not_memorised).least < 0.02


def test_the_gap_is_the_share_by_which_twins_are_nearer_to_their_labels():
    gap = twin_gap(torch.full((19,), 2.0), torch.tensor([*[0.5] * 10, NAN, INF]))
    far, near = 1 - math.exp(-2.0), 1 - math.exp(-0.5)
    assert (gap.value, gap.error) == pytest.approx(((far - near) / far, 0.0))


def test_the_error_of_a_gap_is_what_chance_changes():
    gaps = [twin_gap(losses_of(300, 0.2, 2.5, 2 * seed), losses_of(300, 0.2, 2.5, 2 * seed + 1)) for seed in range(60)]
    spread = torch.tensor([gap.value for gap in gaps]).std()
    assert 0.8 < sum(gap.error for gap in gaps) / 60 / float(spread) < 1.25
    assert sum(gap.least > 0 for gap in gaps) <= 4  # two standard errors
    assert [gap.is_sure for gap in gaps] == [False] * 60  # three
    assert twin_gap(losses_of(300, 0.2, 2.5, 0), losses_of(300, 0.1, 1.0, 1)).is_sure


def test_what_has_opened_since_the_first_comparison_is_surer_than_the_gap_itself():
    generator = torch.Generator().manual_seed(3)
    first = losses_of(400, 0.2, 2.5, 0), losses_of(400, 0.2, 2.5, 1)
    held, twins = (losses * (0.9 + 0.2 * torch.rand(400, generator=generator)) for losses in first)
    plain, opened = twin_gap(held, 0.8 * twins), twin_gap(held, 0.8 * twins, first)
    assert opened.error < plain.error / 3
    assert 0.03 < opened.least < opened.value < 0.2
    assert twin_gap(held, twins, first).value == pytest.approx(0, abs=0.02)
    # What the first epoch has memorised is not in it.
    assert twin_gap(*first, first).value == 0


def test_a_sample_that_was_not_seen_at_first_has_no_part_in_what_has_opened():
    held, twins = torch.tensor([1.0, 2.0, 3.0]).repeat(10), torch.tensor([0.5, 0.6]).repeat(10)
    first = torch.tensor([1.0, NAN, 3.0]).repeat(10), torch.tensor([0.5, NAN]).repeat(10)
    assert twin_gap(held, twins, first).value == 0


def test_of_few_samples_no_gap_is_known():
    nothing, few, some = torch.tensor([NAN]), torch.linspace(1.0, 2.0, 9), torch.ones(30)
    for pair in ((nothing, some), (some, nothing), (torch.empty(0), some), (few, some), (some, few)):
        assert math.isnan(twin_gap(*pair).value)
    assert str(Gap()) == "not known"
    assert not Gap().least >= 0
    assert not Gap().is_sure
    assert str(Gap(0.238, 0.0301)) == "24% ± 3%"


def test_losses_of_zero_have_no_gap():
    assert twin_gap(torch.zeros(10), torch.zeros(10)).value == 0
