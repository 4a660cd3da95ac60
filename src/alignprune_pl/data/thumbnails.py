"""Small pictures of samples, for a person to look at."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pad, resize

from alignprune_pl.data.files import Images


def thumbnails(images: Images, at: Tensor, size: int = 96) -> Tensor:
    """The images of some samples, each as a whole in a square.

    Args:
        images: A data set's.
        at: int64[k], the samples.
        size: Pixels along the longer side; smaller images keep theirs.

    Returns:
        uint8[k, 3, s, s], black beside images that are no squares.

    Raises:
        DataFileError: If a file is missing or no whole image.
    """
    shrunk = [_shrunk(images[index], size) for index in at.tolist()]
    side = max((max(image.shape[1:]) for image in shrunk), default=0)
    squares = [_padded(image, side) for image in shrunk]
    return torch.stack(squares) if squares else torch.empty(0, 3, 0, 0, dtype=torch.uint8)


def _shrunk(image: Tensor, size: int) -> Tensor:
    """uint8[3, h, w] of uint8[1 or 3, H, W]."""
    image = image.expand(3, -1, -1)
    height, width = image.shape[1:]
    if max(height, width) <= size:
        return image
    scale = size / max(height, width)
    shrunk: Tensor = resize(image, [max(1, round(height * scale)), max(1, round(width * scale))])
    return shrunk


def _padded(image: Tensor, side: int) -> Tensor:
    height, width = image.shape[1:]
    top, left = (side - height) // 2, (side - width) // 2
    padded: Tensor = pad(image, [left, top, side - width - left, side - height - top])
    return padded
