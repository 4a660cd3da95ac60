"""Which labels a run suspects by its score, and how often classes bear each other's labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def most_suspect(suspicion: Array, count: int) -> Array:
    """The ``count`` most suspect samples, int64[count] or fewer, as those without a score (NaN) are not suspect."""
    order = np.argsort(-suspicion, kind="stable")  # NaN comes last
    return order[: min(count, int((~np.isnan(suspicion)).sum()))]


def bounded(suspicion: Array) -> Array:
    """The scores with infinite ones as high, or as low, as the highest or the lowest other; NaN stays."""
    finite = suspicion[np.isfinite(suspicion)]
    limited: Array = suspicion.clip(*((finite.min(), finite.max()) if len(finite) else (0.0, 0.0)))
    return limited


def confusion(clean: Array, given: Array, classes: int) -> Array:
    """How often each class bears each label: float64[C, C], rows (the clean label) sum to 1, or to 0 if it has none."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (clean, given), 1)
    shares: Array = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares
