"""Runs that nobody trained, for pages of any size and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alignprune_pl.report import RunFiles

NAMES = ("cat", "dog", "horse")


def made_run(folder: Path, samples: int = 60, suspects: int = 20, names: tuple[str, ...] = NAMES, **record) -> RunFiles:
    """A run of so many samples, of which the first ones are suspects, the likeliest wrong first.

    Sample i stands at 3 * i + 1 in its data set. It is labelled i modulo the classes, and a suspect is taken for the next
    class. Of suspects the probability falls from 1 to 0.5, and of the others it is 0.01.
    """
    at = np.arange(samples)
    label = at % len(names)
    probability = np.where(at < suspects, 1 - 0.5 * at / max(suspects, 1), 0.01)
    summary = {"dataset": "made", "noise": "up", "estimated_noise_rate": suspects / samples}
    return RunFiles(
        folder,
        config={},
        summary=summary,
        epochs={},
        labels={"train_index": 3 * at + 1, "label": label},
        record={
            "suspicion": probability - 1e-9 * at,
            "probability": probability,
            "predicted": np.where(at < suspects, (label + 1) % len(names), label),
            "classes": np.array(names),
            **record,
        },
    )
