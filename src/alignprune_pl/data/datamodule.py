"""A benchmark with label noise and a clean reference set, as a Lightning data module."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignprune_pl.core.checking import check_count
from alignprune_pl.core.streams import stream
from alignprune_pl.data.dataset import MemoryDataset, Stored, ViewedDataset, as_it_is
from alignprune_pl.data.files import ImageFiles, Inputs
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.splits import (
    check_disturbance,
    disturbed,
    imbalanced_draw,
    one_of_each,
    others,
    reference_split,
)
from alignprune_pl.data.views import CropFlip, Views
from alignprune_pl.noise import Given, LabelledData, Noise


class NoisyData(pl.LightningDataModule):
    """Splits off the reference where the benchmark has none, then makes labels of the other training samples wrong.

    Validation and test serve the benchmark's evaluated parts, as the literature does: accuracy is followed over the
    epochs, and nothing is selected by it.

    Args:
        benchmark: Inputs, such as images, and labels.
        noise: The noise model.
        reference_share: Share of the training data that becomes the reference where the benchmark has no clean one; None
            for no reference, even where it has, until :meth:`take_reference`.
        reference_wrong: Share of the reference's labels that is made wrong, to study what a reference must be.
        reference_pixel_noise: Standard deviation of normal noise on the reference's pixels in [0, 1], likewise.
        batch_size: Samples a batch.
        num_workers: Worker processes of each loader.
        in_memory: Keep all inputs in memory as they are stored, and augment and normalise whole batches on the device that
            trains. The augmentation of a sample is then a function of the seed, the epoch and its index alone.
            Otherwise each image goes through torchvision's transforms by itself, drawn from torch's global generator.
        train_size: How many of the training samples there are to be, drawn by class; None for all.
        imbalance: How many times as large as the last class the first one is; 1 leaves the classes as they are. Sizes fall
            exponentially between (Cao et al., NeurIPS 2019).
        correct_only: Leave out the samples whose label is wrong: what a perfect selection would train on.
        mended: int64[N], labels of all of the benchmark's training samples in place of its own, -1 for one that is not
            trained on, as :func:`read_labels` reads them; None for its own. The noise is then
            :class:`~alignprune_pl.noise.Given`, and the truth, where it is known, stays what it is.
        seed: Of the split, the noise and the augmentation in memory, each with its own generator.

    Attributes:
        labels: int64[n], what is trained on.
        clean_labels: int64[n], the truth; None where nobody knows it.
        noise_mask: bool[n], where ``labels`` is wrong, for measurement only. Where the truth is not known, the labels
            that the noise model made wrong; None if it made none wrong.
        train_index: int64[n], where each training sample stands in the benchmark's training data.
        reference_index: int64[r], likewise for the reference; None where the benchmark has its own.
        reference_labels: int64[r], what it is labelled, whatever is disturbed of it; likewise.
        reference_from: The provenance of the reference, for the reader.
        train_set: What is trained on.
        probe_set: The same samples without augmentation, as the reference has none.
        reference_set: No part of ``train_set``; None where there is no reference.
        evaluated_sets: By name; the first is the one whose accuracy counts.

    Raises:
        ValueError: If a number or share is out of range, a class has too few samples for both ``train_size`` and
            ``imbalance``, or the benchmark cannot be held in memory.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        noise: Noise,
        reference_share: float | None = 0.01,
        batch_size: int = 128,
        num_workers: int = 0,
        in_memory: bool = False,
        train_size: int | None = None,
        imbalance: float = 1.0,
        reference_wrong: float = 0.0,
        reference_pixel_noise: float = 0.0,
        correct_only: bool = False,
        mended: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_disturbance(reference_wrong, reference_pixel_noise)
        self.benchmark = benchmark
        self.batch_size = check_count("batch_size", batch_size, 1, "a number of samples")
        self.num_workers = check_count("num_workers", num_workers, 0, "a number of processes")
        self.in_memory = in_memory
        self.seed = seed
        self._draws: tuple[int, Tensor] | None = None
        self.reference_index: Tensor | None = None
        self.reference_labels: Tensor | None = None
        if in_memory:
            _check_memory(benchmark)
        self._disturbance = reference_wrong, reference_pixel_noise
        given = benchmark.train if mended is None else _mended(benchmark, mended, noise)
        reference = self._split(given, reference_share, train_size, imbalance)
        train = given.subset(self.train_index)
        self.labels, self.noise_mask = noise(self._labelled(train), stream(seed, "noise"))
        if correct_only:
            train = self._correct(train)
        self._hold(Part(train.inputs, self.labels), reference)
        self.evaluated_sets = {name: self._dataset(part) for name, part in benchmark.evaluated.items()}

    def _hold(self, train: Part, reference: Part | None) -> None:
        self._train = train
        self._draws = None  # of as many samples as there were
        if self.in_memory:
            train = Part(_stacked(train.inputs), train.labels)  # once for both
        self.train_set = self._dataset(train, augmented=True)
        self.probe_set = self._dataset(train)
        self.reference_set: ViewedDataset | MemoryDataset | None = None
        if reference is not None:
            generator = stream(self.seed, "disturbance")
            self.reference_set = self._dataset(
                disturbed(reference, *self._disturbance, self.benchmark.num_classes, generator)
            )

    def take_reference(self, chosen: Tensor, origin: str) -> None:
        """Make training samples the reference, with the labels that they are given, and train on the others.

        An image that several samples show is in the reference once, and is not trained on.

        Args:
            chosen: int64[r], their places in ``train_set``.
            origin: Why these, for the reader.
        """
        images = self.benchmark.images_of["train"][self.train_index]
        chosen = chosen[one_of_each(images[chosen], self.labels[chosen])]
        stays = self._apart(images, chosen)
        self.reference_index, self.reference_from = self.train_index[chosen], origin
        self.reference_labels = self.labels[chosen]
        reference = self._train.subset(chosen)
        self._keep(stays)
        self._hold(self._train.subset(stays), reference)

    def _split(self, given: Part, share: float | None, size: int | None, imbalance: float) -> Part | None:
        benchmark = self.benchmark
        # Mended labels change no draw: what was reviewed is what is trained on.
        labels = benchmark.train.labels if benchmark.clean_labels is None else benchmark.clean_labels
        self.train_index = torch.arange(len(labels))
        if size is not None or imbalance != 1:
            self.train_index = self._draw(labels, size, imbalance)
        drawn = self.train_index
        reference = None if share is None else benchmark.reference
        self.reference_from = "none" if share is None else benchmark.reference_from
        if reference is None and share is not None:
            images = benchmark.images_of["train"][drawn]
            fit = self._fit(images, labels[drawn])
            chosen = reference_split(labels[drawn][fit], share, benchmark.num_classes, stream(self.seed, "reference"))[
                1
            ]
            chosen = fit[chosen]
            rest = self._apart(images, chosen)
            known_labels = given.labels if benchmark.clean_labels is None else labels
            at = drawn[chosen]
            at = at[known_labels[at] >= 0]
            self.train_index, self.reference_index, self.reference_labels = drawn[rest], at, known_labels[at]
            reference = Part(benchmark.train.subset(at).inputs, known_labels[at])
            known = "" if benchmark.clean_labels is not None else ", whose labels are not known to be clean"
            drawn_from = "data" if len(fit) == len(drawn) else "data's images"
            self.reference_from = f"{share:.2%} of the training {drawn_from}, drawn by class{known}"
        self.train_index = self.train_index[given.labels[self.train_index] >= 0]
        if not len(self.train_index):
            raise ValueError(
                f"The mended labels have none of the {len(drawn)} samples of {benchmark.name} that are to be trained on; "
                "leave fewer out, or give a larger train_size."
            )
        self.clean_labels = None if benchmark.clean_labels is None else benchmark.clean_labels[self.train_index]
        return reference

    def _fit(self, images: Tensor, labels: Tensor) -> Tensor:
        """The samples that a reference can be drawn from."""
        fit = one_of_each(images, labels)
        if not len(fit):
            raise ValueError(
                f"Each image of {self.benchmark.name} has several labels, but those of a reference are to have one; leave "
                "all but the right one out."
            )
        return fit

    def _apart(self, images: Tensor, reference: Tensor) -> Tensor:
        """What is trained on beside a reference: the samples of all other images."""
        rest = others(images, reference)
        again = len(images) - len(rest) - len(reference)
        if again:
            rank_zero_info(f"{self.benchmark.name}: {again:,} samples of images in the reference are not trained on.")
        return rest

    def _draw(self, labels: Tensor, size: int | None, imbalance: float) -> Tensor:
        if size is not None and not (isinstance(size, int) and 0 < size <= len(labels)):
            raise ValueError(
                f"train_size={size!r} is given, but 1 to {len(labels)} is expected, which {self.benchmark.name} has; "
                "None takes all."
            )
        generator = stream(self.seed, "draw")
        if imbalance != 1:
            return imbalanced_draw(labels, size, imbalance, self.benchmark.num_classes, generator)
        if size is None or size == len(labels):
            return torch.arange(len(labels))
        return reference_split(labels, size / len(labels), self.benchmark.num_classes, generator)[1]

    def _correct(self, train: Part) -> Part:
        """The correctly labelled samples of ``train``; its attributes likewise."""
        if self.clean_labels is None or self.noise_mask is None:
            raise ValueError(
                f"correct_only=True is given, but nobody knows which labels of {self.benchmark.name} are wrong; leave it "
                "out."
            )
        correct = (~self.noise_mask).nonzero().squeeze(1)
        self._keep(correct)
        return train.subset(correct)

    def _keep(self, index: Tensor) -> None:
        """Keep what is known of these training samples alone."""
        for name in ("train_index", "labels", "clean_labels", "noise_mask"):
            known = getattr(self, name)
            setattr(self, name, None if known is None else known[index])

    def _labelled(self, train: Part) -> LabelledData:
        seen = ViewedDataset(train.inputs, train.labels, self.benchmark.views)
        return LabelledData(
            given=train.labels,
            num_classes=self.num_classes,
            clean=self.clean_labels,
            class_map=self.benchmark.class_map,
            features=lambda at: seen.normalised(at).flatten(1),
            annotations={name: labels[self.train_index] for name, labels in self.benchmark.annotations.items()},
            name=self.benchmark.name,
        )

    def _dataset(self, part: Part, augmented: bool = False) -> ViewedDataset | MemoryDataset:
        if not self.in_memory:
            return ViewedDataset(part.inputs, part.labels, self.benchmark.views, augmented)
        return MemoryDataset(_stacked(part.inputs), part.labels, augmented)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.benchmark.num_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input of the network: (C, H, W) of images."""
        return tuple(ViewedDataset(self._train.inputs, self._train.labels, self.benchmark.views)[0][0].shape)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment and normalise a batch out of memory; any other is left as it is."""
        if not isinstance(batch, Stored):
            return batch
        inputs, augment = batch.inputs, self.benchmark.views.train
        if batch.index is not None and isinstance(augment, CropFlip):
            inputs = augment.batch(inputs, self._drawn(augment, inputs.device)[batch.index])
        inputs = self.benchmark.views.normalised(inputs)
        if self.trainer is not None:  # which converts the inputs of other batches before
            inputs = self.trainer.precision_plugin.convert_input(inputs)
        return inputs, batch.labels

    def _drawn(self, augment: CropFlip, device: torch.device) -> Tensor:
        """The epoch's draws for every training sample, whatever the plan, the ranks and the workers are."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        if self._draws is None or self._draws[0] != epoch or self._draws[1].device != device:
            drawn = augment.draws(len(self.labels), stream(self.seed, "augmentation", epoch))
            self._draws = epoch, drawn.to(device)
        return self._draws[1]

    def state_dict(self) -> dict[str, Any]:
        """What is trained on, as a digest: a checkpoint's trajectories belong to these labels, and images in files."""
        digest = hashlib.sha256()
        for part in (self.train_index, self.labels):
            digest.update(part.numpy().tobytes())
        for path in self.paths() or ():
            digest.update(os.fsencode(path) + b"\0")
        return {"labels": digest.hexdigest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint of other training data.

        Raises:
            ValueError: If its run trained on other samples or labels.
        """
        if state_dict != self.state_dict():
            raise ValueError(
                "The checkpoint is of a run on other training samples or labels, but its trajectories are of those; give "
                "the data set, noise, reference and seed that it was made with."
            )

    def _loader(self, dataset: Dataset[Any], shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_it_is if self.in_memory else None,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """The noisy training set, shuffled."""
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The evaluated parts, in their order."""
        return [self._loader(part) for part in self.evaluated_sets.values()]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """The evaluated parts, in their order."""
        return self.val_dataloader()

    @property
    def images(self) -> Inputs | None:
        """Of the training samples, as they are on disk: uint8[n, C, H, W] or files; None if they are no images."""
        return self._train.inputs if isinstance(self.benchmark.views, Views) else None

    def paths(self) -> list[str] | None:
        """Where the images of the training samples are, below the data set's folder; None if not in files of their own."""
        images = self._train.inputs
        return images.paths() if isinstance(images, ImageFiles) else None

    def reference_dataloader(self) -> DataLoader[Any] | None:
        """The clean reference set; None where there is none."""
        return None if self.reference_set is None else self._loader(self.reference_set)


def _stacked(inputs: Inputs) -> Tensor:
    return inputs if isinstance(inputs, Tensor) else inputs.stacked()


def _mended(benchmark: Benchmark, labels: Tensor, noise: Noise) -> Part:
    """The benchmark's training data with other labels, of which -1 is none."""
    if not isinstance(noise, Given):
        raise ValueError(
            f"Mended labels and the noise {noise!r} are given, but such labels are trained on as they are; leave the noise "
            "out, or give noise=given."
        )
    n, classes = len(benchmark.train), benchmark.num_classes
    if (
        labels.shape != (n,)
        or labels.dtype != torch.int64
        or not -1 <= int(labels.min()) <= int(labels.max()) < classes
    ):
        raise ValueError(
            f"Mended labels {labels.dtype}{list(labels.shape)} are given, but int64[{n}] from -1 to {classes - 1} is "
            f"expected, as {benchmark.name} has that many samples and classes; give one for each."
        )
    return Part(benchmark.train.inputs, labels)


def _check_memory(benchmark: Benchmark) -> None:
    parts = (benchmark.train, *benchmark.evaluated.values(), *filter(None, [benchmark.reference]))
    sizes = {part.inputs.size if isinstance(part.inputs, ImageFiles) else part.inputs.shape[2:] for part in parts}
    views = benchmark.views
    is_batched = views.train is None or (isinstance(views.train, CropFlip) and sizes == {(views.train.size,) * 2})
    if None in sizes or views.evaluate is not None or not is_batched:
        raise ValueError(
            f"data.in_memory=true is given, but {benchmark.name}'s images differ in size or are cropped one by one; set "
            "data.in_memory=false."
        )
