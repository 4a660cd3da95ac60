"""A page on which a person mends the suspected labels of a run: it needs no other file, no server and no network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image, ImageOps

from alignprune_pl.report.audit import audit
from alignprune_pl.report.decisions import VERSION, dataset_key
from alignprune_pl.report.detection import Array
from alignprune_pl.report.run_files import RunFiles, readable
from alignprune_pl.report.theme import DARK, LIGHT
from alignprune_pl.report.whole_file import replaced

_LONGEST_SIDE, _SMALL = 160, 64  # pixels; the page shows the pixels of a small picture, so that it keeps them all
_LETTERS, _NUMBERS = 2_000, 64  # of a text and of a row that the page has; more would not be read
_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV")
_WITH_ALPHA = ("LA", "PA", "RGBA")


def write_review(run: RunFiles, path: Path, shown: Sequence[Any] | None = None, every: bool = False) -> Path:
    """Write the page; the file is replaced as a whole.

    Args:
        run: A finished one.
        path: Of the page.
        shown: What the samples show, by their position in the run: ``shown[i]`` is a PIL image, uint8[H, W],
            uint8[H, W, C] or uint8[C, H, W] of 1 or 3 channels, a text, a mapping of columns to values, or any other array
            of numbers; a tuple stands for its first item. Without it the page shows the pictures and paths that the run
            has recorded.
        every: Whether all samples are listed, suspected or not.

    Returns:
        ``path``.

    Raises:
        ValueError: If the run kept no predictions, or ``shown`` is of another number of samples or has something else.
    """
    table = audit(run, every=True)
    listed = len(table["index"]) if every else len(run.issues)
    # Those that are not listed come last: what is left to mend is counted over all samples.
    order = np.argsort(~table["is_label_issue"], kind="stable") if not every else np.arange(listed)
    table = {name: column[order] for name, column in table.items()}
    items = _items(run, table["position"][:listed].tolist(), shown)
    data = {
        "version": VERSION,
        "dataset": dataset_key(run),
        "classes": [readable(name) for name in run.classes],
        "listed": listed,
        "isTold": not run.caution,  # how likely each is wrong; without an estimate it would say more than is known
        "index": table["index"].tolist(),
        "given": table["given_label"].tolist(),
        "suggested": table["suggested_label"].tolist(),
        "probability": table["probability"].round(4).tolist(),
        "path": [readable(name) for name in table["path"][:listed]] if "path" in table else None,
        "shown": items,
    }
    content = {"title": run.title, "caution": run.caution, "light": LIGHT.variables, "dark": DARK.variables}
    page = _rendered({**content, "data": _script_safe(data)})
    with replaced(path) as file:
        file.write(page.encode())
    return path


def _rendered(content: dict[str, Any]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = {
        name: files("alignprune_pl.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("review.html", "review.css", "review_state.js", "review.js", "review_controls.js")
    }
    own = {name.replace(".", "_"): Markup(text) for name, text in source.items() if name != "review.html"}
    return environment.from_string(source["review.html"]).render({**content, **own})


def _script_safe(data: Mapping[str, Any]) -> Markup:
    """JSON in which nothing ends the element that it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


# ---- what a sample shows --------------------------------------------------------------------------------------


def _items(run: RunFiles, positions: list[int], shown: Sequence[Any] | None) -> list[Any]:
    """What the page has of each: a picture's data URI, ``{"text": ...}``, ``{"numbers": [[name, value], ...]}``, or None."""
    if shown is None:
        pictured = dict(
            zip(run.record.get("thumbnail_of", np.empty(0)).tolist(), range(len(run.suspicion)), strict=False)
        )
        images = run.record.get("thumbnails")
        return [None if images is None or at not in pictured else _picture(images[pictured[at]]) for at in positions]
    if len(shown) != len(run.suspicion):
        raise ValueError(
            f"shown is of {len(shown):,} samples, but the run trained on {len(run.suspicion):,}; give one for each sample, "
            "by its position in the run."
        )
    return [_item(shown[at], at) for at in positions]


def _item(item: Any, at: int) -> Any:
    item = item[0] if isinstance(item, tuple) and item else item
    if isinstance(item, str):
        return {"text": readable(item[:_LETTERS] + "…" * (len(item) > _LETTERS))}
    if isinstance(item, Mapping):
        return _numbers([(readable(str(name)), value) for name, value in item.items()])
    if isinstance(item, Image.Image):
        return _encoded(_in_colour(item, at))
    array = np.asarray(item)  # of a tensor too
    if array.dtype == np.uint8 and array.ndim in (2, 3):
        pixels = _channels_last(array)
        if pixels is not None and pixels.size:
            return _picture(pixels)
    elif array.dtype.kind in "buif" and array.ndim:
        return _numbers(
            [(str(place), value) for place, value in enumerate(array.ravel()[: _NUMBERS + 1].tolist())], array.size
        )
    raise ValueError(
        f"shown[{at}] is {_described(item, array)}, but a PIL image, uint8[H, W], uint8[H, W, C] or uint8[C, H, W] of 1 or "
        "3 channels, a text, numbers or a mapping of columns to values is expected; give what a person can judge."
    )


def _described(item: Any, array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}" if hasattr(item, "shape") else type(item).__name__


def _numbers(cells: list[tuple[str, Any]], count: int | None = None) -> dict[str, Any]:
    """Names and values as text, and how many more there are."""
    text = [
        [name, f"{value:.4g}" if isinstance(value, float) else readable(str(value))] for name, value in cells[:_NUMBERS]
    ]
    return {"numbers": text, "more": max(0, (len(cells) if count is None else count) - _NUMBERS)}


def _channels_last(array: Array) -> Array | None:
    """uint8[H, W] or uint8[H, W, 3] of an image; None if it is none."""
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return array if array.ndim == 2 or array.shape[2] == 3 else None


def _picture(pixels: Array) -> str:
    return _encoded(Image.fromarray(np.ascontiguousarray(pixels)))


def _in_colour(image: Image.Image, at: int) -> Image.Image:
    """Upright, and on white where it is transparent."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        seen = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    if upright.mode not in _MODES:
        raise ValueError(
            f"shown[{at}] is a PIL image of mode {upright.mode}, but one of 8 bits is expected; convert it to RGB."
        )
    return upright.convert("L" if upright.mode in ("1", "L") else "RGB")


def _encoded(image: Image.Image) -> str:
    """A data URI: of a small picture with every pixel, of another one no larger than the page shows it."""
    buffer, is_small = io.BytesIO(), max(image.size) <= _SMALL
    if is_small:
        image.save(buffer, format="png")
    else:
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        image.save(buffer, format="webp", quality=80)
    kind = "png" if is_small else "webp"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
