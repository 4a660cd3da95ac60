"""The map-style data sets that serve a benchmark's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignprune_pl.data.files import ImageFiles, Inputs
from alignprune_pl.data.views import Columns, View, Views

T = TypeVar("T")


class ViewedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Items are (normalised input float32[...], label int64[]); an image is float32[C, h, w].

    Args:
        inputs: Images uint8[n, C, H, W] or other numbers [n, ...], in memory or in an array; or files of images.
        labels: int64[n].
        views: How the inputs are looked at.
        augmented: Whether by the view of training or that of evaluation.
    """

    def __init__(self, inputs: Inputs, labels: Tensor, views: Views | Columns, augmented: bool = False) -> None:
        self.inputs = inputs
        self.labels = labels
        self.views = views
        self._view: View | None = views.train if augmented else views.evaluate

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Items of a whole batch, normalised in one step; the loader's fetcher prefers this."""
        at = torch.as_tensor(indices)
        return list(zip(self.normalised(at), self.labels[at], strict=True))

    def normalised(self, at: Tensor) -> Tensor:
        """The normalised inputs of the samples ``at`` (int64[b]), float32[b, ...]."""
        if self._view is None and not isinstance(self.inputs, ImageFiles):
            return self.views.normalised(self.inputs[at])
        images = [self.inputs[index] for index in at.tolist()]
        return self.views.normalised(
            torch.stack([image if self._view is None else self._view(image) for image in images])
        )


class Stored:
    """A batch as it is in memory, still to be augmented and normalised on the device that trains.

    No tuple: a Trainer of low precision would round the numbers of one before they are normalised.

    Attributes:
        inputs: [b, ...].
        labels: int64[b].
        index: The samples' indices, int64[b], where they are to be augmented.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, index: Tensor | None = None) -> None:
        self.inputs = inputs
        self.labels = labels
        self.index = index

    def to(self, *args: Any, **kwargs: Any) -> Stored:
        """Itself on a device."""
        index = None if self.index is None else self.index.to(*args, **kwargs)
        return Stored(self.inputs.to(*args, **kwargs), self.labels.to(*args, **kwargs), index)

    def pin_memory(self) -> Stored:
        """Itself in memory that is copied to a device faster."""
        index = None if self.index is None else self.index.pin_memory()
        return Stored(self.inputs.pin_memory(), self.labels.pin_memory(), index)


class MemoryDataset(Dataset[Any]):
    """Batches straight out of memory, with the inputs as they are stored. The loader needs ``collate_fn=as_it_is``.

    Args:
        inputs: Images uint8[n, C, H, W] or other numbers [n, ...].
        labels: int64[n].
        augmented: Whether it is trained on.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, augmented: bool = False) -> None:
        self.inputs = inputs
        self.labels = labels
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> Stored:
        """A whole batch by one indexing."""
        at = torch.as_tensor(indices)
        return Stored(self.inputs[at], self.labels[at], at if self.augmented else None)


def as_it_is(batch: T) -> T:
    """Collate nothing: the batch is one already."""
    return batch
