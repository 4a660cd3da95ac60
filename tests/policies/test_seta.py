import math

import pytest
import torch
from sklearn.cluster import KMeans

from alignprune_pl.policies import SeTa, kmeans
from alignprune_pl.policies.kmeans import kmeans_1d
from alignprune_pl.policies.seta import seta_groups, seta_window
from planning import planned


def inertia(values, groups):
    parts = [values[groups == g].double() for g in groups.unique()]
    return sum(float((part - part.mean()).square().sum()) for part in parts)


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize("draw", [torch.rand, torch.randn, lambda n: torch.rand(n) ** 6])
def test_groups_are_as_tight_as_scikit_learns(k, draw):
    values = draw(3000)
    theirs = KMeans(k, n_init=5, random_state=0).fit(values.view(-1, 1).double().numpy()).inertia_
    assert inertia(values, kmeans_1d(values, k)) <= 1.001 * theirs


def test_groups_are_ordered_intervals_without_gaps():
    values = torch.randn(500)
    groups = kmeans_1d(values, 5)
    assert groups.unique().tolist() == [0, 1, 2, 3, 4]
    assert bool((groups[values.argsort()].diff() >= 0).all())


MANY = {
    "uniform": lambda n, g: torch.rand(n, generator=g),
    "normal": lambda n, g: torch.randn(n, generator=g),
    "heavy tailed": lambda n, g: (2 * torch.randn(n, generator=g)).exp(),
    "near one end": lambda n, g: (3 * torch.randn(n, generator=g)).tanh(),
    "mostly learnt": lambda n, g: torch.rand(n, generator=g) ** 40,
    "with many ties": lambda n, g: torch.randint(0, 30, (n,), generator=g) / 7,
    "one far out": lambda n, g: torch.cat([torch.rand(n - 1, generator=g), torch.tensor([1e6])]),
    "three out": lambda n, g: torch.cat([torch.rand(n - 3, generator=g), torch.tensor([100.0, 200.0, 300.0])]),
    "few distinct": lambda n, g: torch.randint(0, 3, (n,), generator=g).float(),
    "all equal": lambda n, g: torch.ones(n),
}


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize("draw", MANY)
def test_many_values_are_grouped_without_sorting_as_tightly_as_sorted_ones(k, draw):
    values = MANY[draw](kmeans._MANY + 9, torch.Generator().manual_seed(0))
    groups, exact = kmeans_1d(values, k), kmeans._groups_by_order(values, k, torch.int16)
    assert inertia(values, groups) <= 1.001 * inertia(values, exact) + 1e-9
    assert groups.unique().tolist() == list(range(min(k, len(values.unique()))))
    assert bool((groups[values.argsort()].int().diff() >= 0).all())


def test_many_groups_are_counted_in_more_than_a_byte():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    groups = kmeans_1d(values, 300)
    assert groups.dtype == torch.int16
    assert groups.unique().tolist() == list(range(300))
    assert bool((groups[values.argsort()].int().diff() >= 0).all())
    equally_many = torch.empty(2000, dtype=torch.int64).scatter_(0, values.argsort(), torch.arange(2000) * 300 // 2000)
    assert inertia(values, groups) < 0.5 * inertia(values, equally_many)


def test_bins_that_are_too_coarse_are_not_used():
    for draw, out in (("one far out", 1), ("three out", 3)):
        values = MANY[draw](kmeans._MANY, torch.Generator().manual_seed(0))
        assert kmeans._groups_by_bins(values, 5, torch.uint8) is None
        assert kmeans._groups_by_bins(values[:-out], 5, torch.uint8) is not None


@pytest.mark.parametrize("far", [1e6, 1e9, 1e12, 1e30])
def test_a_loss_that_has_run_away_leaves_the_groups_of_the_others_alone(far):
    values = torch.rand(150, generator=torch.Generator().manual_seed(0))
    groups = kmeans_1d(torch.cat([values, torch.tensor([far])]), 6)
    assert groups[-1] == 5
    assert inertia(values, groups[:-1]) <= (1 + 1e-6) * inertia(values, kmeans_1d(values, 5))


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e20, 1e36, 3e38])
def test_values_of_any_size_can_be_grouped(scale):
    values = scale * torch.rand(kmeans._MANY + 9, generator=torch.Generator().manual_seed(0))
    assert kmeans_1d(values, 5).unique().tolist() == [0, 1, 2, 3, 4]
    assert kmeans_1d(values - scale / 2, 5).unique().tolist() == [0, 1, 2, 3, 4]


def test_fewer_distinct_values_than_groups_give_one_group_each():
    assert kmeans_1d(torch.tensor([2.0, 1.0, 2.0, 1.0]), 5).tolist() == [1, 0, 1, 0]


def test_equal_scores_are_grouped_into_equal_chunks():
    assert torch.bincount(seta_groups(torch.ones(10), 5)).tolist() == [2] * 5
    assert seta_groups(torch.ones(3), 5).tolist() == [0, 1, 2]


def test_the_windows_are_the_k_means_groups_and_slide_from_low_to_high():
    scores = torch.cat([10.0 * g + torch.rand(20) for g in range(5)])
    windows = [seta_window(scores, epoch, 5, 0.4) for epoch in range(8)]  # two groups wide
    groups = torch.arange(5).repeat_interleave(20)
    for epoch, window in enumerate(windows):
        start = epoch % 4
        assert torch.equal(window, (groups == start) | (groups == start + 1))


def test_python_rounding_of_the_papers_cifar_window_keeps_four_of_five_groups():
    scores = torch.cat([10.0 * g + torch.rand(20) for g in range(5)])
    assert [int(seta_window(scores, e, 5, 0.9).sum()) for e in range(4)] == [80] * 4


def test_epochs_go_from_all_groups_through_windows_to_a_random_subset():
    scores = torch.arange(100.0)
    policy = SeTa(ratio=0.1, groups=5, window_scale=0.9, delta=0.75)
    plans = [planned(policy, scores, e, max_epochs=8) for e in range(8)]
    assert len(plans[0].keep) == 90
    assert all(len(plan.keep) < 80 for plan in plans[1:6])
    assert [len(plan.keep) for plan in plans[6:]] == [90, 90]
    assert all(bool((plan.weight == 1).all()) for plan in plans)
    # Odd epochs start at the second group, even ones at the first.
    assert plans[1].keep.min() > 10
    assert plans[2].keep.max() < 90


def test_samples_without_a_score_lie_in_every_window():
    scores = torch.tensor([math.nan, 0.0, 10.0, 20.0, 30.0, 40.0])
    assert all(bool(seta_window(scores, e, 5, 0.4)[0]) for e in range(4))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"groups": 0}, "groups=0"), ({"window_scale": 0}, "window_scale=0")]
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SeTa(**arguments)
