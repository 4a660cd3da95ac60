"""One run of a training step, followed from its loss back to the network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from alignprune_pl.core.trajectory import Observable, Observed
from alignprune_pl.fit.given import checked_losses, checked_places, described
from alignprune_pl.fit.graph import Cut, NoCutError, cut
from alignprune_pl.fit.interception import Watch, force_eager, has_compiled_parts, is_compiled, losses_apart
from alignprune_pl.fit.layouts import Layouts
from alignprune_pl.fit.likeness import Likeness, likeness
from alignprune_pl.fit.recorder import Recorder, Scale
from alignprune_pl.fit.terms import Classified, Terms, terms
from alignprune_pl.fit.twins import MisconfigurationException

Kind = Literal["", "terms", "values", "norm", "given", "batch"]
SoFar = tuple[int, Tensor | None]  # how many losses were followed, and what the step has given itself


@dataclass
class Learnt:
    """What earlier runs have taught.

    Attributes:
        kind: How samples are told apart. ``"terms"``: by terms of the loss that its graph shows. ``"values"``: by values
            that have to be watched for while the step runs. ``"norm"``: by the norm of each sample's gradient. ``"given"``:
            by the step itself. ``"batch"``: not at all. ``""``: not known, before the first batch.
        is_whole: Whether that is all of the loss which depends on samples.
        has_pairs: Whether the last training step showed label and rival.
        scales: Of each loss of a step, by its number, what was shown where its graph does not say whether it is a mean.
        has_followed: Whether a loss was followed in training.
        heads: The parameters that make the network's output, where they are one layer's and the same in all steps; None
            before the first.
        is_narrow: Whether a step in eval mode shows as much with a graph that begins at the heads; None while not tried.
        alike: What was found in the last graph; None of one that is not plain.
        layouts: Which dimensions may be the batch, by its sizes so far.
        has_changed: Whether the loss has become one that shows less, so that each step is watched from there on.
    """

    kind: Kind = ""
    is_whole: bool = True
    has_pairs: bool = True
    scales: dict[int, Scale] = field(default_factory=dict)
    has_followed: bool = False
    heads: tuple[nn.Parameter, ...] | None = None
    is_narrow: bool | None = None
    alike: Likeness | None = None
    layouts: Layouts = field(default_factory=Layouts)
    has_changed: bool = False


class Pass:
    """One run of a step.

    Args:
        learnt: What earlier ones have taught; this one adds to it.
        observes: What of each sample is captured.
        size: b, the batch's samples as the sampler asked for them.
        weight: float[b], or None for ones.
        trains: Whether it is trained on.

    Attributes:
        given: float[b], the losses that the step has given itself; None so far.
        recorders: One for each loss that was followed.
    """

    def __init__(
        self, learnt: Learnt, observes: Observable, size: int, weight: Tensor | None = None, trains: bool = False
    ) -> None:
        self.given: Tensor | None = None
        self.recorders: list[Recorder] = []
        self._learnt, self._observes, self._size, self._weight, self._trains = learnt, observes, size, weight, trains
        self._places: Tensor | None = None
        self._watch: Watch | None = None
        self._is_compiled: Callable[[], bool] = lambda: False
        self._running: list[Recorder] = []
        self._handles: list[Any] = []

    @contextmanager
    def watched(self, module: LightningModule, step: Any) -> Iterator[None]:
        """Let the step show what its graph alone would not."""
        self._is_compiled = lambda: is_compiled(step) or has_compiled_parts(module)
        with ExitStack() as stack:
            if is_compiled(step):
                stack.enter_context(losses_apart())
            elif self._learnt.kind in ("", "values") and not self._is_compiled():
                stack.enter_context(force_eager())  # a compiler would not know what to do with it
                self._watch = stack.enter_context(Watch())
            yield

    def weigh(self, losses: Tensor) -> Tensor:
        """Take losses that the step trains on, float[b] or the batch's, and give them back weighted."""
        if self._observes == "batch_loss" and losses.numel() == 1:
            self._give(losses.expand(self._size))
            return losses if self._weight is None else losses * self._weight.mean().to(losses.dtype)
        self._give(checked_losses(losses, self._size, "gave weight()"))
        return losses if self._weight is None else losses * self._weight.to(losses.dtype)

    def take_returned(self, output: Mapping[str, Any]) -> dict[str, Any]:
        """What the step has returned with its losses, ``per_sample_loss``: their weights are put into its loss."""
        losses = checked_losses(output["per_sample_loss"], self._size, "returned per_sample_loss")
        if self.given is not None:
            raise MisconfigurationException(
                "training_step returned a per_sample_loss whose samples had their weights already; return it or call "
                "weight()."
            )
        if self._observes in ("el2n", "margin"):
            raise MisconfigurationException(
                f"training_step returned per_sample_loss, but the score reads {self._observes} from the logits of its loss; "
                "call cross_entropy or nll_loss in training_step, or use another score."
            )
        if self._trains and not losses.requires_grad:
            raise MisconfigurationException(
                "training_step returned a per_sample_loss without a graph, so that sample weights cannot reach the "
                "gradient; return it without detach()."
            )
        self._learnt.kind = self._learnt.kind or "given"
        self._give(losses)
        if self._weight is None:
            return dict(output)
        extra = ((self._weight.to(losses.dtype) - 1) * losses).mean()
        return {**output, "loss": output["loss"] + extra, "per_sample_loss": losses.detach()}

    def follow(self, loss: Tensor, places: Any = None, classifies: bool = False) -> Cut | None:
        """Put hooks into the graph of what is trained on.

        Args:
            loss: It, with its graph.
            places: Which of the batch's samples the step has, int64[m] or bool[b]; by default all.
            classifies: Whether to keep log-probabilities too.

        Returns:
            Where each sample's gradient passes; None where samples are not told apart.

        Raises:
            MisconfigurationException: If it passes no such place, or the loss has no logits to read.
        """
        self._learnt.has_followed = self._learnt.has_followed or self._trains
        if self._learnt.kind == "batch":
            self._follow_batch(loss)
            return None
        if places is not None:
            self._places = checked_places(places, self._size).to(loss.device)
        rows = self._size if self._places is None else len(self._places)
        at, told = self._found(loss, rows)
        if self._trains:
            heads = at.heads if self._learnt.heads is None else self._learnt.heads
            self._learnt.heads = at.heads if [*map(id, heads)] == [*map(id, at.heads)] else ()
        has_logits = told is not None and any(isinstance(term, Classified) for term, _ in told.found)
        if self._observes in ("el2n", "margin") and not has_logits:
            raise MisconfigurationException(
                f"The score reads {self._observes} from logits, but training_step's loss shows none; use cross_entropy or "
                "nll_loss, or another score."
            )
        weight = self._weight if self._weight is None or self._places is None else self._weight[self._places]
        scale = self._learnt.scales.get(len(self.recorders))
        self.recorders.append(Recorder(loss, at, told, rows, weight, self._observes, self._running, scale, classifies))
        return at

    def go_back(self, loss: Tensor, classifies: bool = False) -> None:
        """Follow a loss that is not trained on, and go back from it to the network's output."""
        if self._learnt.kind != "batch" and not loss.requires_grad:
            raise MisconfigurationException(
                "training_step gives a loss without a graph in eval mode, for a reference or probe batch, so that it cannot "
                "be told by samples; pass AlignPrune(loss_fn=...) with one loss for each sample."
            )
        at = self.follow(loss, classifies=classifies)
        if at is not None:
            edges = [GradientEdge(edge.into, edge.output) for edge in at.exits]
            torch.autograd.grad(loss, edges, allow_unused=True)

    def observed(self) -> Observed | None:
        """What the samples have shown: float[b]; None where there is nothing, or before the backward pass."""
        if self.given is not None:
            return Observed(self.given)
        found = [seen for seen in (recorder.observed() for recorder in self.recorders) if seen is not None]
        if not found:
            return None
        observed = found[0] if len(found) == 1 else _together(found, self._observes == "loss")
        if self._trains:
            for number, recorder in enumerate(self.recorders):
                if recorder.scale is not None:
                    self._learnt.scales[number] = recorder.scale
            self._learnt.has_pairs = observed.pair is not None
        return observed if self._places is None else self._in_batch(observed, self._places)

    def forget(self) -> None:
        """Take the hooks out of the graph again."""
        for recorder in self.recorders:
            recorder.remove()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def so_far(self) -> SoFar:
        """What the step has shown until now."""
        return len(self.recorders), self.given

    def back_to(self, so_far: SoFar) -> None:
        """Forget what the step has shown since."""
        self.forget()
        number, self.given = so_far
        del self.recorders[number:]

    def _follow_batch(self, loss: Tensor) -> None:
        self._give(loss.detach().reshape(()).expand(self._size))
        if self._weight is not None and loss.requires_grad:
            mean = self._weight.mean()
            self._handles.append(loss.register_hook(lambda gradient: gradient * mean.to(gradient.dtype)))

    def _found(self, loss: Tensor, rows: int) -> tuple[Cut, Terms | None]:
        """Where gradients pass and what is told by samples; None for the norm."""
        learnt = self._learnt
        found = None if learnt.alike is None else learnt.alike.found(loss.grad_fn, rows)
        if found is not None:
            return found
        at = _cut(loss, rows, False, learnt.layouts)
        told = self._told(loss, at, rows)
        if told is None:
            learnt.alike = None
            return _cut(loss, rows, True, learnt.layouts), None
        learnt.alike = likeness(loss.grad_fn, at, told, rows) if learnt.kind == "terms" else None
        return at, told

    def _told(self, loss: Tensor, at: Cut, rows: int) -> Terms | None:
        """What of the loss is told by samples, as the first step has shown that it can be; None for the norm."""
        learnt = self._learnt
        if learnt.kind == "norm":
            return None
        told = terms(loss.grad_fn, at, rows, {})
        if not told.is_whole and self._watch is not None:
            told = terms(loss.grad_fn, at, rows, self._watch.seen)
        if learnt.kind == "":
            return self._learn(told)
        if not self._trains or (told.found and (told.is_whole or not learnt.is_whole)):
            return told
        if self.recorders and not told.found:
            if learnt.is_whole:  # beside another loss of the step, by hand, that can be told
                learnt.is_whole = False
                self._say(
                    "a part of training_step's losses; the rest, which is weighted as well, cannot be told by samples"
                )
            return told
        # Another loss than before: of it is learnt what would be of a first one.
        learnt.kind, learnt.is_narrow, learnt.scales, learnt.has_changed = "", None, {}, True
        if self._watch is not None or self._is_compiled():
            return self._learn(told)
        if not told.found:
            self._say("nothing of this batch, as training_step's loss has changed; it is watched from the next one on")
        return told

    def _learn(self, told: Terms) -> Terms | None:
        """Keep how samples are told apart from here on, and say what is not; None for the norm."""
        learnt = self._learnt
        needs_watch = told.needs_values or (learnt.has_changed and self._watch is not None)
        learnt.kind = "norm" if not told.found else "values" if needs_watch else "terms"
        learnt.is_whole = told.is_whole
        if not told.found:
            self._say(
                "the norm of each sample's gradient at the network's output, as the loss cannot be told by samples"
            )
            return None
        if not told.is_whole:
            self._say("a part of training_step's loss; the rest, which is weighted as well, cannot be told by samples")
        return told

    def _say(self, what: str) -> None:
        if self._trains and self._learnt.has_changed:
            rank_zero_warn(f"AlignPrune now observes {what}.")  # trajectories have both, before and after
        elif self._trains:
            rank_zero_info(f"AlignPrune observes {what}.")

    def _give(self, losses: Tensor) -> None:
        losses = losses.detach().float()
        self.given = losses if self.given is None else self.given + losses

    def _in_batch(self, observed: Observed, places: Tensor) -> Observed:
        """What all of the batch's samples have shown, of which the step had only some."""
        value = observed.value.new_full((self._size,), torch.nan)
        seen = torch.zeros_like(value, dtype=torch.bool)
        value[places] = observed.value
        seen[places] = True if observed.seen is None else observed.seen
        pair = None
        if observed.pair is not None:
            pair = observed.pair.new_full((self._size,), -1)
            pair[places] = observed.pair
        return Observed(value, pair, observed.classes, seen)


def loss_of(output: Any) -> Tensor:
    """The loss in what a step has returned: float[], or of one element.

    Raises:
        MisconfigurationException: If there is none.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    raise MisconfigurationException(
        f"training_step returned {described(loss)} as its loss, but one number is expected; return the batch's loss."
    )


def _cut(loss: Tensor, rows: int, to_output: bool, layouts: Layouts) -> Cut:
    try:
        return cut(loss.grad_fn, rows, to_output, layouts)
    except NoCutError as error:
        if "CompiledFunction" in str(error):
            raise MisconfigurationException(
                "training_step is compiled with its loss, which then shows nothing by samples; call the loss as "
                "torch.nn.functional.cross_entropy, where the compiler is made to stop, or compile the network alone."
            ) from error
        raise MisconfigurationException(
            f"AlignPrune finds no tensor of the batch's {rows} samples that all of training_step's gradient passes, but "
            f"{error}; keep the batch first in the network's output, return "
            '{"loss": ..., "samples": int64[m]} if the batch lacks some samples or '
            '{"loss": ..., "per_sample_loss": float[batch]}, or use score="batch_loss".'
        ) from error


def _together(found: list[Observed], adds: bool) -> Observed:
    """What several losses of a step show together: losses add up, what is read from their logits is a mean."""
    values = torch.stack([observed.value for observed in found])
    seen = ~values.isnan().all(dim=0)
    value = torch.where(seen, values.nansum(dim=0), torch.nan) if adds else values.nanmean(dim=0)
    return Observed(value, seen=seen)
