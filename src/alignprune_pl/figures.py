"""What one epoch, and the run so far, have trained on: the figures that are logged."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from alignprune_pl.measure import noise_auroc

Row = dict[str, float]


def epoch_figures(
    history: Sequence[Row],
    epoch: int,
    trained: Tensor,
    full: int,
    reference_loss: float,
    nonfinite: int,
    reference_nonfinite: int,
    suspicion: Tensor,
    noise_mask: Tensor | None,
) -> Row:
    """The figures of an epoch.

    Args:
        history: The rows of the epochs before.
        epoch: The epoch, from 0.
        trained: int64[k], the samples trained on.
        full: How many samples an epoch without pruning would have trained on.
        reference_loss: The reference's mean loss after it, NaN where there is none.
        nonfinite: Training losses left out so far for being NaN or infinite.
        reference_nonfinite: Samples left out of ``reference_loss`` for the same reason.
        suspicion: float32[n], the score that plans the next epoch, turned so that high is suspect.
        noise_mask: bool[n], the wrong labels where they are known.

    Returns:
        ``epoch``, ``kept``, ``kept_share``, ``full``, ``reference_loss``, ``nonfinite``, ``reference_nonfinite``,
        ``saved`` and, with a mask, ``noise_kept`` and ``auroc``.
    """
    row: Row = {
        "epoch": epoch,
        "kept": len(trained),
        "kept_share": len(trained) / full,
        "full": full,
        "reference_loss": reference_loss,
        "nonfinite": nonfinite,
        "reference_nonfinite": reference_nonfinite,
    }
    so_far = [*history, row]
    row["saved"] = 1 - sum(r["kept"] for r in so_far) / sum(r["full"] for r in so_far)
    if noise_mask is not None:
        row["noise_kept"] = float(noise_mask[trained].float().mean()) if len(trained) else math.nan
        row["auroc"] = noise_auroc(suspicion, noise_mask)
    return row


def run_figures(history: Sequence[Row]) -> Row:
    """``epochs``, ``saved`` and, where the wrong labels are known, ``noise_kept`` over all epochs."""
    figures = {"epochs": float(len(history)), "saved": history[-1]["saved"] if history else 0.0}
    known = [row for row in history if not math.isnan(row.get("noise_kept", math.nan))]
    if known:
        figures["noise_kept"] = sum(r["noise_kept"] * r["kept"] for r in known) / sum(r["kept"] for r in known)
    return figures


def logged(row: Row) -> Row:
    """A row as it is logged: ``pruning/...``, without what is not known."""
    return {f"pruning/{k}": v for k, v in row.items() if k not in ("epoch", "full") and not math.isnan(v)}


def as_sentence(row: Row) -> str:
    """A row for a person."""
    noise = f", {row['noise_kept']:.1%} of them mislabelled, AUROC {row['auroc']:.3f}" if "auroc" in row else ""
    left_out = f", {row['nonfinite']:.0f} losses left out as not finite" if row["nonfinite"] else ""
    reference = "" if math.isnan(row["reference_loss"]) else f", reference loss {row['reference_loss']:.4f}"
    return (
        f"Epoch {row['epoch']:.0f}: trained on {row['kept']:.0f} samples ({row['kept_share']:.0%}){noise}, "
        f"{row['saved']:.1%} saved so far{reference}{left_out}"
    )
