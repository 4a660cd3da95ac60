"""Watches a training with AlignPrune from outside: what was really in each batch, and what gradient it should leave.

Nothing here looks into the package's capture. Expected gradients come from the project's own loss, one sample at a time,
written out for each sample, or from the gradient at the network's output, caught by a forward hook.
"""

# ruff: noqa: D102, as Lightning's hooks are documented there

import inspect
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alignprune_pl import AlignPrune, EpochPlan, Policy


class RandomWeights(Policy):
    """Keeps three quarters of the samples at random, each with a weight of its own between 0.25 and 2."""

    reads_score = False
    usual_score = "loss"

    def plan(self, scores: Any, ask: Any) -> EpochPlan:
        n = len(scores)
        keep = torch.randperm(n, generator=ask.generator)[: n * 3 // 4].sort().values
        return EpochPlan(keep, weight_of(keep))


def weight_of(samples: Tensor) -> Tensor:
    """float32[b], of samples by their numbers."""
    return (0.25 + 1.75 * torch.rand(10_000, generator=torch.Generator().manual_seed(1)))[samples]


@dataclass
class Training:
    """A small training of a project, and what is known of its samples.

    Attributes:
        ids: The samples that are really in a batch, read from its data: int64[b], or float64[b] of keys, by which the
            samples of the data set are told apart.
        module: As the project has it.
        loader: The training loader.
        fit: ``fit(callbacks)``, where the project makes module, loader and Trainer itself; returns the callbacks that ran.
        losses: ``losses(module, batch)``, the loss of each sample float[b], whose mean is the step's loss.
        alone: Whether the step's loss is the mean of what the step gives for each sample in a batch of its own; it is then
            run so.
        output: The submodule that makes the network's output, for a loss that is no sum over samples.
        rows: Which sample of the batch each row of that output belongs to, given b: int64[rows].
        reference: Samples in the same form that are not trained on.
        trainer: The Trainer's class, Lightning's other name among them.
        arguments: More arguments of the Trainer.
        score: What is recorded.
        remark: What else a reader should know.
    """

    ids: Callable[[Any], Tensor]
    module: Any = None
    loader: Any = None
    fit: Callable[[list[Any]], list[Any]] | None = None
    losses: Callable[[Any, Any], Tensor] | None = None
    alone: bool = False
    output: str | None = None
    rows: Callable[[int], Tensor] = torch.arange
    reference: DataLoader[Any] | None = None
    trainer: Any = pl.Trainer
    arguments: dict[str, Any] = field(default_factory=dict)
    score: str = "loss"
    remark: str = ""


@dataclass
class Found:
    """What the spy has seen.

    Attributes:
        batches: How many were trained on.
        right_ids: In how many the recorded indices are those of the data.
        samples: How many samples those are, all epochs together.
        gradient: The largest relative error of a step's gradient.
        unweighted: The smallest one, had the weights been left out: what the check can tell.
        loss: The largest relative difference of the step's loss and the mean of the losses by samples; NaN without them.
        recorded: What was recorded of each sample, in the order of training.
        expected: What it should be.
        parts: The largest relative difference of the step's loss and the mean of what was recorded, where the loss is no sum
            over samples but is told by samples; NaN elsewhere.
        observes: What the package says that it observes.
        reference: Relative difference of the reference's mean loss; None without one.
    """

    batches: int = 0
    right_ids: int = 0
    samples: int = 0
    gradient: float = 0.0
    unweighted: float = float("inf")
    loss: float = float("nan")
    parts: float = float("nan")
    recorded: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    observes: str = "loss"
    reference: float | None = None

    @property
    def correlation(self) -> float:
        """Of what was recorded with what it should be; NaN where that is not known."""
        if len(self.recorded) != len(self.expected) or len(self.expected) < 3:
            return float("nan")
        return float(np.corrcoef(self.recorded, self.expected)[0, 1])


class Sentences(list[str]):
    """What was said; a copy of a callback listens to the same."""

    def __deepcopy__(self, memo: Any) -> "Sentences":
        return self


class Spy(pl.Callback):
    """Stands before AlignPrune in the list of callbacks, so that it sees a batch before its step is prepared."""

    def __init__(self, training: Training, prune: AlignPrune, sentences: Sentences) -> None:
        self.training, self.prune, self._said = training, prune, sentences
        self.found = Found()
        self._gradient = self._expected = self._plain = self._values = torch.empty(0)
        self._of_reference: list[float] = []
        self._ids = torch.empty(0, dtype=torch.int64)
        self._loss = self._returned = 0.0
        self._loader: Any = None
        self._by_key: dict[float, int] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._loader = trainer.train_dataloader
        record = self.prune.store.record

        def spied(index: Tensor, loss: Tensor, *rest: Any) -> None:
            self._recorded(index, loss)
            record(index, loss, *rest)

        self.prune.store.record = spied  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._ids = self._numbers(self.training.ids(batch).flatten())
        weight = weight_of(self._ids)
        with aside(pl_module):
            self._expect(pl_module, batch, batch_idx, weight)

    def _numbers(self, keys: Tensor) -> Tensor:
        if not keys.is_floating_point():
            return keys.long()
        if not self._by_key:
            data = self._loader.dataset
            each = [self.training.ids(self._loader.collate_fn([data[i]])) for i in range(len(data))]
            self._by_key = {float(key): i for i, key in enumerate(each)}
            assert len(self._by_key) == len(data), "two samples have one key"
        return torch.tensor([self._by_key[float(key)] for key in keys])

    def _expect(self, module: Any, batch: Any, number: int, weight: Tensor) -> None:
        """The step's gradient with and without weights, and what each sample should show."""
        training, b = self.training, len(weight)
        if training.losses is not None:
            losses = training.losses(module, batch)
            self._plain = gradient_of(losses.mean(), module)
            self._expected = gradient_of((weight * losses).mean(), module)
            self._values, self._loss = losses.detach(), float(losses.detach().mean())
        elif training.alone:
            each = [self._alone(module, int(i), number) for i in self._ids]
            self._values = torch.stack([loss for loss, _ in each])
            gradients = torch.stack([gradient for _, gradient in each])
            self._plain, self._expected = gradients.mean(0), (weight.unsqueeze(1) * gradients).sum(0) / b
            self._loss = float(self._values.mean())
        else:
            self._by_output(module, batch, number, weight)

    def _alone(self, module: Any, i: int, number: int) -> tuple[Tensor, Tensor]:
        batch = self._loader.collate_fn([self._loader.dataset[i]])
        loss = step(module, batch, number)
        return loss.detach(), gradient_of(loss, module)

    def _by_output(self, module: Any, batch: Any, number: int, weight: Tensor) -> None:
        made: list[Tensor] = []
        assert self.training.output is not None
        handle = module.get_submodule(self.training.output).register_forward_hook(lambda *of: made.append(of[2]))
        try:
            loss = step(module, batch, number)
        finally:
            handle.remove()
        parameters, made = trained(module), [z for z in made if z.requires_grad]
        at = torch.autograd.grad(loss, made, retain_graph=True)
        squares = torch.zeros(len(weight))
        weighted = []
        for gradient in at:
            rows = self.training.rows(len(weight)) if len(gradient) != len(weight) else torch.arange(len(weight))
            squares.index_add_(0, rows, gradient.reshape(len(rows), -1).square().sum(1))
            weighted.append(gradient * weight[rows].view(-1, *[1] * (gradient.ndim - 1)))
        self._plain = gradient_of(loss, module)
        self._expected = flat(torch.autograd.grad(made, parameters, weighted, allow_unused=True), parameters)
        self._values, self._loss = squares.sqrt() * len(weight), float("nan")

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        parameters = trained(pl_module)
        self._gradient = flat([parameter.grad for parameter in parameters], parameters)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        found = self.found
        found.batches += 1
        found.samples += len(self._ids)
        scale = self._expected.norm()
        found.gradient = max(found.gradient, float((self._gradient - self._expected).norm() / scale))
        found.unweighted = min(found.unweighted, float((self._plain - self._expected).norm() / scale))
        self._returned = float(loss_of(outputs))
        difference = abs(self._returned - self._loss) / abs(self._loss)
        found.loss = difference if not found.loss > difference else found.loss

    def _recorded(self, index: Tensor, loss: Tensor) -> None:
        self.found.right_ids += torch.equal(index.cpu(), self._ids)
        is_known = self._is_norm != self._has_losses
        if is_known:
            self.found.recorded += loss.tolist()
            self.found.expected += self._values.tolist()
        if not is_known and not self._said_aside:
            difference = abs(float(loss.nansum()) / len(loss) - self._returned) / float(loss.nansum().abs() / len(loss))
            self.found.parts = difference if not self.found.parts > difference else self.found.parts

    @property
    def _is_norm(self) -> bool:
        return any("norm" in sentence for sentence in self._said)

    @property
    def _said_aside(self) -> bool:
        """Whether it has said that it observes something else than the whole loss."""
        return any(sentence.startswith("AlignPrune observes") for sentence in self._said)

    @property
    def _has_losses(self) -> bool:
        return self.training.losses is not None or self.training.alone

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """What the reference should show of this epoch, before AlignPrune looks at it."""
        loader = self.training.reference
        if loader is None or not self._has_losses or self._is_norm:
            return
        pl_module.eval()
        with aside(pl_module):
            if self.training.losses is not None:
                losses = torch.cat([self.training.losses(pl_module, batch).detach() for batch in loader])
            else:
                batches = [loader.collate_fn([loader.dataset[i]]) for i in range(len(loader.dataset))]
                losses = torch.stack([step(pl_module, batch, 0).detach() for batch in batches])
        pl_module.train()
        self._of_reference.append(float(losses.mean()))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        shown = [float(row["reference_loss"]) for row in self.prune.history]
        if self._of_reference:
            pairs = zip(shown, self._of_reference, strict=True)
            self.found.reference = max(abs(a - b) / abs(b) for a, b in pairs)


def watch(training: Training, epochs: int = 2) -> Found:
    """Train with AlignPrune, and tell what was seen."""
    prune = AlignPrune(training.reference, RandomWeights(), training.score)
    with said() as sentences:
        spy = Spy(training, prune, sentences)
        if training.fit is not None:
            spy = next(ran for ran in training.fit([spy, prune]) if isinstance(ran, Spy))
        else:
            trainer = training.trainer(callbacks=[spy, prune], **SMALL, max_epochs=epochs, **training.arguments)
            trainer.fit(training.module, training.loader)
    spy.found.observes = next(
        (said for said in sentences if said.startswith("AlignPrune observes")), "each sample's loss"
    )
    return spy.found


SMALL: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
}


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def step(module: Any, batch: Any, number: int) -> Tensor:
    """The loss of a training step, called as Lightning calls it: with the batch's number if it asks for that."""
    asked = inspect.signature(module.training_step).parameters
    return loss_of(module.training_step(batch, *[number][: len(asked) - 1]))


def loss_of(output: Any) -> Tensor:
    return output["loss"] if isinstance(output, dict) else output


def gradient_of(loss: Tensor, module: nn.Module) -> Tensor:
    """float[p], with respect to all that is trained; zero where a parameter has no part in it."""
    parameters = trained(module)
    return flat(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True), parameters)


def flat(gradients: Iterable[Tensor | None], parameters: Iterable[Tensor]) -> Tensor:
    both = zip(gradients, parameters, strict=True)
    return torch.cat([torch.zeros(p.numel()) if g is None else g.detach().flatten().clone() for g, p in both])


@contextmanager
def aside(module: Any) -> Iterator[None]:
    """Let a step run of which nothing stays: no logged figure, no running mean, no random draw."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002, as that is what the projects draw from
    kept = {name: vars(module).get(name) for name in ("log", "log_dict")}
    vars(module).update(dict.fromkeys(kept, lambda *_, **__: None))
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for name, before in kept.items():
            vars(module).pop(name)
            vars(module).update({} if before is None else {name: before})
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in buffers and buffers[name].shape == buffer.shape:
                    buffer.copy_(buffers[name])


@contextmanager
def said() -> Iterator[list[str]]:
    """The sentences in which AlignPrune says what it observes."""
    sentences = Sentences()
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: sentences.append(record.getMessage())  # type: ignore[method-assign]
    packages = ("lightning_utilities.core", "lightning.pytorch.utilities", "pytorch_lightning.utilities")
    loggers = [logging.getLogger(f"{package}.rank_zero") for package in packages]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield sentences
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
