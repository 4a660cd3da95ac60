import pytest
import torch

from alignprune_pl.noise import LabelledData, Symmetric, symmetric_noise

C = 10
LABELS = torch.arange(50_000) % C


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_transitions(noisy, intended):
    """Within 5 binomial standard deviations; choosing a number exactly, not each sample, only narrows them."""
    for own in range(C):
        labels = noisy[own == LABELS]
        observed = torch.bincount(labels, minlength=C) / len(labels)
        spread = (intended[own] * (1 - intended[own]) / len(labels)).sqrt()
        assert ((observed - intended[own]).abs() <= 5 * spread).all()


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.4, 0.5, 0.8])
def test_over_the_others_the_ratio_is_exact_and_spread_over_the_wrong_classes(ratio):
    noisy, mask = symmetric_noise(LABELS, ratio, C, g())
    assert int(mask.sum()) == round(ratio * len(LABELS))
    assert torch.equal(mask, noisy != LABELS)
    assert_transitions(noisy, torch.full((C, C), ratio / (C - 1)).fill_diagonal_(1 - ratio))


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_over_all_classes_a_tenth_of_the_chosen_keep_their_label(ratio):
    noisy, mask = symmetric_noise(LABELS, ratio, C, g(), over="all")
    chosen = round(ratio * len(LABELS))
    # Of exactly so many chosen ones, each is wrong with probability (C - 1) / C.
    assert abs(int(mask.sum()) - 0.9 * chosen) <= 5 * (0.9 * 0.1 * chosen) ** 0.5
    assert torch.equal(mask, noisy != LABELS)
    assert_transitions(noisy, torch.full((C, C), ratio / C).fill_diagonal_(1 - ratio * (C - 1) / C))


def test_over_all_of_two_classes_nearly_every_sample_can_be_chosen():
    n = 20_000
    mask = symmetric_noise(torch.zeros(n, dtype=torch.int64), 0.9999, 2, g(), over="all")[1]
    assert abs(int(mask.sum()) - n / 2) <= 5 * (n / 4) ** 0.5


def test_the_draws_over_the_others_are_those_of_every_version():
    labels = torch.arange(12) % 4
    assert symmetric_noise(labels, 0.5, 4, g(3))[0].tolist() == [0, 0, 2, 3, 2, 1, 3, 3, 0, 0, 3, 0]


@pytest.mark.parametrize("over", ["others", "all"])
def test_the_class_is_the_function(over):
    noisy = Symmetric(0.4, over)(LabelledData(LABELS, C), g(2))[0]
    assert torch.equal(noisy, symmetric_noise(LABELS, 0.4, C, g(2), over)[0])
    assert repr(Symmetric(0.4, over)) == f"Symmetric(ratio=0.4, over='{over}')"


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^over='both' is given, but 'others' or 'all' is expected; 'others' makes"):
        Symmetric(0.4, over="both")
    with pytest.raises(ValueError, match=r"^over='both' is given"):
        symmetric_noise(LABELS, 0.4, C, g(), over="both")
    with pytest.raises(ValueError, match=r"^labels range from 0 to 9, but classes 0 to 4 are expected"):
        symmetric_noise(LABELS, 0.2, 5, g())
    with pytest.raises(ValueError, match=r"^labels are torch.float32\[50000\], but int64\[n\] is expected"):
        symmetric_noise(LABELS.float(), 0.2, C, g())
    with pytest.raises(ValueError, match=r"^num_classes=1 is given, but a number of classes of at least 2 is expected"):
        symmetric_noise(0 * LABELS, 0.2, 1, g())
    with pytest.raises(ValueError, match=r"^ratio=1.5 is given"):
        symmetric_noise(LABELS, 1.5, C, g())
