"""Clothing1M: a million photographs of clothes from shops, labelled by the words around them."""

from __future__ import annotations

from pathlib import Path

import torch

from alignprune_pl.core.checking import check_word
from alignprune_pl.data.files import DataFileError, ImageFiles
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.text import class_number, lines
from alignprune_pl.data.views import crops_of_resized

_CLASSES = (
    "T-shirt",
    "Shirt",
    "Knitwear",
    "Chiffon",
    "Sweater",
    "Hoodie",
    "Windbreaker",
    "Jacket",
    "Downcoat",
    "Suit",
    "Shawl",
    "Dress",
    "Vest",
    "Underwear",
)

_REFERENCES = {"clean_val": "clean_val_key_list.txt", "clean_train": "clean_train_key_list.txt"}


def clothing1m(root: str | Path, reference: str = "clean_val", image_size: int = 224) -> Benchmark:
    """1,000,000 training images of 14 classes with about 38 % wrong labels, and 10,526 clean test images.

    Nobody knows which training labels are wrong.

    Args:
        root: The folder with ``images`` and the text files, which may be in ``annotations``.
        reference: ``"clean_val"``, the 14,313 clean validation images, or ``"clean_train"``, the 47,570 clean
            training images.
        image_size: The side of a crop, in pixels.

    Raises:
        ValueError: If ``reference`` is neither.
        DataFileError: If a file is missing, or a line of the lists is wrong.
    """
    root = Path(root)
    check_word("reference", reference, _REFERENCES)
    texts = root / "annotations" if (root / "annotations" / "noisy_label_kv.txt").is_file() else root
    noisy, clean = (_labels_by_path(texts / f"{kind}_label_kv.txt") for kind in ("noisy", "clean"))
    held = _part(root, texts / _REFERENCES[reference], clean)
    return Benchmark(
        name="clothing1m",
        classes=_CLASSES,
        views=crops_of_resized(image_size),
        train=_part(root, texts / "noisy_train_key_list.txt", noisy),
        evaluated={"test": _part(root, texts / "clean_test_key_list.txt", clean)},
        reference=held,
        reference_from=f"the images of {_REFERENCES[reference]}",
    )


class _Labels(dict[str, str]):
    """Path to label, as written, and the file that says so."""

    def __init__(self, source: Path) -> None:
        super().__init__()
        self.source = source


def _labels_by_path(path: Path) -> _Labels:
    # A circulating copy has a line without a label. What is wrong is told where a list asks for it.
    found = _Labels(path)
    for _, line in lines(path):
        name, *label = line.split()
        found[name] = " ".join(label)
    return found


def _part(root: Path, keys: Path, label_of: _Labels) -> Part:
    paths, labels = [], []
    for number, line in lines(keys):
        name = line.strip()
        given = label_of.get(name, "")
        label = class_number(given, len(_CLASSES))
        if label is None:
            raise DataFileError(
                f"{label_of.source} gives {given[:80] or 'no label'} to {name}, which {keys}, line {number}, lists, but a "
                f"label from 0 to {len(_CLASSES) - 1} is expected; mend the line, or take the image off the list."
            )
        paths.append(name)
        labels.append(label)
    if not paths:
        raise DataFileError(f"{keys} is empty; replace it with a fresh copy.")
    return Part(ImageFiles(root, paths).check(keys), torch.tensor(labels))
