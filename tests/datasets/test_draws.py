"""Which samples are drawn, and references as they should not be."""

from __future__ import annotations

import pytest
import torch

from alignprune_pl.data import Benchmark, NoisyImages, Part, Views, image_folder
from alignprune_pl.noise import Clean, Given, Symmetric


def made(per_class=(100, 80, 60, 40)):
    """Grey images, a little lighter with each class."""
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    images = (100 + 10 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    views = Views((0.5,), (0.5,), train=None)
    return Benchmark("made", tuple("abcd"), views, Part(images, labels), {"test": Part(images, labels)}, labels)


def drawn(**settings):
    return NoisyImages(made(), Clean(), reference_share=0.05, **settings)


def sizes(data):
    """How many samples of each class are drawn, the reference's too."""
    return (torch.bincount(data.clean_labels) + torch.bincount(data.reference_set.labels, minlength=4)).tolist()


def test_train_size_draws_by_class_by_the_seed_alone():
    data = drawn(train_size=140)
    assert sizes(data) == [50, 40, 30, 20]
    assert torch.equal(data.train_index, drawn(train_size=140).train_index)
    assert not torch.equal(data.train_index, drawn(train_size=140, seed=1).train_index)


def test_imbalance_is_the_first_class_by_the_last_with_an_exponential_profile_between():
    assert sizes(drawn(train_size=116, imbalance=27.0)) == [78, 26, 9, 3]
    data = drawn(train_size=116, imbalance=27.0)
    assert torch.equal(data.train_index, drawn(train_size=116, imbalance=27.0).train_index)
    assert len(set(data.train_index.tolist())) == len(data.train_index)
    assert not torch.equal(data.train_index, drawn(train_size=116, imbalance=27.0, seed=1).train_index)


def test_without_a_size_imbalance_takes_as_many_as_the_classes_allow():
    assert sizes(drawn(imbalance=8.0)) == [100, 50, 25, 12]


def test_the_reference_of_an_imbalanced_draw_is_imbalanced_as_well():
    data = NoisyImages(made(), Clean(), reference_share=0.5, train_size=116, imbalance=27.0)
    assert torch.bincount(data.reference_set.labels).tolist() == [39, 13, 5, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_size": 281}, "train_size=281 is given, but 1 to 280 is expected, which made has"),
        ({"imbalance": 0.5}, "imbalance=0.5 is given, but a number of at least 1 is expected"),
        ({"imbalance": float("inf")}, "imbalance=inf is given"),
        ({"imbalance": float("nan")}, "imbalance=nan is given"),
        ({"train_size": 250, "imbalance": 8.0}, "train_size=250 and imbalance=8.0 are given, but at most 187 samples"),
        ({"train_size": 20, "imbalance": 1000.0}, "at least one of each class, are expected with it"),
    ],
)
def test_draws_that_the_classes_do_not_allow_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        drawn(**settings)


def test_a_disturbed_reference_has_as_many_wrong_labels_as_asked_for_and_the_training_data_are_the_same():
    clean, wrong = (
        NoisyImages(made(), Symmetric(0.3), reference_share=0.25, reference_wrong=share) for share in (0.0, 0.2)
    )
    assert int((clean.reference_set.labels != wrong.reference_set.labels).sum()) == round(0.2 * 70)
    assert torch.equal(clean.reference_index, wrong.reference_index)
    assert torch.equal(clean.labels, wrong.labels)


def test_a_disturbed_reference_has_noise_of_the_given_deviation_on_its_images_alone():
    settings = {"reference_share": 0.25, "reference_pixel_noise": 0.1}
    data = NoisyImages(made(), Clean(), **settings)
    images = torch.stack([image for image, _ in data.reference_set])  # a grey of 0.5 and 0.5 of deviation: 2 x - 1
    grey = 2 * (100 + 10 * data.reference_set.labels) / 255 - 1
    noise = images - grey.view(-1, 1, 1, 1)
    assert abs(float(noise.std()) - 2 * 0.1) < 0.01
    assert abs(float(noise.mean())) < 0.02
    train = torch.stack([image for image, _ in data.train_set])
    assert torch.allclose(train[:, 0, 0, 0], 2 * (100 + 10 * data.labels) / 255 - 1)
    assert torch.equal(images, torch.stack([image for image, _ in NoisyImages(made(), Clean(), **settings).reference_set]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference_wrong": 1.0}, r"reference wrong=1.0 is given, but a share in \[0, 1\) is expected"),
        ({"reference_pixel_noise": -0.1}, "reference pixel_noise=-0.1 is given, but zero or more"),
    ],
)
def test_disturbances_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        drawn(**settings)


def test_pixel_noise_needs_images_in_memory(samples):
    benchmark = image_folder(samples / "image_folder", image_size=8)
    with pytest.raises(ValueError, match="the reference's images are read from files one by one"):
        NoisyImages(benchmark, Given(), reference_share=0.1, reference_pixel_noise=0.1)
