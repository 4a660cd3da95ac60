"""The losses of ``torch.nn.functional`` that can be taken apart into one loss a sample, and put together again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignprune_pl.core.trajectory import MOST_CLASSES, Observable, Observed

# Losses whose reduction="none" form has the batch as its first dimension.
LOSSES: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        F.cross_entropy,
        F.nll_loss,
        F.binary_cross_entropy,
        F.binary_cross_entropy_with_logits,
        F.mse_loss,
        F.l1_loss,
        F.smooth_l1_loss,
        F.huber_loss,
    )
}
_SIGNATURES = {name: inspect.signature(function) for name, function in LOSSES.items()}
# The classes of their input, logits or logarithms of probabilities, are its second dimension.
_HAVE_LOGITS = ("cross_entropy", "nll_loss")
_TAKE_WEIGHT = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")


class LossCall:
    """One call of a known loss.

    Args:
        name: The function's name, a key of ``LOSSES``.
        args: The arguments of the call.
        kwargs: Its keyword arguments.
    """

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._name = name
        self._bound = _SIGNATURES[name].bind(*args, **kwargs)
        self._bound.apply_defaults()
        self._call = self._bound.arguments
        self._reduction: str = self._call["reduction"]

    def is_trained_on(self) -> bool:
        """Whether a gradient will come back through it; otherwise it is a metric."""
        given = (self._call["input"], self._call["target"])  # the regression losses take the two in either order
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)

    def unknown_options(self) -> str:
        """Options under which it cannot be put together again, in words; empty where there are none."""
        unknown = [option for option in ("size_average", "reduce") if self._call.get(option) is not None]
        if self._call.get("weight") is not None and self._name not in _TAKE_WEIGHT:
            unknown.append("weight")  # newer torch divides these by the sum of the weights
        if not unknown and self._reduction not in ("mean", "sum", "none"):
            unknown.append(f"reduction={self._reduction!r}")
        return ", ".join(unknown)

    def result(self) -> Tensor:
        """What the caller asked for."""
        return self._with(self._reduction)

    def elements(self) -> Tensor:
        """The loss of each element, float[b, ...]."""
        return self._with("none")

    def _with(self, reduction: str) -> Tensor:
        self._call["reduction"] = reduction
        return LOSSES[self._name](*self._bound.args, **self._bound.kwargs)

    def per_sample(self, elements: Tensor) -> Tensor:
        """The mean of a sample's own elements, ignored ones left out: float32[b], NaN where all of them are."""
        counts = (self._shares(elements) != 0).reshape(len(elements), -1)
        elements = elements.detach().float().reshape(len(elements), -1)
        # 0 / 0 is NaN: a sample of which nothing counts has not been observed.
        return torch.where(counts, elements, 0.0).sum(dim=1) / counts.sum(dim=1)

    def has_logits(self) -> bool:
        """Whether the loss is one of logits and classes."""
        return self._name in _HAVE_LOGITS

    def from_logits(self, observable: Observable, elements: Tensor) -> Tensor:
        """What ``observable`` says of each sample, float32[b], averaged as its loss is.

        Args:
            observable: ``"el2n"``, ``"margin"`` or ``"rival"``.
            elements: The loss of each element.
        """
        logits, label = self._logits_and_label()
        if observable == "el2n":
            target = self._call["target"]
            soft = target.float() if target.is_floating_point() else torch.zeros_like(logits).scatter_(1, label, 1.0)
            return self.per_sample((logits.softmax(dim=1) - soft).norm(dim=1).view_as(elements))
        others = logits.scatter(1, label, -torch.inf).amax(dim=1)
        margin = (logits.gather(1, label).squeeze(1) - others).view_as(elements)
        if observable == "margin":
            return self.per_sample(margin)
        # A CPU computes the last elements of a batch in another way: wider, so that a sample's loss does not depend on its
        # place, nor a plan on the number of ranks.
        wide = margin.double() if margin.device.type == "cpu" else margin
        return self.per_sample(F.softplus(-wide).float())

    def logits_and_labels(self) -> tuple[Tensor, Tensor] | None:
        """float32[b, C] and int64[b], of soft labels the largest; None if there is not one class for each sample."""
        if not self.has_logits() or self._call["input"].ndim != 2:
            return None
        target = self._call["target"]
        if not target.is_floating_point() and bool((target == self._call["ignore_index"]).any()):
            return None
        logits, label = self._logits_and_label()
        return logits, label.squeeze(1)

    def pair(self) -> Observed:
        """Label and strongest other class of each sample, with values of zero.

        Of soft labels the largest counts. Unknown where a sample has several targets, and with more classes than a store
        of trajectories takes.
        """
        logits, label = self._logits_and_label()
        value = torch.zeros(len(logits), device=logits.device)
        if logits.ndim != 2 or logits.shape[1] > MOST_CLASSES:
            return Observed(value)
        label, rival = label.squeeze(1), logits.scatter(1, label, -torch.inf).argmax(dim=1)
        ignored = self._call["target"] == self._call["ignore_index"]
        classes = logits.shape[1]
        pair = label * classes + rival
        return Observed(value, pair.masked_fill(ignored, -1) if ignored.ndim == 1 else pair, classes)

    def _logits_and_label(self) -> tuple[Tensor, Tensor]:
        """float32[b, C, ...] and int64[b, 1, ...]; of what is ignored the label is zero."""
        logits, target = self._call["input"].detach().float(), self._call["target"]
        if target.is_floating_point():
            return logits, target.argmax(dim=1, keepdim=True)
        return logits, target.masked_fill(target == self._call["ignore_index"], 0).long().unsqueeze(1)

    def reduced(self, elements: Tensor) -> Tensor:
        """What the caller asked for, from elements that may have been weighted."""
        if self._reduction == "none":
            return elements
        # Many elements in half precision would add up to infinity.
        wide = torch.promote_types(elements.dtype, torch.float32)
        total = elements.sum(dtype=wide)
        if self._reduction == "mean":
            total = total / self._shares(elements).sum(dtype=wide)
        return total.to(elements.dtype)

    def _shares(self, elements: Tensor) -> Tensor:
        """What each element counts in torch's mean: one, or the target's class weight, or zero where ignored."""
        share = torch.ones_like(elements, requires_grad=False)
        target = self._call["target"]
        if self._name not in ("cross_entropy", "nll_loss") or target.is_floating_point():
            return share
        ignored = target == self._call["ignore_index"]
        if self._call["weight"] is not None:
            share = self._call["weight"].to(elements.dtype)[target.masked_fill(ignored, 0)]
        return share.masked_fill(ignored, 0.0)
