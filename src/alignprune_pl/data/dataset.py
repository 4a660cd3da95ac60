"""The map-style data sets that serve a benchmark's images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignprune_pl.data.files import Inputs
from alignprune_pl.data.views import View, Views

T = TypeVar("T")


class ViewedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Items are (normalised image float32[C, h, w], label int64[]).

    Args:
        inputs: uint8[n, C, H, W], or files.
        labels: int64[n].
        views: How the images are looked at.
        augmented: Whether by the view of training or that of evaluation.
    """

    def __init__(self, inputs: Inputs, labels: Tensor, views: Views, augmented: bool = False) -> None:
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
        return list(zip(self.pixels(at), self.labels[at], strict=True))

    def pixels(self, at: Tensor) -> Tensor:
        """The normalised images of the samples ``at`` (int64[b]), float32[b, C, h, w]."""
        if self._view is None and isinstance(self.inputs, Tensor):
            return self.views.normalised(self.inputs[at])
        images = [self.inputs[index] for index in at.tolist()]
        return self.views.normalised(
            torch.stack([image if self._view is None else self._view(image) for image in images])
        )


class MemoryDataset(Dataset[tuple[Tensor, ...]]):
    """Batches straight out of memory, as uint8: they are augmented and normalised on the device that trains.

    A batch is (images uint8[b, C, H, W], labels int64[b]), and the samples' indices int64[b] where it is to be
    augmented. The loader needs ``collate_fn=as_it_is``.

    Args:
        inputs: uint8[n, C, H, W].
        labels: int64[n].
        augmented: Whether it is trained on.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, augmented: bool = False) -> None:
        self.inputs = inputs
        self.labels = labels
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """A whole batch by one indexing."""
        at = torch.as_tensor(indices)
        batch = (self.inputs[at], self.labels[at])
        return (*batch, at) if self.augmented else batch


def as_it_is(batch: T) -> T:
    """Collate nothing: the batch is one already."""
    return batch
