"""The clean reference set, split off the training data before any label is made wrong, and other draws by class."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_number
from alignprune_pl.data.files import ImageFiles
from alignprune_pl.data.sets import Part
from alignprune_pl.data.views import are_images
from alignprune_pl.noise import LabelledData, Symmetric
from alignprune_pl.noise.base import by_class, check_labels


def reference_split(
    labels: Tensor, share: float, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split off a stratified share of max(1, round(share * n)) samples.

    A class gets its exact quota rounded down, and the classes with the largest remainders one more.

    Args:
        labels: int64[n], the clean labels.
        share: Of the samples, in (0, 1); the paper's is about 0.01.
        num_classes: C.
        generator: Draws the samples.

    Returns:
        The indices that remain for training and those of the reference, both int64 and ascending.

    Raises:
        ValueError: If ``share`` is outside (0, 1) or leaves nothing to train on, or a label is out of range.

    Example:
        >>> train, reference = reference_split(torch.arange(100) % 4, 0.08, 4, torch.Generator())
        >>> len(train), torch.bincount(torch.arange(100)[reference] % 4).tolist()
        (92, [2, 2, 2, 2])
    """
    check_number("reference share", share, "(0, 1)", "a share", "the paper uses 0.01")
    check_labels(labels, num_classes)
    size = max(1, round(share * len(labels)))
    if size >= len(labels):
        raise ValueError(
            f"reference share={share} of {len(labels)} samples is given, but that leaves nothing to train on; "
            "use a smaller share or more data."
        )
    quota = torch.bincount(labels, minlength=num_classes).double() * size / len(labels)
    is_reference = _drawn(labels, _apportioned(quota), generator)
    return (~is_reference).nonzero().squeeze(1), is_reference.nonzero().squeeze(1)


def one_of_each(images: Tensor, labels: Tensor) -> Tensor:
    """One sample of each image, but none of an image that has several labels: what a reference is drawn from.

    Args:
        images: int64[n], which image each sample is.
        labels: int64[n].

    Returns:
        Their places, int64 and ascending.

    Example:
        >>> one_of_each(torch.tensor([3, 1, 3, 2, 2]), torch.tensor([0, 0, 0, 0, 1])).tolist()
        [0, 1]
    """
    _, image, count = images.unique(return_inverse=True, return_counts=True)
    place = torch.arange(len(images))
    first = torch.full_like(count, len(images)).scatter_reduce_(0, image, place, "amin")
    differs = torch.zeros_like(count).index_add_(0, image, (labels != labels[first[image]]).long())
    return first[differs == 0].sort().values


def others(images: Tensor, chosen: Tensor) -> Tensor:
    """The samples whose image none of the chosen ones is.

    Args:
        images: int64[n], which image each sample is.
        chosen: int64[k], places of samples.

    Returns:
        Their places, int64 and ascending.

    Example:
        >>> others(torch.tensor([3, 1, 3, 2]), torch.tensor([0])).tolist()
        [1, 3]
    """
    return (~torch.isin(images, images[chosen])).nonzero().squeeze(1)


def imbalanced_draw(
    labels: Tensor, size: int | None, imbalance: float, num_classes: int, generator: torch.Generator
) -> Tensor:
    """Draw samples so that the classes' sizes fall exponentially, from the first class to the last.

    Args:
        labels: int64[n], the clean labels.
        size: How many samples; None for as many as the classes allow.
        imbalance: The first class's size divided by the last one's, at least 1.
        num_classes: C, at least 2.
        generator: Draws the samples.

    Returns:
        Their indices, int64 and ascending.

    Raises:
        ValueError: If ``imbalance`` < 1, or a class has too few samples.

    Source: Cao et al., NeurIPS 2019 (arXiv 1906.07413), section 4: long-tailed imbalance.
    """
    check_number("imbalance", imbalance, "[1, inf)", "a number", "10 is usual")
    check_labels(labels, num_classes)
    has = torch.bincount(labels, minlength=num_classes)
    profile = torch.tensor([imbalance ** (-c / (num_classes - 1)) for c in range(num_classes)], dtype=torch.float64)
    most = int((float((has / profile).min()) * profile).floor().sum())
    count = _apportioned(profile * (most if size is None else size) / profile.sum())
    if (count > has).any() or (count == 0).any():
        raise ValueError(
            f"train_size={size} and imbalance={imbalance} are given, but at most {most} samples, and at least one of each "
            "class, are expected with it; use another train_size or a smaller imbalance."
        )
    return _drawn(labels, count, generator).nonzero().squeeze(1)


def pseudo_clean(
    losses: Tensor, labels: Tensor, share: float, among: float, num_classes: int, generator: torch.Generator
) -> Tensor:
    """Draw a reference from noisy training data: of each class some of the samples that a network fits first.

    Args:
        losses: float[n], such as the mean over the first epochs; NaN where not observed.
        labels: int64[n], as they are given.
        share: Of all samples, in (0, 1).
        among: The share of each class, those with the lowest losses, from which they are drawn. The smaller, the purer
            and the easier a reference.
        num_classes: C.
        generator: Draws the samples.

    Returns:
        Their indices, int64 and ascending.

    Raises:
        ValueError: If ``share`` or ``among`` is out of range, or no sample would be drawn.

    Source: the pseudo-clean reference of AlignPrune (arXiv 2604.07306) is picked from the training data; how, is ours.
    """
    check_labels(labels, num_classes)
    check_shares(share, among)
    place = losses.nan_to_num(torch.inf).argsort(stable=True).argsort(stable=True)
    is_low = torch.zeros(len(labels), dtype=torch.bool)
    count = _apportioned(torch.bincount(labels, minlength=num_classes).double() * share)
    for members, wanted in zip(by_class(torch.arange(len(labels)), labels, num_classes), count.tolist(), strict=True):
        pool = max(wanted, round(among * len(members)))
        is_low[members[place[members].argsort()[:pool]]] = True
    if count.sum() == 0:
        raise ValueError(
            f"reference share={share} of {len(labels)} samples is given, but at least one is expected; use a larger share."
        )
    low = is_low.nonzero().squeeze(1)
    return low[_drawn(labels[low], count, generator)]


def _apportioned(quota: Tensor) -> Tensor:
    """Whole numbers with the sum of the quotas: each rounded down, those with the largest remainders one more."""
    count = quota.floor().long()
    missing = round(float(quota.sum())) - int(count.sum())
    count[(quota - count).argsort(descending=True, stable=True)[:missing]] += 1
    return count


def _drawn(labels: Tensor, count: Tensor, generator: torch.Generator) -> Tensor:
    """Mark so many samples of each class, bool[n]."""
    is_drawn = torch.zeros(len(labels), dtype=torch.bool)
    for members, wanted in zip(by_class(torch.arange(len(labels)), labels, len(count)), count.tolist(), strict=True):
        is_drawn[members[torch.randperm(len(members), generator=generator)[:wanted]]] = True
    return is_drawn


def disturbed(reference: Part, wrong: float, pixel_noise: float, num_classes: int, generator: torch.Generator) -> Part:
    """A reference as it should not be, to measure what that does.

    Args:
        reference: Clean.
        wrong: Share of its labels that becomes another class, each as likely.
        pixel_noise: Standard deviation of normal noise added to the pixels in [0, 1], as of another camera.
        num_classes: C.
        generator: Draws both.

    Returns:
        The reference itself where both are zero.

    Raises:
        ValueError: If ``wrong`` is outside [0, 1), ``pixel_noise`` is negative, or asked of files or of no images.
    """
    check_disturbance(wrong, pixel_noise)
    inputs, labels = reference.inputs, reference.labels
    if wrong > 0:
        labels = Symmetric(wrong)(LabelledData(labels, num_classes, labels), generator)[0]
    if pixel_noise > 0:
        if isinstance(inputs, ImageFiles) or not are_images(inputs):
            are = "images are read from files one by one" if isinstance(inputs, ImageFiles) else "inputs are no images"
            raise ValueError(
                f"reference pixel_noise={pixel_noise} is given, but the reference's {are}; use a data set of images that is "
                "held in memory, such as fashion_mnist."
            )
        images = inputs if isinstance(inputs, Tensor) else inputs.stacked()
        noise = torch.randn(images.shape, generator=generator) * (255 * pixel_noise)
        inputs = (images + noise).round().clamp(0, 255).to(torch.uint8)
    return Part(inputs, labels)


def check_disturbance(wrong: float, pixel_noise: float) -> None:
    """Refuse what :func:`disturbed` cannot do.

    Raises:
        ValueError: If ``wrong`` is outside [0, 1) or ``pixel_noise`` is negative.
    """
    check_number("reference wrong", wrong, "[0, 1)", "a share")
    check_number("reference pixel_noise", pixel_noise, "[0, inf)", "a deviation of pixels in [0, 1]")


def check_shares(share: float, among: float) -> None:
    """Refuse what :func:`pseudo_clean` cannot draw.

    Raises:
        ValueError: If ``share`` or ``among`` is out of range.
    """
    if not (0 < share <= among <= 1 and share < 1):
        raise ValueError(
            f"reference share={share!r} and among={among!r} are given, but shares of the samples are expected, the first "
            "one below 1 and not above the second."
        )
