import pytest
import torch

from alignprune_pl.noise import Asymmetric, Clean, Symmetric, asymmetric_noise, pair_flip_map, symmetric_noise

C = 10
LABELS = torch.arange(20_000) % C


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def transitions(noisy):
    return torch.stack([torch.bincount(noisy[c == LABELS], minlength=C) for c in range(C)]) / (len(LABELS) / C)


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.4, 0.5, 0.8])
def test_symmetric_noise_hits_the_ratio_exactly_and_spreads_over_the_other_classes(ratio):
    noisy, mask = symmetric_noise(LABELS, ratio, C, g())
    assert int(mask.sum()) == round(ratio * len(LABELS))
    assert torch.equal(mask, noisy != LABELS)
    intended = torch.full((C, C), ratio / (C - 1)).fill_diagonal_(1 - ratio)
    torch.testing.assert_close(transitions(noisy), intended, atol=0.04, rtol=0)


@pytest.mark.parametrize("ratio", [0.2, 0.4])
def test_asymmetric_noise_flips_the_ratio_of_each_mapped_class_and_no_other(ratio):
    noisy, mask = asymmetric_noise(LABELS, ratio, {3: 5, 5: 3, 9: 1}, C, g())
    intended = torch.eye(C)
    for source, target in ((3, 5), (5, 3), (9, 1)):  # 3 and 5 swap without compounding
        intended[source, source], intended[source, target] = 1 - ratio, ratio
    torch.testing.assert_close(transitions(noisy), intended)
    assert torch.equal(mask, noisy != LABELS)


def test_asymmetric_noise_is_pair_flip_where_the_data_set_has_no_map():
    noisy, mask = Asymmetric(0.4)(LABELS, C, None, g())
    assert torch.equal(noisy[mask], (LABELS[mask] + 1) % C)
    assert torch.equal(noisy, asymmetric_noise(LABELS, 0.4, pair_flip_map(C), C, g())[0])
    assert not Asymmetric(0.4)(LABELS, C, {0: 1}, g())[1][LABELS != 0].any()


def test_clean_leaves_every_label():
    noisy, mask = Clean()(LABELS, C, None, g())
    assert torch.equal(noisy, LABELS)
    assert not mask.any()


@pytest.mark.parametrize("noise", [Symmetric(0.4), Asymmetric(0.4)], ids=repr)
def test_noise_is_the_seeds_alone(noise):
    before, labels = torch.get_rng_state(), LABELS.clone()
    first = noise(LABELS, C, None, g(1))[0]
    assert torch.equal(first, noise(LABELS, C, None, g(1))[0])
    assert not torch.equal(first, noise(LABELS, C, None, g(2))[0])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("make", [Symmetric, Asymmetric])
@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_a_ratio_outside_zero_to_one_is_refused(make, ratio):
    with pytest.raises(ValueError, match=f"ratio={ratio} is given"):
        make(ratio)


def test_labels_and_maps_outside_the_classes_are_refused():
    with pytest.raises(ValueError, match="labels range from 0 to 9, but classes 0 to 4"):
        symmetric_noise(LABELS, 0.2, 5, g())
    with pytest.raises(ValueError, match="class_map has 2->10"):
        asymmetric_noise(LABELS, 0.2, {2: 10}, C, g())
    with pytest.raises(ValueError, match=r"labels are torch.float32"):
        symmetric_noise(LABELS.float(), 0.2, C, g())
