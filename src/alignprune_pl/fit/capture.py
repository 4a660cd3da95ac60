"""What each sample of a batch shows of a training step that knows nothing of it, and sample weights into the step.

Nothing that the step computes is changed. From the loss that it returns the autograd graph is followed to where each
sample's gradient passes (:mod:`alignprune_pl.fit.graph`); hooks there multiply that gradient by the sample's weight, and
hooks at the loss's elements read what each sample counts for (:mod:`alignprune_pl.fit.recorder`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.optim.optimizer import register_optimizer_step_pre_hook

from alignprune_pl.core.trajectory import Observable, Observed
from alignprune_pl.fit.graph import Cut, NoCutError, cut
from alignprune_pl.fit.interception import Armed, Watch, force_eager, has_compiled_parts, is_compiled, losses_apart
from alignprune_pl.fit.recorder import Recorder
from alignprune_pl.fit.terms import Classified, Terms, terms

Kind = Literal["", "terms", "values", "norm", "given", "batch"]


def captured(observes: Observable, is_explicit: bool, loss_fn: Callable[..., Any] | None) -> Observable:
    """What to capture: a step that gives its losses, and a ``loss_fn`` that is compared with it, have no logits."""
    return "loss" if observes == "rival" and (is_explicit or loss_fn is not None) else observes


class LossCapture:
    """Follows one batch at a time through ``training_step`` and its backward pass.

    Between :meth:`arm` and :meth:`disarm` the module's ``training_step`` is wrapped, and its ``manual_backward`` if it
    optimises by hand. A module may instead return ``{"loss": ..., "per_sample_loss": ...}``; the weights then reach the
    loss as ``loss + mean((weight - 1) * per_sample_loss)``, so that other terms of the loss stay as they are.

    Args:
        explicit: The step says which losses count, by :meth:`weigh` or by returning them.
        observes: What of each sample is captured. For ``"batch_loss"`` that is the loss which the step returns, and its
            gradient gets the mean of the weights.

    Attributes:
        kind: How samples are told apart: ``""`` before the first batch, ``"terms"`` of the loss that its graph tells,
            ``"values"`` that have to be watched for while the step runs, the ``"norm"`` of each sample's gradient,
            ``"given"`` by the step, or ``"batch"``, not at all.
    """

    def __init__(self, explicit: bool = False, observes: Observable = "loss") -> None:
        self.observes = observes
        self.is_explicit = explicit
        self.kind: Kind = "given" if explicit else "batch" if observes == "batch_loss" else ""
        self._module: LightningModule | None = None
        self._replaced: dict[str, Any] = {}
        self._size: int | None = None
        self._weight: Tensor | None = None
        self._is_running = False
        self._is_whole = True
        self._has_pairs = True  # whether the last training step had them
        self._has_followed = False
        self._given: Tensor | None = None
        self._places: Tensor | None = None
        self._watch: Watch | None = None
        self._recorders: list[Recorder] = []
        self._heads: tuple[nn.Parameter, ...] = ()

    def arm(self, module: LightningModule, batch_size: int, weight: Tensor | None) -> None:
        """Wrap ``module.training_step`` for one batch.

        Args:
            module: The module; its class is left alone, the wrapper is an attribute of the instance.
            batch_size: b, the number of samples that the batch must have.
            weight: float[b] on the module's device, or None for ones.
        """
        self.disarm()
        self._module, self._size, self._weight = module, batch_size, weight
        wrappers: dict[str, Callable[..., Any]] = {"training_step": self._run}
        if not module.automatic_optimization:
            wrappers["manual_backward"] = self._run_backward
        for name, run in wrappers.items():
            # torch.compile leaves its own wrapper there, which must come back.
            self._replaced[name] = module.__dict__.get(name)
            module.__dict__[name] = Armed(getattr(module, name), run)

    def disarm(self) -> None:
        """Put ``training_step`` back, and forget what was not taken."""
        for name, previous in self._replaced.items():
            if previous is None:
                vars(self._module).pop(name, None)
            else:
                vars(self._module)[name] = previous
        self._replaced = {}
        self._module = self._size = self._weight = self._given = self._places = self._watch = None
        self._recorders = []

    @property
    def is_armed(self) -> bool:
        """Whether a batch is under way."""
        return self._module is not None

    def take(self) -> Observed | None:
        """Hand over what the step and its backward pass have shown, once: float[b], or None where there is nothing."""
        given, self._given = self._given, None
        recorders, self._recorders = self._recorders, []
        if given is not None:
            return Observed(given)
        found = [seen for seen in (recorder.observed() for recorder in recorders) if seen is not None]
        if not found:
            return None
        return self._in_batch(found[0] if len(found) == 1 else _sum(found))

    def weigh(self, losses: Tensor) -> Tensor:
        """Record the losses that a step in explicit mode trains on (float[b]), and return them weighted.

        Where the batch's loss will do, they may be that one number.

        Raises:
            MisconfigurationException: Outside of explicit mode, or if these are not one a sample.
        """
        if not self._is_running:
            return losses
        if not self.is_explicit:
            raise MisconfigurationException(
                "training_step calls weight() but its losses are captured already, and would be weighted twice; pass "
                "AlignPrune(capture_mode='explicit')."
            )
        if self.observes == "batch_loss" and losses.numel() == 1:
            self._give(self._of_batch(losses.reshape(())))
            return losses if self._weight is None else losses * self._weight.mean().to(losses.dtype)
        self._check_one_a_sample(losses, "gave weight()")
        self._give(losses.detach().float())
        return losses if self._weight is None else losses * self._weight.to(losses.dtype)

    def state_dict(self) -> dict[str, Any]:
        """What the first batch has taught."""
        return {"kind": self.kind, "is_whole": self._is_whole, "has_pairs": self._has_pairs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier run's first batch has taught."""
        if not self.is_explicit and self.kind != "batch":
            self.kind, self._is_whole, self._has_pairs = state["kind"], state["is_whole"], state["has_pairs"]

    # ---- batches that are not trained on ----------------------------------------------------------------

    def observe(self, module: LightningModule, step: Callable[[], Any], size: int) -> Observed:
        """What ``size`` samples show that are not trained on, such as those of a reference batch: float[size].

        Args:
            module: The module, in eval mode.
            step: Its training step on the batch.
            size: m.

        Raises:
            MisconfigurationException: If the step has no loss in eval mode, or not one that can be told by samples.
        """
        with self._aside(size):
            loss = self._evaluated(module, step)
            if loss is not None:
                self._backward_to_output(loss, size)
            observed = self.take()
        if observed is None:
            raise MisconfigurationException(
                "training_step has shown nothing of the samples of a reference batch, in eval mode; return the loss in "
                "that mode too, or pass AlignPrune(loss_fn=...)."
            )
        # Where training shows no pair, as it has several losses, nothing that is compared with it may have one.
        return observed if self._has_pairs else Observed(observed.value, None, 0, observed.seen)

    def classify(self, module: LightningModule, step: Callable[[], Any], size: int) -> tuple[Tensor, Tensor] | None:
        """Log-probabilities float32[size, C] and labels int64[size] of samples that are not trained on.

        Of soft labels the largest counts. None where the step gives its losses itself, where its loss is not one of
        logits and classes, or not of one class for each sample.
        """
        if self.kind == "given":
            return None
        with self._aside(size):
            self.kind = "" if self.kind == "batch" else self.kind
            loss = self._evaluated(module, step)
            if loss is None or not loss.requires_grad:
                return None
            self._backward_to_output(loss, size, classifies=True)
            found = self._recorders[0].classified
        return found[0] if len(found) == 1 else None

    @contextmanager
    def _aside(self, size: int) -> Iterator[None]:
        """Follow a batch of which nothing is learnt."""
        learnt = (self.kind, self._is_whole, self._has_pairs)
        self._size, self._weight, self._module = size, None, None
        try:
            with torch.enable_grad():
                yield
        finally:
            self.kind, self._is_whole, self._has_pairs = learnt
            self._restart()
            self._size = None

    def _evaluated(self, module: LightningModule, step: Callable[[], Any]) -> Tensor | None:
        """The loss of a step; None where it has given what it shows."""
        with _trained(module, self._heads):
            loss = self._loss_of(module, step)
        if loss is None or loss.requires_grad or not self._heads:
            return loss
        self._heads = ()  # another head answers in eval mode
        return self._loss_of(module, step)

    def _loss_of(self, module: LightningModule, step: Callable[[], Any]) -> Tensor | None:
        self._restart()
        with self._watched(module, module.training_step):
            self._is_running = True
            try:
                output = step()
            finally:
                self._is_running = False
        returned = output.get("per_sample_loss") if isinstance(output, Mapping) else None
        if returned is not None:
            self._check_one_a_sample(returned, "returned per_sample_loss")
            self._given = returned.detach().float()
        if self._given is not None:
            return None
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor) or loss.numel() != 1 or self.is_explicit:
            raise MisconfigurationException(
                f"training_step gives {_described(loss)} instead of a loss for a reference batch, in eval mode; pass "
                "AlignPrune(loss_fn=...), which gives one loss for each sample of a batch."
            )
        if self.kind == "batch":
            self._give(self._of_batch(loss.reshape(())))
            return None
        return loss

    def _backward_to_output(self, loss: Tensor, size: int, classifies: bool = False) -> None:
        if not loss.requires_grad:
            raise MisconfigurationException(
                "training_step gives a loss without a graph for a reference batch, in eval mode, so that it cannot be told "
                "by samples; pass AlignPrune(loss_fn=...), which gives one loss for each sample of a batch."
            )
        at = self._follow(loss, size, classifies)
        torch.autograd.grad(loss, [GradientEdge(edge.into, edge.output) for edge in at.exits], allow_unused=True)

    # ---- batches that are trained on --------------------------------------------------------------------

    def _run(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._restart()
        self._is_running = True
        try:
            with self._watched(self._module, step), self._guarded():
                output = step(*args, **kwargs)
        finally:
            self._is_running = False
        return self._passed(output)

    def _restart(self) -> None:
        # An optimiser that calls its closure again (LBFGS) runs the step again: the last run counts.
        self._recorders, self._given, self._places, self._watch = [], None, None, None

    @contextmanager
    def _watched(self, module: nn.Module | None, step: Callable[..., Any]) -> Iterator[None]:
        """Let the step show what its graph alone would not."""
        with ExitStack() as stack:
            if is_compiled(step):
                stack.enter_context(losses_apart())
            elif self.kind in ("", "values") and module is not None and not has_compiled_parts(module):
                stack.enter_context(force_eager())  # a compiler would not know what to do with it
                self._watch = stack.enter_context(Watch())
            yield

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Refuse a step that optimises by hand without showing what it goes back from."""
        if self._module is None or self._module.automatic_optimization or self.is_explicit or self._has_followed:
            yield
            return

        def refuse(*_: Any) -> None:
            if not self._has_followed:
                raise MisconfigurationException(
                    "training_step optimises by hand, but AlignPrune has not seen the loss; call self.manual_backward(loss) "
                    "and not loss.backward(), or pass AlignPrune(capture_mode='explicit')."
                )

        handle = register_optimizer_step_pre_hook(refuse)
        try:
            yield
        finally:
            handle.remove()

    def _run_backward(self, backward: Callable[..., Any], loss: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.kind == "batch":
            self._follow_batch(loss)
        elif not self.is_explicit:
            self._follow(loss, self._rows())
        return backward(loss, *args, **kwargs)

    def _passed(self, output: Any) -> Any:
        """What the step has returned, with hooks in its graph."""
        is_manual = self._module is not None and not self._module.automatic_optimization
        returned = output.get("per_sample_loss") if isinstance(output, Mapping) else None
        if isinstance(output, Mapping) and output.get("samples") is not None:
            self._places = self._checked_places(output["samples"])
        if returned is not None:
            return self._weigh_returned(output, returned, is_manual)
        if self.is_explicit:
            self._check_explicit(output, is_manual)
        elif output is not None and not is_manual:
            loss: Any = output.get("loss") if isinstance(output, Mapping) else output
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise MisconfigurationException(
                    f"training_step returned {_described(loss)} as its loss, but one number is expected; return the batch's "
                    "loss."
                )
            if self.kind == "batch":
                self._follow_batch(loss)
            elif loss.requires_grad:
                self._follow(loss, self._rows())
        return output

    def _follow_batch(self, loss: Tensor) -> None:
        self._has_followed = True
        self._give(self._of_batch(loss.detach().reshape(())))
        if self._weight is not None and loss.requires_grad:
            mean = self._weight.mean()
            loss.register_hook(lambda gradient: gradient * mean.to(gradient.dtype))

    def _follow(self, loss: Tensor, rows: int, classifies: bool = False) -> Cut:
        """Put hooks into the graph of what is trained on."""
        self._has_followed = self._has_followed or self.is_armed
        try:
            at = cut(loss.grad_fn, rows)
        except NoCutError as error:
            if "CompiledFunction" in str(error):
                raise MisconfigurationException(
                    "training_step is compiled with its loss, which then shows nothing by samples; call the loss as "
                    "torch.nn.functional.cross_entropy, where the compiler is made to stop, or compile the network alone."
                ) from error
            raise MisconfigurationException(
                f"AlignPrune finds no tensor of the batch's {rows} samples that all of training_step's gradient passes, but "
                f"{error}; keep the batch the first dimension of the network's output, return "
                '{"loss": ..., "samples": int64[m]} if the batch lacks some of its samples, or '
                '{"loss": ..., "per_sample_loss": float[batch]}, or use score="batch_loss".'
            ) from error
        self._heads = at.heads
        told = self._told(loss, at, rows)
        has_logits = told is not None and any(isinstance(term, Classified) for term, _ in told.found)
        if self.observes in ("el2n", "margin") and not has_logits:
            raise MisconfigurationException(
                f"The score reads {self.observes} from logits, but training_step's loss shows none; use cross_entropy or "
                "nll_loss, or another score."
            )
        weight = self._weight if self._weight is None or self._places is None else self._weight[self._places]
        self._recorders.append(Recorder(loss, at, told, rows, weight, self.observes, classifies))
        return at

    def _told(self, loss: Tensor, at: Cut, rows: int) -> Terms | None:
        """What of the loss is told by samples, as the first step has shown that it can be; None for the norm."""
        if self.kind == "norm":
            return None
        told = terms(loss.grad_fn, at, rows, {})
        if not told.is_whole and self._watch is not None:
            told = terms(loss.grad_fn, at, rows, self._watch.seen)
        if self.kind == "":
            self.kind = "values" if told.needs_values else "terms" if told.found else "norm"
            self._is_whole = told.is_whole
            if not told.found:
                self._say(
                    "the norm of each sample's gradient at the network's output, as its loss cannot be told by samples"
                )
                return None
            if not told.is_whole:
                self._say(
                    "a part of training_step's loss; the rest, which is weighted as well, cannot be told by samples"
                )
        elif self._is_whole and not told.is_whole:
            self.kind = "values"  # a later epoch trains on more: watch it from the next step on
        return told

    def _say(self, what: str) -> None:
        if self.is_armed:
            rank_zero_info(f"AlignPrune observes {what}.")

    # ---- what was shown ---------------------------------------------------------------------------------

    def _rows(self) -> int:
        return self._size or 0 if self._places is None else len(self._places)

    def _in_batch(self, observed: Observed) -> Observed:
        """What all of the batch's samples have shown, of which the step may have had only some."""
        if self.is_armed:
            self._has_pairs = observed.pair is not None
        if self._places is None or self._size is None:
            return observed
        value = observed.value.new_full((self._size,), torch.nan)
        seen = torch.zeros_like(value, dtype=torch.bool)
        value[self._places] = observed.value
        seen[self._places] = True if observed.seen is None else observed.seen
        pair = None
        if observed.pair is not None:
            pair = observed.pair.new_full((self._size,), -1)
            pair[self._places] = observed.pair
        return Observed(value, pair, observed.classes, seen)

    def _give(self, losses: Tensor) -> None:
        self._given = losses if self._given is None else self._given + losses

    def _of_batch(self, loss: Tensor) -> Tensor:
        """One number as the loss of each sample: float32[b]."""
        return loss.detach().float().expand(self._size or 1)

    def _weigh_returned(self, output: Mapping[str, Any], losses: Tensor, is_manual: bool) -> dict[str, Any]:
        self._check_one_a_sample(losses, "returned per_sample_loss")
        if self._given is not None:
            raise MisconfigurationException(
                "training_step returned a per_sample_loss whose samples had their weights already; return it or call "
                "weight()."
            )
        if self.observes in ("el2n", "margin"):
            raise MisconfigurationException(
                f"training_step returned per_sample_loss, but the score reads {self.observes} from the logits of its loss; "
                "call cross_entropy or nll_loss in training_step, or use another score."
            )
        if is_manual:
            raise MisconfigurationException(
                "training_step returned per_sample_loss under manual optimization, after the gradient that its weights "
                "should reach; pass the losses through AlignPrune.weight() before manual_backward, with "
                "AlignPrune(capture_mode='explicit')."
            )
        if not losses.requires_grad:
            raise MisconfigurationException(
                "training_step returned a per_sample_loss without a graph, so that sample weights cannot reach the "
                "gradient; return it without detach()."
            )
        if self.kind == "":
            self.kind = "given"
        self._give(losses.detach().float())
        if self._weight is None:
            return dict(output)
        extra = ((self._weight.to(losses.dtype) - 1) * losses).mean()
        return {**output, "loss": output["loss"] + extra, "per_sample_loss": losses.detach()}

    def _checked_places(self, given: Any) -> Tensor:
        places, size = torch.as_tensor(given), self._size or 0
        places = places.nonzero().flatten() if places.dtype == torch.bool else places
        is_one_each = places.ndim == 1 and places.dtype == torch.int64 and 0 < len(places) == len(places.unique())
        if not is_one_each or not 0 <= int(places.min()) <= int(places.max()) < size:
            raise MisconfigurationException(
                f"training_step returned samples={_described(given)}, but the places of samples in the batch of {size} are "
                "expected, each once; return int64[m]."
            )
        return places if self._weight is None else places.to(self._weight.device)

    def _check_one_a_sample(self, losses: Any, how: str) -> None:
        if not isinstance(losses, Tensor) or losses.ndim != 1 or len(losses) != (self._size or len(losses)):
            raise MisconfigurationException(
                f"training_step {how} {_described(losses)}, but one loss for each of the batch's {self._size} samples is "
                "expected; give a tensor of shape [batch]."
            )

    def _check_explicit(self, output: Any, is_manual: bool) -> None:
        if output is None and not is_manual:
            self._given = None  # a skipped batch
        elif self._given is None:
            raise MisconfigurationException(
                "AlignPrune(capture_mode='explicit') got no losses from training_step; pass them through "
                'AlignPrune.weight(), or return {"loss": ..., "per_sample_loss": float[batch]}.'
            )


@contextmanager
def _trained(module: nn.Module, heads: tuple[nn.Parameter, ...]) -> Iterator[None]:
    """Let a graph begin at the network's output, where it is known which parameters make that."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    kept = {id(head) for head in heads}
    others = [parameter for parameter in parameters if id(parameter) not in kept]
    if not heads or len(others) != len(parameters) - len(kept):
        yield
        return
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _sum(found: list[Observed]) -> Observed:
    """What several losses of a step show together."""
    values = torch.stack([observed.value for observed in found])
    seen = ~values.isnan().all(dim=0)
    return Observed(torch.where(seen, values.nansum(dim=0), torch.nan), seen=seen)


def _described(given: Any) -> str:
    return f"{tuple(given.shape)}" if isinstance(given, Tensor) else f"{type(given).__name__}"
