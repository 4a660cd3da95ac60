"""Small pictures of samples, for a person to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from alignprune_pl.core.pictures import PictureError, in_colour

_PICTURED = 16


def picture(images: Any, at: int) -> Tensor:
    """One of a data set's images, in colour; a PIL image as the data sets show theirs, upright and on white.

    Args:
        images: ``images[at]`` is a PIL image, or uint8[C, H, W], uint8[H, W] or uint8[H, W, C] with 1 or 3 channels. It may
            be a tuple whose first item is one of these.
        at: The sample.

    Returns:
        uint8[3, H, W].

    Raises:
        ValueError: If it is something else.

    Example:
        >>> picture(np.zeros((2, 28, 28), dtype=np.uint8), 1).shape
        torch.Size([3, 28, 28])
    """
    item = images[at]
    item = item[0] if isinstance(item, tuple | list) and len(item) else item
    if hasattr(item, "convert"):  # PIL, which need not be installed
        try:
            item = np.array(in_colour(item))
        except PictureError as error:
            raise ValueError(f"images[{at}] {error}; scale them beforehand, or leave images out.") from error
    pixels = torch.as_tensor(item) if isinstance(item, Tensor | np.ndarray) else torch.empty(0)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim == 3 and pixels.shape[0] not in (1, 3) and pixels.shape[2] in (1, 3):
        pixels = pixels.permute(2, 0, 1)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        what = f"{item.dtype}{list(item.shape)}" if isinstance(item, Tensor | np.ndarray) else type(item).__name__
        raise ValueError(
            f"images[{at}] is {what}, but a PIL image or uint8[C, H, W], [H, W] or [H, W, C] with C of 1 or 3 is expected; "
            "give the images before they are normalised, or leave images out."
        )
    return pixels.expand(3, -1, -1)


def thumbnails(images: Any, at: Tensor, size: int = 96) -> Tensor:
    """The images of some samples, each as a whole in a square.

    Args:
        images: As :func:`picture` takes them.
        at: int64[k], the samples.
        size: Pixels along the longer side; smaller images keep theirs.

    Returns:
        uint8[k, 3, s, s], black beside images that are no squares.

    Raises:
        ValueError: If one of them is no image.
    """
    shrunk = [_shrunk(picture(images, index), size) for index in at.tolist()]
    side = max((max(image.shape[1:]) for image in shrunk), default=0)
    squares = [_padded(image, side) for image in shrunk]
    return torch.stack(squares) if squares else torch.empty(0, 3, 0, 0, dtype=torch.uint8)


def pictures_of_suspects(images: Any, suspicion: Tensor) -> dict[str, Tensor | None]:
    """Those of the most suspect samples; a run shall not lose its record for an image that cannot be read.

    Args:
        images: As :func:`picture` takes them.
        suspicion: float32[n], high for suspect, NaN where it is not known.

    Returns:
        ``thumbnail_of``, int64[k], the samples, and ``thumbnails``, uint8[k, H, W, 3]; nothing where one cannot be read.
    """
    pictured = suspicion.nan_to_num(-torch.inf).argsort(descending=True, stable=True)[:_PICTURED]
    try:
        return {"thumbnail_of": pictured, "thumbnails": thumbnails(images, pictured).permute(0, 2, 3, 1)}
    except Exception as error:  # a damaged image can raise nearly anything
        rank_zero_warn(f"RunFolder leaves out the pictures of the most suspect samples: {error}")
        return {}


def _shrunk(image: Tensor, size: int) -> Tensor:
    """uint8[3, h, w] of uint8[3, H, W]."""
    height, width = image.shape[1:]
    scale = size / max(height, width)
    if scale >= 1:
        return image
    shape = [max(1, round(height * scale)), max(1, round(width * scale))]
    shrunk = F.interpolate(image[None].float(), shape, mode="bilinear", antialias=True)[0]
    return shrunk.round().clamp(0, 255).to(torch.uint8)


def _padded(image: Tensor, side: int) -> Tensor:
    height, width = image.shape[1:]
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(image, [left, side - width - left, top, side - height - top])
