"""A benchmark: images, or other inputs, with the labels in its files, and what is known of their truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from alignprune_pl.data.files import DataFileError, ImageFiles, Inputs
from alignprune_pl.data.views import Columns, Views


@dataclass(frozen=True)
class Part:
    """Inputs of a network, such as images, and their labels.

    Attributes:
        inputs: Images uint8[n, C, H, W] or other numbers [n, ...], in memory or in an array; or files of images.
        labels: int64[n].
    """

    inputs: Inputs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Part:
        """The samples ``indices`` (int64[k]), in their order."""
        inputs = self.inputs[indices] if isinstance(self.inputs, Tensor) else self.inputs.subset(indices)
        return Part(inputs, self.labels[indices])


@dataclass(frozen=True)
class Benchmark:
    """A data set as its files have it.

    Attributes:
        name: The benchmark.
        classes: Their names; a label is an index into them.
        views: Augmentation, crops and normalisation of images; or the columns of other inputs.
        train: What is trained on, with the labels that its files give.
        evaluated: What accuracy is measured on, by name, with clean labels. The first one is *the* accuracy.
        clean_labels: int64[n] of ``train``; None where nobody knows them.
        class_map: The benchmark's map of asymmetric noise; None means pair flip.
        annotations: Sets of human labels of ``train`` by name, int64[n].
        reference: The clean reference, where the benchmark has one apart from ``train``; else it is split off.
        reference_from: Where that came from, for the reader.

    Raises:
        ValueError: If inputs, labels, classes and statistics do not fit each other.
        DataFileError: If an image of the training data or of the reference is in another part too.
    """

    name: str
    classes: tuple[str, ...]
    views: Views | Columns
    train: Part
    evaluated: Mapping[str, Part]
    clean_labels: Tensor | None = None
    class_map: Mapping[int, int] | None = None
    annotations: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Part | None = None
    reference_from: str = ""

    def __post_init__(self) -> None:
        for name, part in self._parts().items():
            self._check(name, part)
        self._check_images()
        if isinstance(self.views, Views) and not len(self.views.mean) == len(self.views.std) == self._channels():
            raise ValueError(
                f"{self.name} has {len(self.views.mean)} means and {len(self.views.std)} stds, but its images have "
                f"{self._channels()} channels; give one of each a channel."
            )
        labelled = {"clean labels": self.clean_labels, **self.annotations}
        for name, labels in labelled.items():
            if labels is not None and labels.shape != self.train.labels.shape:
                raise ValueError(
                    f"{self.name} has {len(self.train)} training samples, but {len(labels)} of {name}; its files may "
                    "be damaged."
                )

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    def _channels(self) -> int:
        return 3 if isinstance(self.train.inputs, ImageFiles) else self.train.inputs.shape[1]

    @cached_property
    def images_of(self) -> Mapping[str, Tensor]:
        """Which image each sample of a part is, as a number, int64[n]; one file is one image, by whatever link or path.

        Those in memory or in an array are one each.
        """
        numbers: dict[bytes, int] = {}
        return {
            name: torch.tensor([numbers.setdefault(path, len(numbers)) for path in part.inputs.resolved()])
            if isinstance(part.inputs, ImageFiles)
            else torch.arange(len(part))
            for name, part in self._parts().items()
        }

    def _parts(self) -> dict[str, Part]:
        return {
            "train": self.train,
            **self.evaluated,
            **({} if self.reference is None else {"reference": self.reference}),
        }

    def _check_images(self) -> None:
        """Each image is to be in one part alone; within it, one that is there several times is told."""
        files = {name: part.inputs for name, part in self._parts().items() if isinstance(part.inputs, ImageFiles)}
        for name in files:
            for other in ("train", "reference"):
                if name not in ("train", other) and other in files:
                    self._check_apart(files, name, other)
        for name in files:
            told = repeated(self.images_of[name], self._parts()[name].labels, files[name], self.classes)
            if told:
                rank_zero_info(f"{self.name}, {name} part: {told}.")

    def _check_apart(self, files: Mapping[str, ImageFiles], name: str, other: str) -> None:
        ours, theirs = self.images_of[name], self.images_of[other]
        shared = torch.isin(ours, theirs).nonzero().squeeze(1)
        if not len(shared):
            return
        path = files[name].path(int(shared[0]))
        there = files[other].path(int((theirs == ours[shared[0]]).nonzero()[0]))
        alias = f" (as {there})" if there != path else ""
        raise DataFileError(
            f"{path} is in both {self.name}'s {other}{alias} and its {name} part, with {len(shared) - 1} more, but each "
            "image is to be in one of them; take it out of the other."
        )

    def _check(self, name: str, part: Part) -> None:
        inputs, labels = part.inputs, part.labels
        fits = isinstance(inputs, ImageFiles) or self.views.fits(inputs)
        if not fits or len(labels) != len(inputs) or labels.dtype != torch.int64 or labels.ndim != 1:
            are = f"files[{len(inputs)}]" if isinstance(inputs, ImageFiles) else f"{inputs.dtype}{list(inputs.shape)}"
            raise ValueError(
                f"{self.name}'s {name} part has inputs {are} and labels {labels.dtype}{list(labels.shape)}, but "
                f"{self.views.takes}, and int64[n], are expected; its files may be damaged."
            )
        outside = sorted(set(labels.unique().tolist()) - set(range(self.num_classes)))
        if outside or not len(labels):
            raise ValueError(
                f"{self.name}'s {name} part has {len(labels)} labels, {outside[:5]} among them, but at least one, and "
                f"each from 0 to {self.num_classes - 1}, is expected; its files may be damaged."
            )


def repeated(images: Tensor, labels: Tensor, files: ImageFiles, classes: tuple[str, ...]) -> str:
    """How many samples show an image that another one shows, and how many images have several labels; "" if none.

    Args:
        images: int64[n], which image each sample is.
        labels: int64[n].
        files: The images, to name an example.
        classes: The names of the labels.
    """
    at, count = images.unique(return_counts=True)
    if len(at) == len(images):
        return ""
    first = int((images == at[count > 1][0]).nonzero()[0])
    told = f"{len(images) - len(at):,} of {len(images):,} samples repeat an image, such as {files.path(first)}, and are kept"
    pairs = (images * len(classes) + labels).unique()
    labelled, of_each = (pairs // len(classes)).unique(return_counts=True)
    if not (of_each > 1).any():
        return told
    shown = images == labelled[of_each > 1][0]
    names = " and ".join(classes[label] for label in labels[shown].unique().tolist())
    where = files.path(int(shown.nonzero()[0]))
    return f"{told}; images with more than one label: {int((of_each > 1).sum()):,}, such as {where} ({names})"
