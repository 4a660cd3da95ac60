"""How a file's pixels are shown, to a network and to a person alike: upright, in colour, with 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # whoever has a picture has Pillow; nothing else here needs it
    from PIL.Image import Image

_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


class PictureError(ValueError):
    """A whole picture that nobody can say how to show."""


def in_colour(picture: Image) -> Image:
    """A picture as a person sees it: turned upright by its EXIF, on white where it is transparent.

    Grey values of 16 bits, 32 bits and floating point are scaled by their white. That is 1 for fractions. For whole numbers
    it is 255, or 65535 where the picture goes beyond. A file that has 16 bits a pixel always has 65535.

    Args:
        picture: Of any mode that Pillow opens; it is left as it is.

    Returns:
        Of mode RGB.

    Raises:
        PictureError: If nothing says what its white is, or Pillow cannot convert its mode.
    """
    picture.load()
    upright = _upright(picture)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return _grey(upright, picture.format)
    try:
        if not _is_transparent(upright):
            return upright.convert("RGB")
        seen = (upright.convert("LA") if upright.mode == "La" else upright).convert("RGBA")
    except ValueError as error:
        raise PictureError(f"is a picture of mode {upright.mode}, which Pillow does not convert to RGB") from error
    return _on_white(seen)


def _upright(picture: Image) -> Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # EXIF that is damaged, in any of many ways, says nothing of the pixels, which are whole
        return picture


def _is_transparent(picture: Image) -> bool:
    palette = picture.palette.mode if picture.mode == "P" and picture.palette else ""
    return picture.mode in _WITH_ALPHA or "transparency" in picture.info or palette.endswith("A")


def _on_white(picture: Image) -> Image:
    from PIL import Image

    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _grey(picture: Image, form: str | None) -> Image:
    from PIL import Image

    values = np.asarray(picture)
    is_16_bits = picture.mode != "F" and (
        picture.mode != "I" or form in ("PNG", "PPM")
    )  # these open as 32 bits at times
    white = 65535 if is_16_bits else _white(values)
    if white is None:
        raise PictureError(
            f"has grey values from {values.min():g} to {values.max():g} with 32 bits, but fractions from 0 to 1, or whole "
            "numbers from 0 to 255 or 65535, are expected"
        )
    grey = np.rint(values * (255 / white)).astype(np.uint8)
    if "transparency" in picture.info:  # the one value that a 16-bit PNG shows as nothing
        grey[values == picture.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _white(values: NDArray[Any]) -> int | None:
    low, high = values.min(), values.max()
    is_fraction = values.dtype.kind == "f"
    if not (low >= 0 and np.isfinite(high)):
        return None
    if is_fraction and high > 1 and (values != np.rint(values)).any():
        return None
    return next((white for white in (1, 255, 65535)[not is_fraction :] if high <= white), None)
