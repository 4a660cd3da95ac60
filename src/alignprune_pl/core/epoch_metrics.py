"""What one epoch, and the run so far, have trained on: the figures that are logged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

Row = dict[str, float]

PROBE_COST = 1 / 3
"""A forward pass in samples trained: the backward pass takes twice the arithmetic of the forward one."""


def epoch_row(
    history: Sequence[Row],
    epoch: int,
    trained: Tensor,
    full: int,
    reference: Tensor,
    nonfinite: int,
    suspicion: Tensor,
    noise_mask: Tensor | None,
    probed: int = 0,
    estimated_noise_rate: float | None = None,
) -> Row:
    """The figures of an epoch.

    Args:
        history: The rows of the epochs before.
        epoch: The epoch, from 0.
        trained: int64[k], the samples trained on.
        full: How many samples an epoch without pruning would have trained on.
        reference: float32[r], the losses of the reference after it, NaN where not finite; empty where there is none.
        nonfinite: Losses of training samples left out so far for being NaN or infinite.
        suspicion: float32[n], the score that plans the next epoch, turned so that high is suspect.
        noise_mask: bool[n], the wrong labels where they are known.
        probed: How many samples were passed forward without being trained on.
        estimated_noise_rate: The policy's estimate, if it makes one; NaN before the first.

    Returns:
        ``epoch``, ``kept``, ``kept_share``, ``full``, ``probed``, ``reference_loss``, ``nonfinite``,
        ``reference_nonfinite``, ``saved``; with an estimate, ``estimated_noise_rate``; and with a mask, ``noise_kept``,
        ``auroc`` and ``average_precision``.
    """
    row = counted_row(history, epoch, len(trained), full, reference, nonfinite, probed, estimated_noise_rate)
    if noise_mask is not None:
        row["noise_kept"] = float(noise_mask[trained].float().mean()) if len(trained) else math.nan
        row["auroc"] = noise_auroc(suspicion, noise_mask)
        row["average_precision"] = noise_average_precision(suspicion, noise_mask)
    return row


def counted_row(
    history: Sequence[Row],
    epoch: int,
    kept: int,
    full: int,
    reference: Tensor,
    nonfinite: int,
    probed: int = 0,
    estimated_noise_rate: float | None = None,
) -> Row:
    """The figures of an epoch that need no list of samples; ``kept`` says how many were trained on."""
    row: Row = {
        "epoch": epoch,
        "kept": kept,
        "kept_share": kept / full,
        "full": full,
        "probed": probed,
        "reference_loss": float(reference.double().nanmean()),  # NaN of an empty one
        "nonfinite": nonfinite,
        "reference_nonfinite": int(reference.isnan().sum()),
    }
    so_far = [*history, row]
    cost = sum(r["kept"] + PROBE_COST * r["probed"] for r in so_far)
    row["saved"] = 1 - cost / sum(r["full"] for r in so_far)
    if estimated_noise_rate is not None:
        row["estimated_noise_rate"] = float(estimated_noise_rate)  # of a policy that counts by numpy too
    return row


def run_figures(history: Sequence[Row], noise_mask: Tensor | None, estimated_noise_rate: float | None) -> Row:
    """The figures of the run so far.

    Args:
        history: The rows of its epochs.
        noise_mask: bool[n], the wrong labels where they are known.
        estimated_noise_rate: The policy's estimate, if it makes one; NaN before the first.

    Returns:
        ``epochs`` and ``saved``; where the wrong labels are known ``noise_kept`` over all epochs and ``noise_rate``; and
        ``estimated_noise_rate`` where there is one.
    """
    figures = {"epochs": float(len(history)), "saved": history[-1]["saved"] if history else 0.0}
    known = [row for row in history if not math.isnan(row.get("noise_kept", math.nan))]
    if known:
        figures["noise_kept"] = sum(r["noise_kept"] * r["kept"] for r in known) / sum(r["kept"] for r in known)
    if noise_mask is not None:
        figures["noise_rate"] = float(noise_mask.float().mean())
    if estimated_noise_rate is not None and not math.isnan(estimated_noise_rate):
        figures["estimated_noise_rate"] = estimated_noise_rate
    return figures


def logged(row: Row) -> Row:
    """A row as it is logged: ``pruning/...``, without what is not known."""
    return {f"pruning/{k}": v for k, v in row.items() if k not in ("epoch", "full") and not math.isnan(v)}


def as_sentence(row: Row) -> str:
    """A row for a person: a line of fewer than 100 characters, and another where losses are left out."""
    noise = f", {row['noise_kept']:.1%} mislabelled" if "noise_kept" in row else ""
    rate = row.get("estimated_noise_rate", math.nan)
    estimate = "" if math.isnan(rate) else f", est. {rate:.1%} {'in all' if noise else 'of all labels wrong'}"
    kinds = {"losses": row["nonfinite"], "reference losses": row["reference_nonfinite"]}
    left_out = " and ".join(f"{count:.0f} {kind}" for kind, count in kinds.items() if count)
    return (
        f"Epoch {row['epoch']:.0f}: trained on {row['kept']:,.0f} samples ({row['kept_share']:.0%}){noise}{estimate}"
        f", {row['saved']:.1%} saved"
        + (f"\nEpoch {row['epoch']:.0f}: {left_out} left out as not finite" if left_out else "")
    )


def noise_auroc(suspicion: Tensor, noise_mask: Tensor) -> float:
    """AUROC of a suspicion (float[n], high is suspect) for finding wrong labels (bool[n]).

    Samples without a score are left out; NaN where what remains is of one kind only.
    """
    ranked = _ranked(suspicion, noise_mask)
    return math.nan if ranked is None else float(binary_auroc(*ranked))


def noise_average_precision(suspicion: Tensor, noise_mask: Tensor) -> float:
    """Average precision of a suspicion for finding wrong labels; as :func:`noise_auroc`, and likewise NaN."""
    ranked = _ranked(suspicion, noise_mask)
    return math.nan if ranked is None else float(binary_average_precision(*ranked))


def _ranked(suspicion: Tensor, noise_mask: Tensor) -> tuple[Tensor, Tensor] | None:
    """The scored samples' ranks in [0, 1) and labels; None where they are of one kind only.

    Ranked because torchmetrics would take numbers outside of [0, 1] through a sigmoid and lose their ties.
    """
    scored = ~suspicion.isnan()
    wrong = noise_mask[scored]
    if len(wrong) == 0 or bool(wrong.all()) or not bool(wrong.any()):
        return None
    rank = suspicion[scored].unique(return_inverse=True)[1].double()
    return rank / (rank.max() + 1), wrong.long()


def mean_of_finite(losses: Tensor) -> Tensor:
    """The mean of what is finite, float[]; NaN where nothing is."""
    finite = losses.isfinite()
    return torch.where(finite, losses, 0.0).sum() / finite.sum()
