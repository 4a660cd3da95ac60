"""What is trained on, what the reference is, and how batches reach the network."""

from __future__ import annotations

from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F

from alignprune_pl import AlignPrune, NoPruning
from alignprune_pl.core.streams import stream
from alignprune_pl.data import (
    Benchmark,
    CropFlip,
    ImageFiles,
    NoisyData,
    Part,
    Views,
    cifar10n,
    clothing1m,
    csv_files,
    datamodule,
    image_folder,
    reference_split,
    tiny_imagenet,
)
from alignprune_pl.noise import Clean, Given, Human, InstanceDependent, Symmetric
from helpers import make_trainer


def made(augment=None, n=203, clean=True):
    """Images whose first pixel is their index."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images[:, 0] = torch.arange(n, dtype=torch.uint8).view(-1, 1, 1)
    labels = torch.arange(n) % 5
    part = Part(images, labels)
    views = Views((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), train=augment)
    return Benchmark("made", tuple("abcde"), views, part, {"test": part}, labels if clean else None)


def index_of(images):
    """Whose image it is, from the first channel before it was normalised."""
    return (255 * (images[:, 0, 0, 0] * 0.2 + 0.5)).round().long()


class Watching(pl.LightningModule):
    """Notes the images that it is given."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3 * 64, 5)
        self.seen = {}

    def training_step(self, batch, batch_idx):
        images, labels = batch
        if self.training:
            for index, image in zip(index_of(images).tolist(), images, strict=True):
                self.seen[self.trainer.current_epoch, index] = image.clone()
        return F.cross_entropy(self.net(images.flatten(1)), labels)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self.net(batch[0].flatten(1)), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fitted(data, epochs=2, **kwargs):
    torch.manual_seed(0)
    module = Watching()
    callback = AlignPrune(data.reference_dataloader(), NoPruning())
    trainer = make_trainer(callback, max_epochs=epochs, **kwargs)
    trainer.fit(module, datamodule=data)
    return module, callback, trainer


def test_reference_and_training_data_share_no_sample_and_the_noise_is_in_the_rest():
    data = NoisyData(made(), Symmetric(0.4), reference_share=0.1)
    assert sorted([*data.train_index.tolist(), *data.reference_index.tolist()]) == list(range(203))
    assert len(data.reference_index) == 20
    assert int(data.noise_mask.sum()) == round(0.4 * 183)
    assert torch.equal(data.noise_mask, data.labels != data.clean_labels)
    assert torch.equal(data.clean_labels, data.train_index % 5)
    assert torch.equal(data.reference_set.labels, data.reference_index % 5)
    assert data.reference_from == "10.00% of the training data, drawn by class"
    images, labels = data.train_set[7]
    assert index_of(images[None]) == data.train_index[7]
    assert labels == data.labels[7]


def test_split_and_noise_are_the_seeds_alone_and_each_has_its_own_draws():
    one, again, other = (NoisyData(made(), Symmetric(0.4), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.labels, other.labels)
    assert not torch.equal(one.train_index, other.train_index)


def test_no_stream_of_draws_is_that_of_another_or_of_an_epochs_plan(monkeypatch):
    drawn = []

    def noted(seed, name, epoch=0):
        drawn.append((name, epoch))
        return stream(seed, name, epoch)

    monkeypatch.setattr(datamodule, "stream", noted)
    data = NoisyData(made(CropFlip(8, 2)), Symmetric(0.4), in_memory=True, batch_size=16, train_size=150)
    fitted(data, epochs=2)
    of_the_run = [("draw", 0), ("reference", 0), ("noise", 0), ("disturbance", 0)]
    assert drawn == [*of_the_run, ("augmentation", 0), ("augmentation", 1)]


def test_without_pruning_the_training_data_is_shuffled_and_workers_stay():
    data = NoisyData(made(), Clean(), num_workers=1)
    assert isinstance(data.train_dataloader().sampler, torch.utils.data.RandomSampler)
    assert isinstance(data.val_dataloader()[0].sampler, torch.utils.data.SequentialSampler)
    assert data.train_dataloader().persistent_workers


def test_a_checkpoint_of_other_labels_is_refused(tmp_path):
    _, _, trainer = fitted(NoisyData(made(), Symmetric(0.4), batch_size=16), epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    for other in (
        NoisyData(made(), Symmetric(0.3), batch_size=16),
        NoisyData(made(), Clean(), batch_size=16),
        NoisyData(made(), Symmetric(0.4), batch_size=16, reference_share=0.02),
    ):
        trainer = make_trainer(AlignPrune(other.reference_dataloader(), NoPruning()), max_epochs=2)
        with pytest.raises(ValueError, match="The checkpoint is of a run on other training samples or labels"):
            trainer.fit(Watching(), datamodule=other, ckpt_path=tmp_path / "one.ckpt")


def test_a_checkpoint_knows_labels_and_samples():
    data = NoisyData(made(), Clean())
    before = data.state_dict()
    data.train_index = data.train_index.flip(0)
    assert data.state_dict() != before


def test_a_class_with_a_larger_remainder_gets_the_sample_that_is_left_over():
    labels = torch.arange(3).repeat_interleave(torch.tensor([14, 17, 19]))
    _, reference = reference_split(labels, 0.1, 3, torch.Generator())  # 1.4, 1.7 and 1.9 of 5
    assert torch.bincount(labels[reference]).tolist() == [1, 2, 2]


def test_in_memory_images_have_the_precision_that_the_run_has():
    types = []

    class Typed(Watching):
        def training_step(self, batch, batch_idx):
            types.append(batch[0].dtype)
            return F.cross_entropy(self.net(batch[0].flatten(1)).float(), batch[1])

        def validation_step(self, batch, batch_idx):
            types.append(batch[0].dtype)

    for in_memory in (False, True):
        data = NoisyData(made(), Clean(), in_memory=in_memory, batch_size=16)
        trainer = make_trainer(
            AlignPrune(data.reference_dataloader(), NoPruning()), max_epochs=1, precision="bf16-true"
        )
        trainer.fit(Typed(), datamodule=data)
    assert set(types) == {torch.bfloat16}


@pytest.mark.parametrize(
    "change",
    [
        {"views": Views((0.5,) * 3, (0.5,) * 3, train=CropFlip(8, 2), evaluate=lambda image: image[:, :4, :4])},
        {"views": Views((0.5,) * 3, (0.5,) * 3, train=CropFlip(6, 1))},
        {"views": Views((0.5,) * 3, (0.5,) * 3, train=lambda image: image)},
        {"reference": Part(ImageFiles(".", ["a.png"]), torch.tensor([0]))},
        {"evaluated": {"test": Part(ImageFiles(".", ["a.png"]), torch.tensor([0]))}},
    ],
    ids=["evaluate", "size", "train", "reference", "evaluated"],
)
def test_what_cannot_be_done_to_whole_batches_is_not_done_in_memory(change):
    with pytest.raises(ValueError, match="in_memory=true is given, but made's images differ in size or are cropped"):
        NoisyData(replace(made(), **change), Clean(), in_memory=True)


def test_people_label_the_images_that_are_left_after_the_split(samples):
    benchmark = cifar10n(samples, samples / "CIFAR-10_human.pt", download=False)
    data = NoisyData(benchmark, Human("worst"), reference_share=0.1)
    assert torch.equal(data.labels, benchmark.annotations["worst"][data.train_index])
    assert torch.equal(data.reference_set.labels, benchmark.clean_labels[data.reference_index])
    assert 0.3 < data.noise_mask.float().mean() < 0.5


def test_clothing1ms_reference_is_its_own_and_what_is_wrong_is_not_known(samples):
    data = NoisyData(clothing1m(samples / "clothing1m", image_size=8), Given())
    assert len(data.train_set) == 140
    assert data.noise_mask is data.clean_labels is data.reference_index is None
    assert data.reference_from == "the images of clean_val_key_list.txt"
    assert data.input_shape == (3, 8, 8)
    with pytest.raises(ValueError, match="clothing1m's clean labels are not known; noise=given"):
        NoisyData(clothing1m(samples / "clothing1m"), Clean())


def test_where_the_truth_is_unknown_the_mask_has_the_labels_that_were_made_wrong(samples):
    benchmark = image_folder(samples / "image_folder", image_size=8)
    data = NoisyData(benchmark, Symmetric(0.5), reference_share=0.1)
    assert int(data.noise_mask.sum()) == 27
    assert torch.equal(data.noise_mask, data.labels != benchmark.train.labels[data.train_index])
    assert data.clean_labels is None
    assert data.reference_from.endswith("whose labels are not known to be clean")


def test_a_csvs_wrong_labels_are_known_and_its_reference_is_clean(samples):
    benchmark = csv_files(samples / "csv" / "train.csv", samples / "csv" / "test.csv", image_size=8)
    data = NoisyData(benchmark, Given(), reference_share=0.2)
    assert torch.equal(data.noise_mask, (benchmark.train.labels != benchmark.clean_labels)[data.train_index])
    assert torch.equal(data.reference_set.labels, benchmark.clean_labels[data.reference_index])
    assert not NoisyData(benchmark, Clean(), reference_share=0.2).noise_mask.any()


def test_instance_noise_looks_at_the_normalised_image_as_it_is_evaluated():
    looked = []

    class Looking(InstanceDependent):
        def __call__(self, data, generator):
            looked.append(data.features(torch.tensor([3, 0])))
            return super().__call__(data, generator)

    data = NoisyData(made(CropFlip(8, 2)), Looking(0.4))
    pixels = data.benchmark.train.inputs[data.train_index[torch.tensor([3, 0])]]
    assert torch.equal(looked[0], data.benchmark.views.normalised(pixels).flatten(1))


def test_without_augmentation_both_ways_of_loading_give_the_network_the_same_images():
    reference = []
    for in_memory in (False, True):
        data = NoisyData(made(), Symmetric(0.4), in_memory=in_memory, batch_size=16)
        module, callback, _ = fitted(data, epochs=2)
        for index in data.train_index.tolist():
            expected = data.benchmark.views.normalised(data.benchmark.train.inputs[index : index + 1])[0]
            assert torch.equal(module.seen[0, index], expected)
        reference.append([row["reference_loss"] for row in callback.history])
    assert reference[0] == reference[1]


def test_out_of_memory_an_images_augmentation_is_that_of_seed_epoch_and_index(monkeypatch):
    augment = CropFlip(8, 2)
    seen = {}
    for name, settings in (
        ("one", {"batch_size": 16}),
        ("other batches", {"batch_size": 7}),
        ("workers", {"batch_size": 16, "num_workers": 2}),
        ("other seed", {"batch_size": 16, "seed": 1}),
    ):
        data = NoisyData(made(augment), Clean(), in_memory=True, **settings)
        seen[name] = fitted(data)[0].seen
    # The channel of the index is constant over an image, so that no crop changes it.
    common = set(seen["one"]) & set(seen["other seed"])
    assert all(torch.equal(image, seen["other batches"][key]) for key, image in seen["one"].items())
    assert all(torch.equal(image, seen["workers"][key]) for key, image in seen["one"].items())
    assert sum(torch.equal(seen["one"][key], seen["other seed"][key]) for key in common) < 0.1 * len(common)
    indices = {index for _, index in seen["one"]}
    assert sum(torch.equal(seen["one"][0, index], seen["one"][1, index]) for index in indices) < 0.1 * len(indices)


def test_out_of_memory_a_resumed_run_augments_as_the_uninterrupted_one(tmp_path):
    def data():
        return NoisyData(made(CropFlip(8, 2)), Symmetric(0.4), in_memory=True, batch_size=16)

    whole = fitted(data(), epochs=3)[0]
    _, _, trainer = fitted(data(), epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    module, again = Watching(), data()
    trainer = make_trainer(AlignPrune(again.reference_dataloader(), NoPruning()), max_epochs=3)
    trainer.fit(module, datamodule=again, ckpt_path=tmp_path / "two.ckpt")
    assert {epoch for epoch, _ in module.seen} == {2}
    assert all(torch.equal(image, whole.seen[key]) for key, image in module.seen.items())


def test_out_of_memory_evaluation_and_reference_are_not_augmented():
    data = NoisyData(made(CropFlip(8, 2)), Symmetric(0.4), in_memory=True, batch_size=16)
    for loader, part in (
        (data.reference_dataloader(), data.reference_set),
        (data.val_dataloader()[0], data.evaluated_sets["test"]),
    ):
        batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
        assert torch.equal(torch.cat([images for images, _ in batches]), data.benchmark.views.normalised(part.inputs))
        assert torch.equal(torch.cat([labels for _, labels in batches]), part.labels)


def test_in_memory_every_loss_goes_to_the_sample_that_it_is_of():
    data = NoisyData(made(CropFlip(8, 2)), Symmetric(0.4), in_memory=True, batch_size=16)
    module, callback, _ = fitted(data, epochs=1)
    assert not callback.store.last_loss().isnan().any()
    assert len({index for _, index in module.seen}) == len(data.labels)


def test_tiny_imagenet_fits_into_memory_and_gives_the_images_of_its_files(samples):
    benchmark = tiny_imagenet(samples / "tiny-imagenet-200")
    files, memory = (NoisyData(benchmark, Symmetric(0.4), in_memory=kept) for kept in (False, True))
    batch = next(iter(memory.val_dataloader()[0]))
    images, labels = memory.on_after_batch_transfer(batch, 0)
    expected = files.evaluated_sets["test"].__getitems__(range(len(labels)))
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    assert memory.train_set.inputs.shape == (594, 3, 64, 64)


def test_images_that_differ_in_size_are_not_kept_in_memory(samples):
    with pytest.raises(ValueError, match=r"in_memory=true is given, but clothing1m's images differ in size"):
        NoisyData(clothing1m(samples / "clothing1m"), Given(), in_memory=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is given"),
        ({"num_workers": -1}, "num_workers=-1 is given"),
        ({"reference_share": 1.0}, "reference share=1.0 is given"),
    ],
)
def test_a_wrong_setting_is_told(setting, message):
    with pytest.raises(ValueError, match=message):
        NoisyData(made(), Clean(), **setting)


def test_a_benchmark_whose_labels_do_not_fit_is_refused():
    benchmark = made()
    with pytest.raises(ValueError, match="made has 203 training samples, but 3 of clean labels"):
        Benchmark(
            "made", benchmark.classes, benchmark.views, benchmark.train, {"test": benchmark.train}, torch.zeros(3)
        )
    with pytest.raises(ValueError, match=r"made's test part has inputs torch.float32\[2, 3\]"):
        Benchmark(
            "made",
            benchmark.classes,
            benchmark.views,
            benchmark.train,
            {"test": Part(torch.zeros(2, 3), torch.zeros(2))},
        )


def test_probes_are_looked_at_as_the_reference_is_without_augmentation():
    for in_memory in (False, True):
        data = NoisyData(made(CropFlip(8, 2)), Symmetric(0.4), in_memory=in_memory, batch_size=16)
        assert torch.equal(data.probe_set.labels, data.labels)
        if in_memory:
            assert not data.probe_set.augmented
        else:
            images = [torch.stack([data.probe_set[i][0] for i in range(5)]) for _ in range(2)]
            assert torch.equal(*images)
            assert index_of(images[0]).tolist() == data.train_index[:5].tolist()
