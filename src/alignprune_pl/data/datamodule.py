"""A benchmark with label noise and a clean reference set, as a Lightning data module."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader

from alignprune_pl.data.reference import reference_split
from alignprune_pl.data.sets import ImageDataset, ImageSets
from alignprune_pl.noise import Noise
from alignprune_pl.plan import epoch_generator


class NoisyImages(pl.LightningDataModule):
    """Splits off the reference, then makes labels of the remaining training samples wrong.

    Validation and test both serve the whole test set, as the literature does: accuracy is followed over the
    epochs, and nothing is selected by it.

    Args:
        sets: The benchmark.
        noise: The noise model.
        reference_share: Share of the training data that becomes the clean reference.
        batch_size: Samples a batch.
        num_workers: Worker processes of each loader.
        seed: Of the split and of the noise, each with its own generator.

    Attributes:
        train_set: What is trained on; its ``noise_mask`` is for measurement only.
        reference_set: Clean, and no part of ``train_set``.
        test_set: Clean.

    Raises:
        ValueError: If ``batch_size`` < 1, ``num_workers`` < 0 or ``reference_share`` is outside (0, 1).
    """

    def __init__(
        self,
        sets: ImageSets,
        noise: Noise,
        reference_share: float = 0.01,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is given, but at least 1 is expected.")
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers} is given, but 0 or more is expected.")
        self.sets = sets
        self.batch_size = batch_size
        self.num_workers = num_workers
        labels = sets.train_labels
        # Streams -1 and -2 of the seed: no epoch's plan has them.
        train, reference = reference_split(labels, reference_share, sets.num_classes, epoch_generator(seed, -1))
        noisy, _ = noise(labels[train], sets.num_classes, sets.class_map, epoch_generator(seed, -2))
        self.train_set = self._dataset(sets.train_images[train], noisy, labels[train], augmented=True)
        self.reference_set = self._dataset(sets.train_images[reference], labels[reference])
        self.test_set = self._dataset(sets.test_images, sets.test_labels)

    def _dataset(
        self, images: Tensor, labels: Tensor, clean_labels: Tensor | None = None, augmented: bool = False
    ) -> ImageDataset:
        augment = self.sets.augment if augmented else None
        return ImageDataset(images, labels, self.sets.mean, self.sets.std, clean_labels, augment)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.sets.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.sets.train_images.shape[1:]
        return channels, height, width

    @property
    def noise_mask(self) -> Tensor:
        """bool[len(train_set)], where a training label is wrong; for measurement only."""
        return self.train_set.noise_mask

    @property
    def noise_rate(self) -> float:
        """The realised share of wrong labels in the training set."""
        return float(self.train_set.noise_mask.float().mean())

    def _loader(self, dataset: ImageDataset, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """The noisy training set, shuffled."""
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The test set."""
        return self._loader(self.test_set)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test set."""
        return self._loader(self.test_set)

    def reference_dataloader(self) -> DataLoader[Any]:
        """The clean reference set."""
        return self._loader(self.reference_set)
