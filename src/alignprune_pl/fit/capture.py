"""What each sample of a batch shows of a training step that knows nothing of it, and sample weights into the step.

Nothing that the step computes is changed. From the loss that it returns the autograd graph is followed to where each
sample's gradient passes (:mod:`alignprune_pl.fit.graph`). Hooks there multiply that gradient by the sample's weight. Hooks
at the loss's elements read what each sample counts for (:mod:`alignprune_pl.fit.recorder`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from alignprune_pl.core.trajectory import Observable, Observed
from alignprune_pl.fit.by_hand import Unfollowed, optimizer_steps, parameters_of
from alignprune_pl.fit.graph import has_no_sample
from alignprune_pl.fit.interception import Armed
from alignprune_pl.fit.one_pass import Kind, Learnt, Pass, loss_of
from alignprune_pl.fit.recorder import Scale
from alignprune_pl.fit.twins import MisconfigurationException


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
    """

    def __init__(self, explicit: bool = False, observes: Observable = "loss") -> None:
        self.observes = observes
        self.is_explicit = explicit
        self._learnt = Learnt("given" if explicit else "batch" if observes == "batch_loss" else "")
        self._module: LightningModule | None = None
        self._replaced: dict[str, Any] = {}
        self._size = 0
        self._weight: Tensor | None = None
        self._pass: Pass | None = None
        self._unfollowed = Unfollowed()
        self._is_running = False

    def __getstate__(self) -> dict[str, Any]:
        """Of no batch under way."""
        learnt = replace(self._learnt, heads=None, alike=None)
        idle: dict[str, Any] = {"_learnt": learnt, "_module": None, "_replaced": {}, "_weight": None, "_pass": None}
        return {**vars(self), **idle, "_unfollowed": Unfollowed()}

    @property
    def kind(self) -> Kind:
        """How samples are told apart, as :class:`Learnt` has it."""
        return self._learnt.kind

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
        if self._pass is not None:
            self._pass.forget()
        self._module = self._weight = self._pass = None

    @property
    def is_armed(self) -> bool:
        """Whether a batch is under way."""
        return self._module is not None

    def take(self) -> Observed | None:
        """Hand over what the step and its backward pass have shown, once: float[b], or None where there is nothing."""
        done, self._pass = self._pass, None
        if done is None:
            return None
        done.forget()
        return done.observed()

    def weigh(self, losses: Tensor) -> Tensor:
        """Record the losses that a step in explicit mode trains on (float[b]), and return them weighted.

        Where the batch's loss will do, they may be that one number.

        Raises:
            MisconfigurationException: Outside of explicit mode, or if these are not one a sample.
        """
        if not self._is_running or self._pass is None:
            return losses
        if not self.is_explicit:
            raise MisconfigurationException(
                "training_step calls weight() but its losses are captured already, and would be weighted twice; pass "
                "AlignPrune(capture_mode='explicit')."
            )
        return self._pass.weigh(losses)

    def state_dict(self) -> dict[str, Any]:
        """What the first batch has taught."""
        learnt = self._learnt
        scales = {number: tuple(scale) for number, scale in learnt.scales.items()}  # of no class of ours
        return {"kind": learnt.kind, "is_whole": learnt.is_whole, "has_pairs": learnt.has_pairs, "scales": scales}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier run's first batch has taught."""
        if not self.is_explicit and self.kind != "batch":
            scales = {number: Scale(*scale) for number, scale in state.get("scales", {}).items()}
            self._learnt = Learnt(state["kind"], state["is_whole"], state["has_pairs"], scales)

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
        observed = self._shown(module, step, size, self._learnt.is_narrow is not False)
        if self._learnt.heads and self._learnt.is_narrow is None:
            # A step may use other layers in eval mode, which has to be seen once.
            whole = self._shown(module, step, size, False)
            self._learnt.is_narrow = whole is None or (
                observed is not None and torch.allclose(observed.value, whole.value, 1e-3, 1e-5, equal_nan=True)
            )
            observed = observed if self._learnt.is_narrow else whole
        if observed is None:
            raise MisconfigurationException(
                "training_step has shown nothing of the samples of a reference or probe batch, in eval mode; return the "
                "loss in that mode too, or pass AlignPrune(loss_fn=...)."
            )
        # Where training shows no pair, as it has several losses, nothing that is compared with it may have one.
        return observed if self._learnt.has_pairs else Observed(observed.value, None, 0, observed.seen)

    def _shown(self, module: LightningModule, step: Callable[[], Any], size: int, is_narrow: bool) -> Observed | None:
        with self._aside(module, step, self._learnt, size, is_narrow=is_narrow) as (done, loss):
            if loss is not None:
                done.go_back(loss)
        return done.observed()

    def classify(self, module: LightningModule, step: Callable[[], Any], size: int) -> tuple[Tensor, Tensor] | None:
        """Log-probabilities float32[size, C] and labels int64[size] of samples that are not trained on.

        Of soft labels the largest counts. None where the step gives its losses itself, where its loss is not one of
        logits and classes, or not of one class for each sample.
        """
        if self.kind == "given":
            return None
        learnt = replace(self._learnt, kind="") if self.kind == "batch" else self._learnt
        with self._aside(module, step, learnt, size, "loss", learnt.is_narrow is not False) as (done, loss):
            if loss is None or not loss.requires_grad:
                return None
            done.go_back(loss, classifies=True)
        found = done.recorders[0].classified
        return found[0] if len(found) == 1 else None

    @contextmanager
    def _aside(
        self,
        module: LightningModule,
        step: Callable[[], Any],
        learnt: Learnt,
        size: int,
        observes: Observable | None = None,
        is_narrow: bool = True,
    ) -> Iterator[tuple[Pass, Tensor | None]]:
        """Run a step from which nothing is learnt; with its loss, None where it has given what it shows."""
        heads, before = (learnt.heads or ()) if is_narrow else (), self._pass
        learnt = replace(learnt)
        try:
            with torch.enable_grad():
                with _trained(module, heads):
                    loss = self._evaluated(module, step, learnt, size, observes)
                if loss is not None and not loss.requires_grad and heads:
                    loss = self._evaluated(module, step, learnt, size, observes)  # another head answers in eval mode
                assert self._pass is not None
                yield self._pass, loss
        finally:
            if self._pass is not None:
                self._pass.forget()
            self._pass = before

    def _evaluated(
        self, module: LightningModule, step: Callable[[], Any], learnt: Learnt, size: int, observes: Observable | None
    ) -> Tensor | None:
        self._pass = Pass(learnt, observes or self.observes, size)
        with self._pass.watched(module, module.training_step), self._running():
            output = step()
        if isinstance(output, Mapping) and output.get("per_sample_loss") is not None:
            self._pass.take_returned(output)
        if self._pass.given is not None:
            return None
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if self.is_explicit or not isinstance(loss, Tensor):
            raise MisconfigurationException(
                f"training_step gives no {'losses' if self.is_explicit else 'loss'} for a reference or probe batch, in eval "
                "mode; give it in that mode too, or pass AlignPrune(loss_fn=...) with one loss for each sample."
            )
        return loss_of(output)

    # ---- batches that are trained on --------------------------------------------------------------------

    def _run(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # An optimiser that calls its closure again (LBFGS) runs the step again: the last run counts.
        module = self._module
        assert module is not None
        if self._pass is not None:
            self._pass.forget()
        run = self._pass = Pass(self._learnt, self.observes, self._size, self._weight, trains=True)
        with run.watched(module, step), self._by_hand(module, run), self._running():
            output = step(*args, **kwargs)
        is_manual = not module.automatic_optimization
        if isinstance(output, Mapping) and output.get("per_sample_loss") is not None:
            if is_manual:
                raise MisconfigurationException(
                    "training_step returned per_sample_loss under manual optimization, after the gradient that its weights "
                    "should reach; pass the losses through AlignPrune.weight() before manual_backward, with "
                    "AlignPrune(capture_mode='explicit')."
                )
            return run.take_returned(output)
        if self.is_explicit:
            self._check_explicit(run, is_skipped=output is None and not is_manual)
        elif output is not None and not is_manual:
            loss = loss_of(output)
            if loss.grad_fn is not None or self.kind == "batch":
                run.follow(loss, output.get("samples") if isinstance(output, Mapping) else None)
        return output

    def _run_backward(self, backward: Callable[..., Any], loss: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.is_explicit or self._pass is None:
            return backward(loss, *args, **kwargs)
        if self.kind != "batch" and has_no_sample(loss.grad_fn):
            self._learnt.has_followed = True  # a penalty, which has no weight
        else:
            self._pass.follow(loss)
        try:
            with self._unfollowed.followed():
                return backward(loss, *args, **kwargs)
        finally:
            self._pass.forget()  # what the step asks of the graph from here on is for another end

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False

    @contextmanager
    def _by_hand(self, module: LightningModule, run: Pass) -> Iterator[None]:
        """Look at each step of a module's optimisers, where it takes them itself."""
        if module.automatic_optimization:
            yield
            return

        def before(optimizer: Optimizer) -> Callable[[Callable[[], Any]], Any]:
            self._check_followed(optimizer)
            shown = run.so_far()

            def through(closure: Callable[[], Any]) -> Any:
                run.back_to(shown)  # an optimiser may call its closure again (LBFGS): the last call counts
                result = closure()
                # The losses of a step with a closure are seen no sooner.
                self._check_followed(optimizer, is_ready=True)
                return result

            return through

        with ExitStack() as stack:
            stack.enter_context(optimizer_steps(before))
            if not self.is_explicit:
                stack.enter_context(self._unfollowed.watched(module))
            yield

    def _check_followed(self, optimizer: Optimizer, is_ready: bool = False) -> None:
        """Refuse to update by what was not followed."""
        if self.is_explicit:
            return
        is_unseen = is_ready and not self._learnt.has_followed
        if self._unfollowed.reaches(optimizer) or (
            is_unseen and any(parameter.grad is not None for parameter in parameters_of(optimizer))
        ):
            raise MisconfigurationException(
                "training_step optimises by hand, but AlignPrune has not seen the loss that a gradient comes from; call "
                "self.manual_backward(loss) and not loss.backward() for each loss, clear other gradients before the "
                "optimizer's step, or pass AlignPrune(capture_mode='explicit')."
            )

    def _check_explicit(self, run: Pass, is_skipped: bool) -> None:
        if is_skipped:
            run.given = None
        elif run.given is None:
            raise MisconfigurationException(
                "AlignPrune(capture_mode='explicit') got no losses from training_step; pass them through "
                'weight() of the AlignPrune in trainer.callbacks, or return {"loss": ..., "per_sample_loss": float[batch]}.'
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
