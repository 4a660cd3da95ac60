"""Per-sample losses out of a training step that knows nothing of them, and sample weights into it.

The first step runs under a ``TorchFunctionMode``, which sees every torch function and so finds out which loss
is called. A mode taxes each function of the step, so that later steps intercept the losses alone: their names in
``torch.nn.functional`` are replaced for the length of ``training_step`` and then put back. A loss reached past
its name (``from torch.nn.functional import cross_entropy``) keeps the mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.overrides import get_overridable_functions

from alignprune_pl.core.trajectory import Observable, Observed
from alignprune_pl.fit.interception import ArmedStep, LossMode, force_eager
from alignprune_pl.fit.losses import LOSSES, LossCall


def captured(observes: Observable, is_explicit: bool, loss_fn: Callable[..., Any] | None) -> Observable:
    """What to capture: a step that gives its losses, and a ``loss_fn`` that is compared with it, have no logits."""
    return "loss" if observes == "rival" and (is_explicit or loss_fn is not None) else observes


class LossCapture:
    """Captures the losses of one batch at a time around ``training_step``.

    Between :meth:`arm` and :meth:`disarm` the module's ``training_step`` is wrapped. A module may instead
    return ``{"loss": ..., "per_sample_loss": ...}``; the weights then reach the loss as
    ``loss + mean((weight - 1) * per_sample_loss)``, so that other terms of the loss stay as they are.

    Args:
        explicit: Intercept nothing: the step says which losses count, by :meth:`weigh` or by returning them.
        observes: What of each sample is captured. For ``"batch_loss"`` that is the loss which the step returns, and no
            call is intercepted: it gets the mean of the weights.

    Attributes:
        source: How losses are had: ``""`` before the first batch, ``"explicit"``, ``"returned"``, ``"mode"``,
            ``"batch"``, or the comma-separated names of the functions that the first step called.
        trained_on: Of each call to a known loss in the last training step, whether it was trained on. A step on a reference
            batch has no gradient to tell a loss from a metric, and so goes by this.
    """

    def __init__(self, explicit: bool = False, observes: Observable = "loss") -> None:
        self.observes = observes
        self.source = "explicit" if explicit else "batch" if observes == "batch_loss" else ""
        self.trained_on: list[bool] = []
        self._calls: list[bool] = []
        self._is_running = False
        self._handlers: dict[str, Callable[..., Any]] = {}
        self._module: LightningModule | None = None
        self._previous: Any = None
        self._weight: Tensor | None = None
        self._batch_size: int | None = None
        self._losses: Tensor | None = None
        self._pair: Observed | None = None  # of the losses that are there
        self._has_pairs = True  # whether the last training step had them
        self._seen: list[str] = []
        self._refused: list[str] = []
        self._by_name = self._records = 0
        # torch lists its functions when something first asks for them. That must not be a compiler within a step,
        # when losses have their names replaced.
        get_overridable_functions()

    def arm(self, module: LightningModule, batch_size: int, weight: Tensor | None) -> None:
        """Wrap ``module.training_step`` for one batch.

        Args:
            module: The module; its class is left alone, the wrapper is an attribute of the instance.
            batch_size: b, the number of samples that the batch must have.
            weight: float[b] on the module's device, or None for ones.
        """
        self.disarm()
        self._module, self._batch_size, self._weight = module, batch_size, weight
        # torch.compile leaves its own wrapper there, which must come back.
        self._previous = module.__dict__.get("training_step")
        module.__dict__["training_step"] = ArmedStep(module.training_step, self._run)

    def disarm(self) -> None:
        """Put ``training_step`` back, and forget losses that were not taken."""
        if self._module is not None:
            if self._previous is None:
                self._module.__dict__.pop("training_step", None)
            else:
                self._module.__dict__["training_step"] = self._previous
        self._module = self._previous = self._weight = self._batch_size = self._losses = self._pair = None

    @property
    def is_armed(self) -> bool:
        """Whether a batch is under way."""
        return self._module is not None

    def take(self) -> Observed | None:
        """Hand over what the step that has run has shown, once: float[b], or None where there is nothing."""
        losses, self._losses = self._losses, None
        pair, self._pair = self._pair, None
        if losses is None:
            return None
        return Observed(losses) if pair is None else Observed(losses, pair.pair, pair.classes)

    def weigh(self, losses: Tensor) -> Tensor:
        """Record the losses that a step in explicit mode trains on (float[b]), and return them weighted.

        Where the batch's loss will do, they may be that one number.

        Raises:
            MisconfigurationException: If losses are captured by interception, or these are not one a sample.
        """
        if not self._is_running:
            return losses
        if self.source != "explicit":
            raise MisconfigurationException(
                "training_step calls weight() but its losses are captured already, and would be weighted twice; pass "
                "AlignPrune(capture_mode='explicit')."
            )
        if self.observes == "batch_loss" and losses.numel() == 1:
            self._record(self._of_batch(losses.reshape(())))
            return losses if self._weight is None else losses * self._weight.mean().to(losses.dtype)
        self._check_one_a_sample(losses, "gave weight()")
        self._record(losses)
        return losses if self._weight is None else losses * self._weight.to(losses.dtype)

    def state_dict(self) -> dict[str, Any]:
        """What the first batch has taught."""
        return {"source": self.source, "trained_on": list(self.trained_on), "has_pairs": self._has_pairs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier run's first batch has taught."""
        if (state["source"] == "explicit") == (self.source == "explicit"):
            self.source, self.trained_on = state["source"], list(state["trained_on"])
            self._has_pairs = state["has_pairs"]

    def observe(self, step: Callable[[], Any]) -> Observed:
        """What a step has shown that is not trained on, such as one on a reference batch: its losses, float[b]."""
        self._batch_size = self._weight = None
        self._run(step)
        observed = self.take()
        if observed is None:
            raise MisconfigurationException(
                "training_step returned None on a reference batch, so that the batch has no loss; return the loss, "
                "or pass AlignPrune(loss_fn=...)."
            )
        return observed

    def _run(self, step: Callable[[], Any]) -> Any:
        # An optimiser that calls its closure again (LBFGS) runs the step again: the last run counts.
        self._losses, self._pair, self._seen, self._refused, self._calls = None, None, [], [], []
        self._by_name = self._records = 0
        self._is_running = True
        try:
            with self._intercepted(), self._watched():
                output = step()
        finally:
            self._is_running = False
        source = None
        returned = output.get("per_sample_loss") if isinstance(output, Mapping) else None
        if returned is not None:
            self._check_weighted_once()
            output, source = self._weigh_returned(output, returned), "returned"
        elif self.source == "explicit":
            self._check_explicit(output)
        elif output is None:
            self._losses = None
            return None
        elif self.source == "batch":
            output = self._weigh_batch(output)
        else:
            self._check_captured()
        self._learn(source)
        return output

    def _learn(self, source: str | None) -> None:
        """Remember of a training step how its losses are had and which calls are trained on."""
        if self._batch_size is None:
            return  # a reference batch
        self.trained_on = self._calls
        self._has_pairs = self._pair is not None
        if self.source == "":
            named = ",".join(sorted(set(self._seen))) if self._by_name == len(self._seen) else "mode"
            self.source = source or named
            if self.source == "mode" and hasattr(self._previous, "_torchdynamo_orig_callable"):
                raise MisconfigurationException(
                    f"training_step is compiled and reaches {', '.join(self._seen)} by a name that AlignPrune cannot "
                    f"intercept; call it as torch.nn.functional.{self._seen[0]}."
                )

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """See every torch function, where it is not known or not enough which name to intercept."""
        if self.source not in ("", "mode"):
            yield
            return
        # A compiled step would hide its losses from the mode: the first one runs as it is written.
        with force_eager() if self.source == "" else nullcontext(), LossMode(self._handle):
            yield

    @contextmanager
    def _intercepted(self) -> Iterator[None]:
        """Replace the losses' names in ``torch.nn.functional`` until the step ends, however it ends."""
        if self.source == "":
            replaced = {name: self._noted(name) for name in LOSSES}
        elif self.source in ("mode", "returned", "explicit", "batch"):
            replaced = {}
        else:
            # All of them: a loss may join, or take another's place, in a later epoch.
            replaced = {name: self._handled(name) for name in LOSSES}
        before = {name: getattr(F, name) for name in replaced}
        try:
            for name, function in replaced.items():
                setattr(F, name, function)
            yield
        finally:
            for name, function in before.items():
                setattr(F, name, function)

    def _handled(self, name: str) -> Callable[..., Any]:
        """The function that captures, for a compiled step too, which breaks off its graph here to call it.

        A compiler that traced into it would take what changes from step to step, such as the weights, for constants.
        One object serves all steps, as the step would be compiled again for another.
        """
        if name not in self._handlers:

            def handled(*args: Any, **kwargs: Any) -> Any:
                return self._handle(name, *args, **kwargs)

            handled.__name__ = name
            self._handlers[name] = torch.compiler.disable(handled)
        return self._handlers[name]

    def _noted(self, name: str) -> Callable[..., Any]:
        """The function itself, that notes whether it was reached by its name."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            before = len(self._seen)
            result = LOSSES[name](*args, **kwargs)
            self._by_name += len(self._seen) - before
            return result

        noted.__name__ = name
        return noted

    def _handle(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """One call of a loss function: record its losses and return what the user asked for, weighted."""
        call = LossCall(name, args, kwargs)
        is_training, number = self._batch_size is not None, len(self._calls)
        counts = call.is_trained_on() if is_training else (self.trained_on[number:] or [True])[0]
        self._calls.append(counts)
        if not counts:
            return call.result()  # a metric
        if unknown := call.unknown_options():
            self._refused.append(f"{name} with {unknown}")
            return call.result()
        elements = call.elements()
        if elements.ndim == 0 or (is_training and len(elements) != self._batch_size):
            self._refused.append(f"{name} over {tuple(elements.shape)}{self._hint(elements)}")
            return call.result()
        self._seen.append(name)
        if self.observes == "loss":
            self._record(call.per_sample(elements))
        elif call.has_logits():
            self._record(call.from_logits(self.observes, elements))
            # Where training shows no pair, as it has several losses, nothing that is compared with it may have one.
            has_pair = self.observes == "rival" and self._records == 1 and (is_training or self._has_pairs)
            self._pair = call.pair() if has_pair else None
        elif self.observes == "rival" or not is_training:
            self._record(call.per_sample(elements))
            self._pair = None
        if self._weight is not None:
            elements = elements * self._weight.to(elements.dtype).view(-1, *[1] * (elements.ndim - 1))
        return call.reduced(elements)

    def _hint(self, elements: Tensor) -> str:
        """What to do about tokens or pixels flattened into the batch, whose order would only be a guess."""
        flattened = elements.ndim == 1 and self._batch_size and len(elements) % self._batch_size == 0
        return ", so keep the batch apart, as in cross_entropy(logits [b, C, T], targets [b, T])" if flattened else ""

    def _record(self, losses: Tensor) -> None:
        losses = losses.detach().float()
        self._records += 1
        if self._losses is None:
            self._losses = losses
        elif self.observes in ("el2n", "margin", "rival"):
            self._losses = self._losses + (losses - self._losses) / self._records  # their mean
        else:
            self._losses = self._losses + losses

    def _of_batch(self, loss: Tensor) -> Tensor:
        """One number as the loss of each sample: float[b], or float[] where it is not known how many there are."""
        return loss.detach().expand(self._batch_size) if self._batch_size is not None else loss.detach()

    def _weigh_batch(self, output: Any) -> Any:
        """A step's output with its loss weighted, where that is all there is."""
        loss: Any = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            self._check_captured()
        self._record(self._of_batch(loss.reshape(())))
        if self._weight is None:
            return output
        loss = loss * self._weight.mean().to(loss.dtype)
        return {**output, "loss": loss} if isinstance(output, Mapping) else loss

    def _weigh_returned(self, output: Mapping[str, Any], losses: Tensor) -> dict[str, Any]:
        self._check_one_a_sample(losses, "returned per_sample_loss")
        if self.observes in ("el2n", "margin"):
            raise MisconfigurationException(
                f"training_step returned per_sample_loss, but the score reads {self.observes} from the logits of its loss; "
                "call cross_entropy or nll_loss in training_step, or use another score."
            )
        if self._module is not None and not self._module.automatic_optimization:
            raise MisconfigurationException(
                "training_step returned per_sample_loss under manual optimization, after the gradient that its weights "
                "should reach; pass the losses through AlignPrune.weight() before manual_backward."
            )
        if self._batch_size is not None and not losses.requires_grad:
            raise MisconfigurationException(
                "training_step returned a per_sample_loss without a graph, so that sample weights cannot reach the "
                "gradient; return it without detach()."
            )
        self._losses, self._pair = losses.detach().float(), None
        if self._weight is None:
            return dict(output)
        extra = ((self._weight.to(losses.dtype) - 1) * losses).mean()
        return {**output, "loss": output["loss"] + extra, "per_sample_loss": losses.detach()}

    def _check_one_a_sample(self, losses: Any, how: str) -> None:
        given = f"{tuple(losses.shape)}" if isinstance(losses, Tensor) else f"{type(losses).__name__}"
        if not isinstance(losses, Tensor) or losses.ndim != 1 or len(losses) != (self._batch_size or len(losses)):
            raise MisconfigurationException(
                f"training_step {how} {given}, but one loss for each of the batch's {self._batch_size} samples is "
                "expected; give a tensor of shape [batch]."
            )

    def _check_weighted_once(self) -> None:
        """Refuse returned losses that interception, or a call of ``weight()``, has weighted on the way."""
        if self.source == "explicit":
            is_twice = self._losses is not None
        else:
            # The first batch is intercepted before it is known to return its losses. Ones and zeros (padding) can
            # be applied twice.
            is_twice = (
                bool(self._seen) and self._weight is not None and bool(((self._weight * (self._weight - 1)) != 0).any())
            )
        if is_twice:
            raise MisconfigurationException(
                "training_step returned a per_sample_loss whose samples had their weights already; return it or call "
                "weight(), with AlignPrune(capture_mode='explicit')."
            )

    def _check_explicit(self, output: Any) -> None:
        is_manual = self._module is not None and not self._module.automatic_optimization
        if output is None and not is_manual:
            self._losses = None  # a skipped batch
        elif self._losses is None:
            raise MisconfigurationException(
                "AlignPrune(capture_mode='explicit') got no losses from training_step; pass them through "
                'AlignPrune.weight(), or return {"loss": ..., "per_sample_loss": float[batch]}.'
            )

    def _check_captured(self) -> None:
        if self._refused and self._losses is not None and self._batch_size is not None:
            raise MisconfigurationException(
                f"training_step calls {', '.join(self._seen)} once a sample, but also {'; '.join(self._refused)}, "
                'which is not; choose by AlignPrune(capture_mode="explicit"), or return {"loss": ..., "per_sample_loss": '
                "...}."
            )
        if self._losses is None and self._seen:
            raise MisconfigurationException(
                f"The score reads {self.observes} from logits, but training_step calls {', '.join(self._seen)}, which has "
                "none; use cross_entropy or nll_loss, or another score."
            )
        if self._losses is None:
            saw = f" (it saw {'; '.join(self._refused)})" if self._refused else ""
            raise MisconfigurationException(
                f"AlignPrune could not capture a loss for each sample of this batch of {self._batch_size}{saw}: it "
                f"knows {', '.join(LOSSES)} of torch.nn.functional; with another loss, return "
                f'{{"loss": ..., "per_sample_loss": float[batch]}} from training_step, or use score="batch_loss".'
            )
