"""Instance-dependent noise: how likely a label is wrong, and for which class, depends on the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from alignprune_pl.core.checking import check_number
from alignprune_pl.noise.base import (
    LabelledData,
    by_class,
    check_another_class,
    check_labels,
    check_noise_ratio,
    draw_class,
)

# Numbers in a block of images or of their logits: 32 MB each in float64.
_BLOCK = 1 << 22


def instance_noise(
    labels: Tensor,
    features: Callable[[Tensor], Tensor],
    ratio: float,
    num_classes: int,
    generator: torch.Generator,
    std: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Flip each label with a rate of its own, to a class that the image is projected to.

    Sample i is wrong with probability q_i, normal around the ratio and truncated to [0, 1]; see :func:`flip_rates`. It
    then is class k with probability softmax_k(x_i W_y), with y itself masked out. x_i is its image and y its class. W_y is a
    random projection [S, C] of that class, with standard normal entries. (Xia et al., NeurIPS 2020, arXiv 2006.07836.)

    The draws come in this order: all rates, which samples are wrong, and where in its distribution each one's class is.
    Then comes the projection of each class from 0 to C-1 that has a wrong sample; no other one is used. The seed decides
    which classes these are, so the same seed gives the same labels. Only images of wrong samples are looked at, a class at
    a time and in small blocks. A projection takes 12 * S * C bytes while it is drawn.

    Args:
        labels: int64[n], the clean labels.
        features: int64[b] sample indices to their normalised images, flattened, floating point [b, S].
        ratio: Centre of the flip rates, in [0, 1).
        num_classes: C, at least 2.
        generator: Draws everything.
        std: Of the flip rates before truncation; 0 flips every label with the probability ``ratio``.

    Returns:
        The noisy labels, int64[n], and the noise mask, bool[n].

    Raises:
        ValueError: If the ratio, ``std`` or a label is out of range, there is no other class, or ``features`` gives
            anything but finite numbers of one shape.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels, images = torch.arange(100) % 4, torch.randn(100, 12, generator=generator)
        >>> noisy, mask = instance_noise(labels, lambda at: images[at], 0.4, 4, generator)
        >>> noisy.shape, 20 < int(mask.sum()) < 60
        (torch.Size([100]), True)
    """
    check_noise_ratio(ratio)
    check_std(std)
    check_labels(labels, num_classes)
    check_another_class(num_classes)
    rates = flip_rates(len(labels), ratio, std, generator)
    wrong = (_uniform(len(labels), generator) < rates).nonzero().squeeze(1)
    position = _uniform(len(labels), generator)
    noisy = labels.clone()
    size = 0
    for own, members in enumerate(by_class(wrong, labels, num_classes)):
        if not len(members):
            continue
        size = size or _look_at(features, members[:1]).shape[1]
        projection = torch.randn(size, num_classes, generator=generator).double()
        for block in members.split(max(1, _BLOCK // max(size, num_classes))):
            images = _look_at(features, block, size)
            noisy[block] = draw_class(wrong_classes(images, projection, own), position[block].unsqueeze(1)).squeeze(1)
    return noisy, noisy != labels


def flip_rates(n: int, ratio: float, std: float, generator: torch.Generator) -> Tensor:
    """Draw from a normal (ratio, std) truncated to [0, 1].

    The truncation moves the mean. With a standard deviation of 0.1 it is 0.080 at a ratio of 0, 0.129 at 0.1, 0.206 at
    0.2, 0.400 at 0.4 and 0.794 at 0.8.

    Args:
        n: How many.
        ratio: Centre, in [0, 1).
        std: Standard deviation before truncation, at least 0.
        generator: Draws them.

    Returns:
        float64[n] in [0, 1].

    Example:
        >>> rates = flip_rates(1000, 0.4, 0.1, torch.Generator().manual_seed(0))
        >>> f"{rates.mean():.1f} {rates.std():.1f}"
        '0.4 0.1'
    """
    uniform = _uniform(n, generator)
    if std == 0:
        return torch.full_like(uniform, ratio)
    # The centre lies between the limits, so that low and high are never both in one tail, where they would be equal.
    low, high = torch.special.ndtr(torch.tensor([-ratio / std, (1 - ratio) / std], dtype=torch.float64))
    # Rounding, and a uniform 0 at a low of 0 (whose quantile is -inf), end at the limits.
    rates: Tensor = ratio + std * torch.special.ndtri(low + uniform * (high - low))
    return rates.clamp_(0, 1)


def wrong_classes(images: Tensor, projection: Tensor, own: int) -> Tensor:
    """The distribution over the wrong classes of images of one class.

    Args:
        images: float64[b, S]. In float32 the rounding of the products would depend on the number of threads, and now
            and then change a label.
        projection: float64[S, C].
        own: The images' class.

    Returns:
        float64[b, C], whose rows sum to 1; zero for ``own``.

    Example:
        >>> wrong_classes(torch.ones(1, 2).double(), torch.tensor([[9.0, 1, 2], [9, 2, 1]]).double(), own=0)
        tensor([[0.0000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    logits = images @ projection
    logits[:, own] = -torch.inf
    return logits.softmax(dim=1)  # which takes off the maximum first: logits of hundreds are usual


def check_std(std: float) -> float:
    """``std`` as given, if it is a standard deviation.

    Raises:
        ValueError: If it is negative or not finite.
    """
    return check_number("std", std, "[0, inf)", "a standard deviation", "0.1 is usual")


class InstanceDependent:
    """Instance-dependent noise of one ratio; see :func:`instance_noise`.

    Args:
        ratio: Centre of the flip rates, in [0, 1).
        std: Of the flip rates before truncation to [0, 1].

    Raises:
        ValueError: If ``ratio`` is outside [0, 1), or ``std`` negative or not finite.
    """

    def __init__(self, ratio: float, std: float = 0.1) -> None:
        self.ratio = check_noise_ratio(ratio)
        self.std = check_std(std)

    def __call__(self, data: LabelledData, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noisy labels; see :class:`~alignprune_pl.noise.Noise`.

        Raises:
            ValueError: If there are no images, or they are not finite.
        """
        if data.features is None:
            raise ValueError(
                f"{data.name} has no images to look at, but instance-dependent noise is made from them; "
                "take another noise, such as noise=sym40."
            )
        return instance_noise(data.labels, data.features, self.ratio, data.num_classes, generator, self.std)

    def __repr__(self) -> str:
        return f"InstanceDependent(ratio={self.ratio}, std={self.std})"


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, dtype=torch.float64, generator=generator)


def _look_at(features: Callable[[Tensor], Tensor], samples: Tensor, size: int | None = None) -> Tensor:
    """The samples' images, float64[b, S]; S is any number of at least 1 where no ``size`` is given."""
    images = features(samples)
    expected = (len(samples), size or max(1, images.shape[1:2].numel()))
    if images.shape != expected or not images.is_floating_point():
        raise ValueError(
            f"features gives {images.dtype}{list(images.shape)} for indices int64[{len(samples)}], but "
            f"float32[{len(samples)}, {size or 'S'}] is expected; flatten each sample's normalised image."
        )
    finite = images.isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(
            f"features gives a NaN or infinity for sample {int(samples[~finite][0])}, but finite numbers are expected; "
            "look at that image."
        )
    return images.double()
