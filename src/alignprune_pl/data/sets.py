"""A benchmark: images with the labels in its files, and what is known of their truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignprune_pl.data.files import ImageFiles, Images
from alignprune_pl.data.views import Views


@dataclass(frozen=True)
class Part:
    """Images and their labels.

    Attributes:
        images: uint8[n, C, H, W], or files.
        labels: int64[n].
    """

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Part:
        """The samples ``indices`` (int64[k]), in their order."""
        images = self.images[indices] if isinstance(self.images, Tensor) else self.images.subset(indices)
        return Part(images, self.labels[indices])


@dataclass(frozen=True)
class Benchmark:
    """A data set as its files have it.

    Attributes:
        name: The benchmark.
        classes: Their names; a label is an index into them.
        views: Augmentation, crops and normalisation.
        train: What is trained on, with the labels that its files give.
        evaluated: What accuracy is measured on, by name, with clean labels. The first one is *the* accuracy.
        clean_labels: int64[n] of ``train``; None where nobody knows them.
        class_map: The benchmark's map of asymmetric noise; None means pair flip.
        annotations: Sets of human labels of ``train`` by name, int64[n].
        reference: The clean reference, where the benchmark has one apart from ``train``; else it is split off.
        reference_from: Where that came from, for the reader.

    Raises:
        ValueError: If images, labels, classes and channel statistics do not fit each other.
    """

    name: str
    classes: tuple[str, ...]
    views: Views
    train: Part
    evaluated: Mapping[str, Part]
    clean_labels: Tensor | None = None
    class_map: Mapping[int, int] | None = None
    annotations: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Part | None = None
    reference_from: str = ""

    def __post_init__(self) -> None:
        parts = {"train": self.train, **self.evaluated}
        if self.reference is not None:
            parts["reference"] = self.reference
        for name, part in parts.items():
            self._check(name, part)
        for name, part in list(parts.items())[1:]:
            self._check_apart(name, part)
        if not len(self.views.mean) == len(self.views.std) == self._channels():
            raise ValueError(
                f"{self.name} has {len(self.views.mean)} means and {len(self.views.std)} stds, but its images have "
                f"{self._channels()} channels; give one of each a channel."
            )
        labelled = {"clean labels": self.clean_labels, **self.annotations}
        for name, labels in labelled.items():
            if labels is not None and labels.shape != self.train.labels.shape:
                raise ValueError(
                    f"{self.name} has {len(self.train)} training images, but {len(labels)} of {name}; its files may "
                    "be damaged."
                )

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    def _channels(self) -> int:
        return self.train.images.shape[1] if isinstance(self.train.images, Tensor) else 3

    def _check_apart(self, name: str, part: Part) -> None:
        """What is evaluated on, and the reference, must be no part of what is trained on; nor of each other."""
        others = {"train": self.train}
        if name != "reference" and self.reference is not None:
            others["reference"] = self.reference
        for other_name, other in others.items():
            if isinstance(part.images, ImageFiles) and isinstance(other.images, ImageFiles):
                shared = other.images.shared_with(part.images)
                if shared is not None:
                    raise ValueError(
                        f"{shared} is in both {self.name}'s {other_name} and its {name} part, but each image is to be in "
                        "one of them; take it out of the other."
                    )

    def _check(self, name: str, part: Part) -> None:
        images, labels = part.images, part.labels
        whole = not isinstance(images, Tensor) or (images.ndim == 4 and images.dtype == torch.uint8)
        if not whole or len(labels) != len(images) or labels.dtype != torch.int64 or labels.ndim != 1:
            described = f"{images.dtype}{list(images.shape)}" if isinstance(images, Tensor) else f"files[{len(images)}]"
            raise ValueError(
                f"{self.name}'s {name} part has images {described} and labels {labels.dtype}{list(labels.shape)}, but "
                "uint8[n, C, H, W] or n files, and int64[n], are expected; its files may be damaged."
            )
        outside = sorted(set(labels.unique().tolist()) - set(range(self.num_classes)))
        if outside or not len(labels):
            raise ValueError(
                f"{self.name}'s {name} part has {len(labels)} labels, {outside[:5]} among them, but at least one, and "
                f"each from 0 to {self.num_classes - 1}, is expected; its files may be damaged."
            )
