"""A benchmark's images in memory, and the ordinary map-style data set that serves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class ImageSets:
    """The training and test images of a benchmark, with their clean labels.

    Attributes:
        name: The benchmark.
        train_images: uint8[n, C, H, W].
        train_labels: int64[n].
        test_images: uint8[m, C, H, W].
        test_labels: int64[m].
        classes: Their names; a label is an index into them.
        mean: Of each channel, with pixels in [0, 1].
        std: Of each channel, with pixels in [0, 1].
        class_map: The benchmark's map of asymmetric noise; None means pair flip.
        augment: Applied to a training image, uint8[C, H, W]; None for no augmentation.

    Raises:
        ValueError: If images, labels, classes and channel statistics do not fit each other.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_map: dict[int, int] | None = None
    augment: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        parts = (("train", self.train_images, self.train_labels), ("test", self.test_images, self.test_labels))
        for part, images, labels in parts:
            fit = images.ndim == 4 and labels.shape == images.shape[:1]
            if not fit or images.dtype != torch.uint8 or labels.dtype != torch.int64:
                raise ValueError(
                    f"{self.name}'s {part} part has images {images.dtype}{list(images.shape)} and labels {labels.dtype}"
                    f"{list(labels.shape)}, but uint8[n, C, H, W] and int64[n] are expected; its files may be damaged."
                )
            outside = sorted(set(labels.tolist()) - set(range(self.num_classes)))
            if outside or not len(labels):
                raise ValueError(
                    f"{self.name}'s {part} part has {len(labels)} labels, {outside[:5]} among them, but at least one, "
                    f"and each from 0 to {self.num_classes - 1}, is expected; its files may be damaged."
                )
            if not len(self.mean) == len(self.std) == images.shape[1]:
                raise ValueError(
                    f"{self.name} has {len(self.mean)} means and {len(self.std)} stds, but its {part} images have "
                    f"{images.shape[1]} channels; give one of each a channel."
                )

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Items are (normalised image float32[C, H, W], label int64[]).

    Args:
        images: uint8[n, C, H, W].
        labels: int64[n], what is trained on.
        mean: Of each channel, with pixels in [0, 1].
        std: Of each channel, with pixels in [0, 1].
        clean_labels: int64[n]; by default ``labels``.
        augment: Applied to each uint8 image.

    Attributes:
        noise_mask: bool[n], where ``labels`` differs from ``clean_labels``. For measurement, never for training.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        clean_labels: Tensor | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.clean_labels = labels if clean_labels is None else clean_labels
        self.noise_mask = self.labels != self.clean_labels
        self.augment = augment
        self._shift = 255 * torch.tensor(mean).view(-1, 1, 1)
        self._scale = 255 * torch.tensor(std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Items of a whole batch, normalised in one step; the loader's fetcher prefers this."""
        at = torch.as_tensor(indices)
        images = self.images[at]
        if self.augment is not None:
            images = torch.stack([self.augment(image) for image in images])
        images = (images - self._shift) / self._scale
        return list(zip(images, self.labels[at], strict=True))
