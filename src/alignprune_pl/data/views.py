"""How an image, or a row of other numbers, becomes the input of a network: augmentation, crops and normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms import v2

from alignprune_pl.core.checking import check_count
from alignprune_pl.data.array_rows import ArrayRows

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

View = Callable[[Tensor], Tensor]
"""uint8[C, H, W] to uint8[C, h, w]."""


def are_images(inputs: Tensor | ArrayRows) -> bool:
    """Whether inputs are uint8[n, C, H, W]."""
    return inputs.dtype == torch.uint8 and len(inputs.shape) == 4


class CropFlip:
    """A random crop of the reflect-padded image, flipped half of the time: the field's augmentation of small images.

    Called with one image it is torchvision's transform, drawn from torch's global generator. :meth:`batch` does the
    same to a whole batch at once, by draws made beforehand.

    Args:
        size: The side of the image, in pixels.
        padding: On each side, in pixels.
    """

    def __init__(self, size: int, padding: int) -> None:
        self.size = size
        self.padding = padding
        self._one = v2.Compose(
            [v2.RandomCrop(size, padding=padding, padding_mode="reflect"), v2.RandomHorizontalFlip()]
        )

    def __call__(self, image: Tensor) -> Tensor:
        """One image, uint8[C, H, W]."""
        cropped: Tensor = self._one(image)
        return cropped

    def draws(self, count: int, generator: torch.Generator) -> Tensor:
        """Row and column where the crop starts and whether it is flipped: uint8[count, 3], or int16, all uniform."""
        dtype = torch.uint8 if 2 * self.padding < 256 else torch.int16
        start = torch.randint(2 * self.padding + 1, (count, 2), dtype=dtype, generator=generator)
        flip = torch.randint(2, (count, 1), dtype=dtype, generator=generator)
        return torch.cat([start, flip], dim=1)

    def batch(self, images: Tensor, draws: Tensor) -> Tensor:
        """The images cropped and flipped as drawn, on their own device.

        Args:
            images: uint8[b, C, H, W].
            draws: uint8[b, 3], as :meth:`draws` makes them.

        Returns:
            uint8[b, C, H, W].
        """
        count, channels, height, width = images.shape
        draws = draws.to(images.device, torch.int64)
        row = self._reflected(draws[:, :1] + torch.arange(height, device=images.device), height)
        column = self._reflected(draws[:, 1:2] + torch.arange(width, device=images.device), width)
        column = torch.where(draws[:, 2:] == 1, column.flip(1), column)
        # One gather of whole planes: indexing by rows and columns takes three to five times as long.
        at = (row[:, :, None] * width + column[:, None, :]).view(count, 1, -1).expand(-1, channels, -1)
        return images.reshape(count, channels, -1).gather(2, at).reshape(images.shape)

    def _reflected(self, padded: Tensor, size: int) -> Tensor:
        """Where a pixel of the padded image lies in the image itself."""
        at = (padded - self.padding).abs()
        return torch.where(at < size, at, 2 * (size - 1) - at)


@dataclass(frozen=True)
class Views:
    """How a benchmark's images are looked at.

    Attributes:
        mean: Of each channel, with pixels in [0, 1].
        std: Of each channel, with pixels in [0, 1].
        train: Applied to an image that is trained on; None for no augmentation.
        evaluate: Applied to any other image; None where images are taken as they are.

    Raises:
        ValueError: If a mean or standard deviation is not one of pixels in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: View | None = None
    evaluate: View | None = None
    takes: ClassVar[str] = "uint8[n, C, H, W] or n files"

    def __post_init__(self) -> None:
        for name, numbers, lowest in (("mean", self.mean, 0.0), ("std", self.std, 1e-6)):
            if not all(isinstance(number, int | float) and lowest <= number <= 1 for number in numbers):
                raise ValueError(
                    f"{name}={list(numbers)} is given, but numbers of pixels in [0, 1] are expected, such as "
                    f"{list(IMAGENET_MEAN if name == 'mean' else IMAGENET_STD)}; divide those of 0 to 255 by 255."
                )

    def fits(self, inputs: Tensor | ArrayRows) -> bool:
        """Whether these are images."""
        return are_images(inputs)

    def normalised(self, images: Tensor) -> Tensor:
        """uint8[b, C, H, W] to float32[b, C, H, W], on the images' device."""
        shift, scale = (
            torch.tensor(of_channels, device=images.device).view(-1, 1, 1) * 255
            for of_channels in (self.mean, self.std)
        )
        return (images - shift) / scale


@dataclass(frozen=True)
class Columns:
    """How rows of numbers that are no images are looked at: each column less its mean, divided by its deviation.

    Attributes:
        mean: float[...], of the shape of a row; what is calculated with its precision.
        std: Likewise, above zero.
    """

    mean: Tensor
    std: Tensor
    train: ClassVar[None] = None
    evaluate: ClassVar[None] = None

    @property
    def takes(self) -> str:
        """What is expected, for sentences."""
        return f"numbers {['n', *self.mean.shape]}".replace("'", "")

    def fits(self, inputs: Tensor | ArrayRows) -> bool:
        """Whether there is a column of these for each mean."""
        return tuple(inputs.shape[1:]) == tuple(self.mean.shape) and not inputs.dtype.is_complex

    def normalised(self, rows: Tensor) -> Tensor:
        """[b, ...] to float32[b, ...], on the rows' device."""
        mean, std = (numbers.to(rows.device) for numbers in (self.mean, self.std))
        return ((rows.to(mean.dtype) - mean) / std).float()


def random_resized_crops(
    image_size: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Views:
    """ImageNet's protocol: train on random resized crops and flips, evaluate the centre at 8/7 of the size.

    Args:
        image_size: The side of a crop, in pixels.
        mean: Of each channel, with pixels in [0, 1].
        std: Of each channel, with pixels in [0, 1].
    """
    train = v2.Compose([v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()])
    return Views(mean, std, train, _centre(image_size))


def crops_of_resized(image_size: int) -> Views:
    """Clothing1M's protocol: the shorter side at 8/7 of the size, then a random crop and flip, or the centre."""
    train = v2.Compose([_resize(image_size), v2.RandomCrop(image_size), v2.RandomHorizontalFlip()])
    return Views(IMAGENET_MEAN, IMAGENET_STD, train, _centre(image_size))


def _resize(image_size: int) -> View:
    check_count("image_size", image_size, 1, "a number of pixels", "224 is usual")
    resize: View = v2.Resize(round(image_size * 256 / 224), antialias=True)
    return resize


def _centre(image_size: int) -> View:
    centre: View = v2.Compose([_resize(image_size), v2.CenterCrop(image_size)])
    return centre
