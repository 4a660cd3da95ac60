"""Which samples are drawn, and references as they should not be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignprune_pl.data import Benchmark, CropFlip, NoisyData, Part, Views, image_folder, pseudo_clean
from alignprune_pl.noise import Clean, Given, Symmetric


def made(per_class=(100, 80, 60, 40)):
    """Grey images, a little lighter with each class."""
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    images = (100 + 10 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    views = Views((0.5,), (0.5,), train=None)
    return Benchmark("made", tuple("abcd"), views, Part(images, labels), {"test": Part(images, labels)}, labels)


def drawn(**settings):
    return NoisyData(made(), Clean(), **{"reference_share": 0.05, **settings})


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
    data = NoisyData(made(), Clean(), reference_share=0.5, train_size=116, imbalance=27.0)
    assert torch.bincount(data.reference_set.labels).tolist() == [39, 13, 5, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_size": 281}, "train_size=281 is given, but 1 to 280 is expected, which made has"),
        ({"imbalance": 0.5}, r"imbalance=0.5 is given, but a number in \[1, inf\) is expected"),
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
        NoisyData(made(), Symmetric(0.3), reference_share=0.25, reference_wrong=share) for share in (0.0, 0.2)
    )
    assert int((clean.reference_set.labels != wrong.reference_set.labels).sum()) == round(0.2 * 70)
    assert torch.equal(clean.reference_index, wrong.reference_index)
    assert torch.equal(clean.labels, wrong.labels)


def test_a_disturbed_reference_has_noise_of_the_given_deviation_on_its_images_alone():
    settings = {"reference_share": 0.25, "reference_pixel_noise": 0.1}
    data = NoisyData(made(), Clean(), **settings)
    images = torch.stack([image for image, _ in data.reference_set])  # a grey of 0.5 and 0.5 of deviation: 2 x - 1
    grey = 2 * (100 + 10 * data.reference_set.labels) / 255 - 1
    noise = images - grey.view(-1, 1, 1, 1)
    assert abs(float(noise.std()) - 2 * 0.1) < 0.01
    assert abs(float(noise.mean())) < 0.02
    train = torch.stack([image for image, _ in data.train_set])
    assert torch.allclose(train[:, 0, 0, 0], 2 * (100 + 10 * data.labels) / 255 - 1)
    assert torch.equal(
        images, torch.stack([image for image, _ in NoisyData(made(), Clean(), **settings).reference_set])
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference_wrong": 1.0}, r"reference wrong=1.0 is given, but a share in \[0, 1\) is expected"),
        ({"reference_pixel_noise": -0.1}, "reference pixel_noise=-0.1 is given, but a deviation of pixels"),
    ],
)
def test_disturbances_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        drawn(**settings)
    with pytest.raises(ValueError, match=message):  # without a reference neither
        drawn(**settings, reference_share=None)


def test_pixel_noise_needs_images_in_memory(samples):
    benchmark = image_folder(samples / "image_folder", image_size=8)
    with pytest.raises(ValueError, match="the reference's images are read from files one by one"):
        NoisyData(benchmark, Given(), reference_share=0.1, reference_pixel_noise=0.1)


def test_a_pseudo_clean_reference_is_drawn_by_class_among_its_lowest_losses():
    labels = torch.arange(3).repeat_interleave(torch.tensor([100, 60, 40]))
    losses = torch.rand(200, generator=torch.Generator().manual_seed(0)) + labels  # whole classes are harder
    chosen = pseudo_clean(losses, labels, 0.1, 0.25, 3, torch.Generator().manual_seed(0))
    assert torch.bincount(labels[chosen]).tolist() == [10, 6, 4]
    for c, size in enumerate((100, 60, 40)):
        highest_of_pool = losses[labels == c].sort().values[size // 4 - 1]
        assert losses[chosen[labels[chosen] == c]].max() <= highest_of_pool
        lowest = losses[labels == c].sort().values[: round(0.1 * size)]
        assert losses[chosen[labels[chosen] == c]].mean() > lowest.mean()  # not just the lowest: they are all too easy


def test_a_pseudo_clean_reference_has_no_sample_that_was_not_observed_and_all_of_a_class_at_most():
    labels = torch.zeros(10, dtype=torch.int64)
    losses = torch.tensor([torch.nan] * 8 + [2.0, 1.0])
    assert pseudo_clean(losses, labels, 0.2, 0.2, 1, torch.Generator()).tolist() == [8, 9]
    assert pseudo_clean(losses, labels, 0.9, 1.0, 1, torch.Generator()).numel() == 9


@pytest.mark.parametrize(("share", "among"), [(0.3, 0.2), (0.0, 0.2), (0.1, 1.5), (1.0, 1.0)])
def test_shares_of_a_pseudo_clean_reference_that_cannot_be_are_refused(share, among):
    with pytest.raises(ValueError, match=f"reference share={share} and among={among} are given, but shares"):
        pseudo_clean(torch.rand(10), torch.zeros(10, dtype=torch.int64), share, among, 1, torch.Generator())


def test_a_pseudo_clean_reference_of_no_sample_is_refused():
    with pytest.raises(ValueError, match=r"reference share=0.01 of 10 samples is given, but at least one is expected"):
        pseudo_clean(torch.rand(10), torch.zeros(10, dtype=torch.int64), 0.01, 0.2, 1, torch.Generator())


def test_samples_that_become_the_reference_keep_their_given_labels_and_are_trained_on_no_more():
    data = NoisyData(made(), Symmetric(0.5), reference_share=None)
    assert data.reference_set is data.reference_index is data.reference_dataloader() is None
    assert len(data.train_set) == 280
    index, labels, mask = data.train_index, data.labels, data.noise_mask
    chosen = torch.tensor([3, 50, 270])
    data.take_reference(chosen, "picked by hand")
    assert torch.equal(data.reference_index, index[chosen])
    assert torch.equal(data.reference_set.labels, labels[chosen])
    assert data.reference_from == "picked by hand"
    rest = [i for i in range(280) if i not in chosen.tolist()]
    for now, before in ((data.train_index, index), (data.labels, labels), (data.noise_mask, mask)):
        assert torch.equal(now, before[rest])
    assert torch.equal(data.train_set.labels, labels[rest])
    assert torch.equal(data.probe_set.labels, labels[rest])
    assert len(data.reference_dataloader().dataset) == 3


def test_a_pseudo_clean_reference_has_as_many_of_a_small_class_as_its_share_though_its_pool_would_be_empty():
    labels = torch.tensor([0] * 45 + [1] * 4)
    chosen = pseudo_clean(torch.arange(49.0), labels, 0.12, 0.12, 2, torch.Generator())
    assert torch.bincount(labels[chosen]).tolist() == [5, 1]


def test_after_a_part_became_the_reference_the_augmentation_is_drawn_for_those_that_are_left():
    benchmark = replace(made(), views=Views((0.5,), (0.5,), train=CropFlip(4, 1)))
    one = NoisyData(benchmark, Clean(), reference_share=None, in_memory=True)
    before = one._drawn(CropFlip(4, 1), torch.device("cpu"))
    one.take_reference(torch.tensor([0, 1]), "by hand")
    assert (len(before), len(one._drawn(CropFlip(4, 1), torch.device("cpu")))) == (280, 278)
