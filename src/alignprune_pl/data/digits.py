"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.views import Views


def digits() -> Benchmark:
    """1,797 digits of 8 x 8 pixels, split 80/20 by class; the split is the same whatever the run's seed."""
    loaded = load_digits()
    images = torch.as_tensor(loaded.images * 255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.as_tensor(loaded.target, dtype=torch.int64)
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=loaded.target)
    pixels = images[train].float() / 255
    return Benchmark(
        name="digits",
        classes=tuple(str(name) for name in loaded.target_names),
        views=Views((float(pixels.mean()),), (float(pixels.std()),)),
        train=Part(images[train], labels[train]),
        evaluated={"test": Part(images[test], labels[test])},
        clean_labels=labels[train],
    )
