"""What the elements of a loss show of their samples: the loss, or what the logits say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alignprune_pl.core.trajectory import MOST_CLASSES, Observable
from alignprune_pl.fit.terms import Classified, Term


@dataclass(frozen=True)
class Shown:
    """What a term shows.

    Attributes:
        value: float[m, ...], of each element.
        share: float[m, ...] or float[], how much of the loss the element is.
        pair: int64[m], label and strongest other class of each sample, as :class:`Observed` has them. None where a sample
            has not one class, or there are more classes than a store of trajectories takes.
        classes: C, of the pairs; otherwise 0.
    """

    value: Tensor
    share: Tensor
    pair: Tensor | None = None
    classes: int = 0


def observe(term: Term, gradient: Tensor, observes: Observable) -> Shown:
    """What ``observes`` says of each element of a term.

    Args:
        term: The term; with logits, for what is read from them.
        gradient: Of the loss, with respect to the term.
        observes: ``"loss"``, ``"el2n"``, ``"margin"`` or ``"rival"``, which has pairs. Of soft labels the largest counts.
    """
    if observes == "loss" or not isinstance(term, Classified):
        return Shown(*term.counted(gradient))
    logits, label, share = term.classified(gradient)
    if observes == "el2n":
        return Shown((logits.softmax(dim=1) - term.distribution(gradient)).norm(dim=1), share)
    others, rival = logits.scatter(1, label, -torch.inf).max(dim=1)
    margin = logits.gather(1, label).squeeze(1) - others
    if observes == "margin":
        return Shown(margin, share)
    # A CPU computes the last elements of a batch in another way: wider, so that a sample's loss does not depend on its
    # place, nor a plan on the number of ranks.
    wide = margin.double() if margin.device.type == "cpu" else margin
    value, classes = F.softplus(-wide).float(), logits.shape[1]
    if logits.ndim != 2 or classes > MOST_CLASSES:
        return Shown(value, share)
    return Shown(value, share, (label.squeeze(1) * classes + rival).masked_fill(share == 0, -1), classes)


def logits_and_labels(term: Term, gradient: Tensor) -> tuple[Tensor, Tensor] | None:
    """Log-probabilities float32[m, C] and labels int64[m], of soft labels the largest; None without one class a sample."""
    if not isinstance(term, Classified):
        return None
    logits, label, share = term.classified(gradient)
    return (logits, label.squeeze(1)) if logits.ndim == 2 and bool((share != 0).all()) else None
