"""Instance-dependent noise, against the rule of Xia et al. written as a loop and against the distributions it has."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import kstest, truncnorm

from alignprune_pl.noise import InstanceDependent, LabelledData, instance_noise
from alignprune_pl.noise import instance as module
from alignprune_pl.noise.instance import flip_rates, wrong_classes

LAST = 1 - 2**-53  # the largest number that a uniform draw in float64 can be


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(n, generator):
    return torch.rand(n, dtype=torch.float64, generator=generator).numpy()


def truncated(ratio, std=0.1):
    return truncnorm(-ratio / std, (1 - ratio) / std, loc=ratio, scale=std)


def images_of(n, size, seed=7, scale=1.0):
    return scale * torch.randn(n, size, generator=g(seed))


def by_the_rule(labels, images, ratio, classes, generator, std=0.1):
    """Sample by sample: the rates, who is wrong, where in the others' distribution, a projection a class, a softmax."""
    n, size = images.shape
    rates = truncated(ratio, std).ppf(uniform(n, generator))
    wrong = uniform(n, generator) < rates
    position = uniform(n, generator)
    noisy = labels.tolist()
    for own in range(classes):
        members = [i for i in range(n) if labels[i] == own and wrong[i]]
        if not members:
            continue
        projection = torch.randn(size, classes, generator=generator).numpy().astype(np.float64)
        for i in members:
            logits = [sum(float(images[i, s]) * projection[s, k] for s in range(size)) for k in range(classes)]
            top = max(logit for k, logit in enumerate(logits) if k != own)
            weights = [0.0 if k == own else math.exp(logit - top) for k, logit in enumerate(logits)]
            passed = 0.0
            for k in range(classes):
                passed += weights[k] / sum(weights)
                if position[i] < passed:
                    noisy[i] = k
                    break
    return torch.tensor(noisy)


@pytest.mark.parametrize(("ratio", "std", "classes", "size"), [(0.4, 0.1, 5, 8), (0.1, 0.3, 3, 1), (0.9, 0.05, 2, 4)])
def test_the_labels_are_those_of_the_rule_sample_by_sample(ratio, std, classes, size):
    labels = torch.randint(classes, (500,), generator=g(5))
    images = images_of(500, size)
    noisy, mask = instance_noise(labels, lambda at: images[at], ratio, classes, g(3), std)
    assert torch.equal(noisy, by_the_rule(labels, images, ratio, classes, g(3), std))
    assert torch.equal(mask, noisy != labels)


def test_an_image_flips_by_its_classs_projection_of_it_and_by_nothing_else():
    """Copies of two images in each of three classes: every row of the transition matrix of each is the rule's."""
    ratio, classes, copies = 0.3, 3, 8000
    pictures = images_of(2, 5, scale=0.4)
    kind = torch.arange(2 * classes).repeat(copies)
    labels, picture = kind % classes, kind // classes
    noisy, _ = instance_noise(labels, lambda at: pictures[picture[at]], ratio, classes, g(4))

    generator = g(4)
    for _ in range(3):
        uniform(len(labels), generator)
    projections = [torch.randn(5, classes, generator=generator).double() for _ in range(classes)]
    for one in range(2 * classes):
        own, image = one % classes, pictures[one // classes].double()
        logits = image @ projections[own]
        weights = torch.where(torch.arange(classes) == own, 0.0, logits.exp())
        intended = truncated(ratio).mean() * weights / weights.sum()
        intended[own] = 1 - truncated(ratio).mean()
        observed = torch.bincount(noisy[kind == one], minlength=classes) / copies
        assert ((observed - intended).abs() <= 5 * (intended * (1 - intended) / copies).sqrt()).all()
        for half in (noisy[kind == one][: copies // 2], noisy[kind == one][copies // 2 :]):
            assert ((torch.bincount(half, minlength=classes) / len(half) - intended).abs() <= 0.04).all()


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.2, 0.4, 0.8])
def test_the_share_of_wrong_labels_is_the_mean_of_the_flip_rates(ratio):
    n = 40_000
    images = images_of(n, 3)
    mask = instance_noise(torch.arange(n) % 10, lambda at: images[at], ratio, 10, g())[1]
    mean = truncated(ratio).mean()
    assert abs(float(mask.double().mean()) - mean) <= 5 * (mean * (1 - mean) / n) ** 0.5
    assert abs(mean - {0.0: 0.080, 0.1: 0.129, 0.2: 0.206, 0.4: 0.400, 0.8: 0.794}[ratio]) < 0.0006  # as documented


@pytest.mark.parametrize(("ratio", "std"), [(0.4, 0.1), (0.0, 0.1), (0.05, 0.1), (0.999, 0.1), (0.3, 5.0), (0.5, 1e-6)])
def test_flip_rates_are_a_truncated_normal(ratio, std):
    rates = flip_rates(20_000, ratio, std, g())
    assert rates.dtype == torch.float64
    assert ((rates >= 0) & (rates <= 1)).all()
    assert kstest(rates.numpy(), truncated(ratio, std).cdf).pvalue > 1e-4
    assert abs(rates.mean() - truncated(ratio, std).mean()) <= 5 * truncated(ratio, std).std() / 20_000**0.5


@pytest.mark.parametrize("ratio", [0.0, 1e-12, 0.4, 0.9, 1 - 1e-12])
@pytest.mark.parametrize("std", [0.0, 1e-320, 1e-9, 0.1, 1e9, 1e308])
def test_flip_rates_stay_between_zero_and_one_at_every_edge(monkeypatch, ratio, std):
    edges = torch.tensor([0.0, 2**-53, 0.5, LAST], dtype=torch.float64)
    monkeypatch.setattr(module, "_uniform", lambda n, generator: edges.clone())
    rates = flip_rates(4, ratio, std, g())
    assert ((rates >= 0) & (rates <= 1)).all()
    assert (rates.diff() >= 0).all()
    if std <= 1e-9:
        torch.testing.assert_close(rates[1:3], torch.full((2,), ratio).double(), atol=1e-6, rtol=0)


def test_without_a_spread_the_ratio_is_every_samples_rate():
    assert torch.equal(flip_rates(5, 0.4, 0, g()), torch.full((5,), 0.4, dtype=torch.float64))


@pytest.mark.parametrize("own", range(4))
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_the_own_class_is_never_among_the_wrong_ones(own, scale):
    images, projection = images_of(6, 3, scale=scale).double(), images_of(3, 4, seed=8).double()
    projection[:, own] = 100 * images[0]  # by its logit it would be the one
    weights = wrong_classes(images, projection, own)
    assert (weights[:, own] == 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(6).double())


def test_the_first_and_the_last_position_flip_as_any_other(monkeypatch):
    """Of everybody wrong at the ends of the distribution, nobody keeps the label."""
    images = images_of(90, 4)
    for position in (0.0, LAST):
        draws = iter([torch.full((90,), 0.5), torch.zeros(90), torch.full((90,), position, dtype=torch.float64)])
        monkeypatch.setattr(module, "_uniform", lambda n, generator, draws=draws: next(draws).double())
        assert instance_noise(torch.arange(90) % 3, lambda at: images[at], 0.4, 3, g())[1].all()


def test_a_rate_of_zero_or_one_leaves_none_and_spares_none(monkeypatch):
    images = images_of(50, 4)
    for rate in (0.0, 1.0):
        monkeypatch.setattr(module, "flip_rates", lambda n, *_, rate=rate: torch.full((n,), rate).double())
        monkeypatch.setattr(module, "_uniform", lambda n, generator: torch.zeros(n).double())
        mask = instance_noise(torch.arange(50) % 3, lambda at: images[at], 0.4, 3, g())[1]
        assert torch.equal(mask, torch.full((50,), bool(rate)))


@pytest.mark.parametrize(("size", "classes"), [(64, 5), (2, 100)])
def test_images_are_looked_at_in_blocks_of_bounded_memory_that_do_not_change_the_labels(monkeypatch, size, classes):
    images, labels, looked_at = images_of(3000, size), torch.randint(classes, (3000,), generator=g(5)), []

    def features(at):
        looked_at.append(at)
        return images[at]

    noisy, mask = instance_noise(labels, features, 0.4, classes, g())
    seen = torch.cat(looked_at)
    assert set(seen.tolist()) == set(mask.nonzero().squeeze(1).tolist())  # the right ones need no look
    looked_at.clear()
    monkeypatch.setattr(module, "_BLOCK", 700)
    assert torch.equal(noisy, instance_noise(labels, features, 0.4, classes, g())[0])
    assert max(len(at) for at in looked_at) == 700 // max(size, classes)
    assert len(torch.cat(looked_at)) == int(mask.sum()) + 1  # one more look to learn the size
    assert all(at.dtype == torch.int64 and len(set(labels[at].tolist())) == 1 for at in looked_at)
    monkeypatch.setattr(module, "_BLOCK", 1)
    assert torch.equal(noisy, instance_noise(labels, features, 0.4, classes, g())[0])


def test_one_projection_at_a_time_is_drawn_and_none_for_a_class_without_wrong_samples(monkeypatch):
    shapes, randn = [], torch.randn
    images, labels = images_of(300, 7), torch.arange(300) % 3 * 2  # classes 1, 3 and 5 have no samples

    def watched(*shape, **kwargs):
        shapes.append(shape)
        return randn(*shape, **kwargs)

    monkeypatch.setattr(torch, "randn", watched)
    instance_noise(labels, lambda at: images[at], 0.4, 6, g())
    assert shapes == [(7, 6)] * 3


def test_the_class_is_the_function():
    images, labels = images_of(200, 3), torch.arange(200) % 4
    data = LabelledData(labels, 4, features=lambda at: images[at])
    noisy = InstanceDependent(0.3, std=0.2)(data, g(2))[0]
    assert torch.equal(noisy, instance_noise(labels, data.features, 0.3, 4, g(2), std=0.2)[0])
    assert torch.equal(InstanceDependent(0.3)(data, g(2))[0], instance_noise(labels, data.features, 0.3, 4, g(2))[0])
    assert repr(InstanceDependent(0.3)) == "InstanceDependent(ratio=0.3, std=0.1)"


def test_a_data_set_without_images_is_refused():
    sentence = (
        "^mine has no images to look at, but instance-dependent noise is made from them; take another noise, such"
    )
    with pytest.raises(ValueError, match=sentence):
        InstanceDependent(0.4)(LabelledData(torch.arange(3), 3, name="mine"), g())


@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf])
def test_a_standard_deviation_that_is_none_is_refused(std):
    sentence = rf"^std={std} is given, but a standard deviation in \[0, inf\) is expected; 0.1 is usual.$"
    with pytest.raises(ValueError, match=sentence):
        InstanceDependent(0.4, std)
    with pytest.raises(ValueError, match=sentence):
        instance_noise(torch.arange(3), lambda at: torch.ones(len(at), 1), 0.4, 3, g(), std)


def growing(at):
    return torch.ones(len(at), 1 + len(at))


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (
            lambda at: torch.ones(len(at), 3, 4),
            "features gives torch.float32[1, 3, 4] for indices int64[1], but float32[1, S]",
        ),
        (
            lambda at: torch.ones(len(at)),
            "features gives torch.float32[1] for indices int64[1], but float32[1, S] is expected",
        ),
        (lambda at: torch.tensor(1.0), "features gives torch.float32[] for indices int64[1]"),
        (lambda at: torch.ones(len(at) + 1, 3), "features gives torch.float32[2, 3] for indices int64[1]"),
        (lambda at: torch.ones(len(at), 0), "features gives torch.float32[1, 0] for indices int64[1]"),
        (lambda at: torch.ones(len(at), 3).byte(), "features gives torch.uint8[1, 3] for indices int64[1]"),
    ],
)
def test_features_of_another_shape_are_refused(features, sentence):
    with pytest.raises(ValueError, match=r"^" + re.escape(sentence)):
        instance_noise(torch.arange(100) % 2, features, 0.5, 2, g())


def test_features_whose_size_changes_are_refused():
    with pytest.raises(
        ValueError, match=r"^features gives torch.float32\[\d+, \d+\] for indices int64\[\d+\], .*, 2\] is expec"
    ):
        instance_noise(torch.arange(100) % 2, growing, 0.5, 2, g())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_refused_with_the_sample(value):
    labels = torch.zeros(100, dtype=torch.int64)
    images = torch.ones(100, 2)
    wrong = instance_noise(labels, lambda at: images[at], 0.5, 2, g())[1].nonzero().squeeze(1)
    images[wrong[5], 1] = value
    sentence = f"^features gives a NaN or infinity for sample {int(wrong[5])}, but finite numbers are expected; look at"
    with pytest.raises(ValueError, match=sentence):
        instance_noise(labels, lambda at: images[at], 0.5, 2, g())


def test_what_else_does_not_fit_is_refused():
    ones = torch.ones(9, 2)
    with pytest.raises(ValueError, match=r"^ratio=1 is given"):
        instance_noise(torch.arange(9), lambda at: ones[at], 1, 9, g())
    with pytest.raises(ValueError, match=r"^labels range from 0 to 8, but classes 0 to 3"):
        instance_noise(torch.arange(9), lambda at: ones[at], 0.4, 4, g())
    with pytest.raises(ValueError, match=r"^num_classes=1 is given, but a number of classes of at least 2"):
        instance_noise(torch.zeros(9, dtype=torch.int64), lambda at: ones[at], 0.4, 1, g())
