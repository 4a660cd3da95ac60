"""A run over a stream: samples are known by keys, and left out where the stream is read."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from alignprune_pl.core.distributed import Agreement, all_reduce_sum, gathered
from alignprune_pl.core.draws import length_of
from alignprune_pl.core.epoch_metrics import Row, mean_of_finite
from alignprune_pl.core.gate import Gate
from alignprune_pl.core.growing import GrowingStore
from alignprune_pl.core.iterable import KeyedBatch, Serving, first_batch, served
from alignprune_pl.core.keys import KeyTable
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.trajectory import Observed
from alignprune_pl.fit import loop
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.checks import STREAM
from alignprune_pl.fit.forward_pass import ForwardPass, LossFunction
from alignprune_pl.fit.lr_pace import At
from alignprune_pl.fit.run import Run
from alignprune_pl.fit.twins import MisconfigurationException
from alignprune_pl.fit.undisturbed import undisturbed


class StreamRun(Run):
    """A :class:`Run` whose training set is read in an order of its own, by each rank another part of it.

    Every key that has not appeared before is trained. How long an epoch is, nobody knows before its end.

    Args:
        planner: Holds the plan in force.
        store: The trajectories.
        capture: Where a batch's losses come from.
        gate: Leaves samples out.
    """

    store: GrowingStore

    def __init__(self, planner: Planner, store: GrowingStore, capture: LossCapture, gate: Gate) -> None:
        super().__init__(planner, store, capture)
        self.gate = gate
        self._serving: Serving | None = None
        self._was_served = False
        self._agreement: Agreement | None = None
        self._limit: int | None = None
        self._has_told = False
        # By index, and one more for a key that has not appeared before; None where all are one.
        self._weights: Tensor | None = None
        # What an epoch that was interrupted has done: int64[k], the numbers that it trained, and how many it left out.
        self._done, self._left_out_before = torch.empty(0, dtype=torch.int64), 0
        self._was_settled = False

    def __getstate__(self) -> dict[str, Any]:
        """What a copy can go on with."""
        return {**super().__getstate__(), "_serving": None, "_agreement": None}

    def to_send(self) -> StreamRun:
        """What another process can be given of it: it knows the keys' function, which may be one without a name."""
        made = copy(self)
        made.gate = Gate()
        return made

    def arrived(self, gate: Gate) -> None:
        """Go on in the process that it was sent to, whose callback has this gate."""
        self.gate = gate

    @property
    def serving(self) -> Serving:
        """What serves the stream.

        Raises:
            RuntimeError: Before the training loader was made.
        """
        if self._serving is None:
            raise RuntimeError("The run serves no stream: the training loader was not made through the fit loop.")
        return self._serving

    @property
    def cut(self) -> int:
        """Samples that the loader makes a batch of."""
        return self.loader.batch_size or 1

    @property
    def usual_batch(self) -> int:
        """As many."""
        return self.cut

    @property
    def shuffles(self) -> bool:
        """Never: the order is the stream's."""
        return False

    @property
    def is_served(self) -> bool:
        """Whether the training loader was made, for this one or for what it is a copy of."""
        return self._was_served

    @property
    def keys(self) -> KeyTable:
        """What samples are known by."""
        return self.store.keys

    @property
    def batch_of_all_ranks(self) -> list[int]:
        """Of no interest: half an epoch goes on in whatever batches."""
        return [0, 0]

    @property
    def kept_share(self) -> float:
        """What the plan keeps of the samples that have appeared."""
        return len(self.planner.plan.keep) / self.store.num_samples if self.store.num_samples else 1.0

    def to(self, device: torch.device) -> None:
        """Have trajectories on ``device``."""
        self.store.to(device)

    def make_plan(self, epoch: int, max_epochs: int | None, device: torch.device, asks_anew: bool = False) -> None:
        """Plan ``epoch`` from what the trajectories are now; before any key has appeared all are trained."""
        if self.store.num_samples:
            super().make_plan(epoch, max_epochs, device)
            return
        self.planner.plan = EpochPlan.of(torch.empty(0, dtype=torch.int64))
        self.planner.epoch, self.planner.max_epochs = epoch, max_epochs

    def plan_for_loader(self, max_epochs: int | None, device: torch.device) -> None:
        """Another loader changes nothing: samples keep their keys."""

    def _kind_of_loader(self) -> str:
        return STREAM

    def _drawn(self, epoch: int, device: torch.device, is_another: bool = False) -> None:
        return None

    def check_length(self) -> None:
        """A stream may become longer, but not something else.

        Raises:
            MisconfigurationException: If the loader's data set is no stream.
        """
        if not isinstance(self.loader.dataset, IterableDataset):
            raise MisconfigurationException(
                f"The training set was a stream and is now a {type(self.loader.dataset).__name__}, but trajectories belong "
                "to keys; go on with the stream, or start a new run."
            )

    # ---- an epoch -------------------------------------------------------------------------------------------

    def serve_in_loader(self, trainer: pl.Trainer) -> DataLoader[Any]:
        """The user's loader of what the plan leaves; before training it tells a full epoch's length."""
        self._check_ends(trainer)
        self._agreement = self._agreement or Agreement()
        self._serving = Serving(self.cut, length_of(self.loader), self._agreement, self._any_batch)
        self._serving.announces_full_epoch = self._was_served = True
        self._limit = loop.batches_of_stream(trainer, self._serving.length)
        self.serve_plan()
        return served(self.loader, self.gate, self._serving)

    def _check_ends(self, trainer: pl.Trainer) -> None:
        """Refuse to look for samples in what may have no end."""
        is_limited = isinstance(trainer.limit_train_batches, int) and length_of(self.loader) is None
        if self.planner.policy.probes and is_limited and loop.max_epochs(trainer) != 1:
            raise MisconfigurationException(
                f"{self.planner.policy!r} reads the stream {type(self.loader.dataset).__name__} once more to its end, but "
                f"limit_train_batches={trainer.limit_train_batches} tells that it may have none; leave the limit out, or "
                "give the stream an end, as webdataset's with_epoch does."
            )

    def serve_plan(self) -> None:
        """Let the next iterator serve what is left of the plan in force."""
        plan, numbers = self.planner.plan, self.store.keys.numbers
        weights = torch.full((len(numbers) + 1,), torch.nan)
        weights[-1] = 1.0
        weights[plan.keep] = plan.weight
        self._weights = weights if bool((plan.weight != 1).any()) else None
        self.gate.publish(torch.cat([numbers[weights[:-1].isnan()], self._done]))
        self.serving.start_at(self.batches_done, self._limit)

    def _any_batch(self) -> KeyedBatch | None:
        """The stream's first batch on this rank, of which the plan, or what has been done of an epoch, leaves nothing."""
        with isolate_rng(), self.gate.wide_open():
            return first_batch(served(self.loader, self.gate, self.serving, again=True))

    def begin_epoch(self, trainer: pl.Trainer, device: torch.device) -> None:
        """Let the loop find out where the epoch ends."""
        was_announced, self.serving.announces_full_epoch = self.serving.announces_full_epoch, False
        loop.set_stream_epoch(trainer, self.expected_batches(trainer))
        if was_announced and self.expected_batches(trainer) is not None:
            # The one that is there was made for an epoch of a known length, by the loader or a limit.
            loop.renew_iterator(trainer)

    def expected_batches(self, trainer: pl.Trainer) -> int | None:
        """About how many batches the epoch will have on each rank; None where nobody knows."""
        limits = [] if self._limit is None else [self._limit]
        if self.serving.length is not None:
            limits.append(max(1, math.ceil(self.serving.length * self.kept_share)))
        return min(limits, default=None)

    def full_batches(self, trainer: pl.Trainer) -> int | None:
        """Batches of an epoch without pruning on each rank, before limits; None where the loader has no length."""
        return self.serving.length

    def full_samples(self, trainer: pl.Trainer) -> int:
        """How many samples the epoch that was settled would have trained without pruning."""
        own, done = self.serving.left_out, len(self._done)
        # Where the epoch was over when the run was interrupted, its stream is not read again.
        if own is None or self._was_settled:
            own, done = self._left_out_before, 0
        left_out = all_reduce_sum(torch.tensor(own, device=trainer.strategy.root_device))
        return len(self.store.trained) + max(0, int(left_out) - done)

    def restart_epoch(self) -> None:
        """Forget what of the running epoch has been trained."""
        self.batches_done = 0
        self.store.forget_waiting()
        self._done = self._done[:0]

    def start_batch(self, module: pl.LightningModule, number: int) -> None:
        """Capture the losses of a batch's samples, and apply their weights."""
        loop.validate_at_end(module.trainer)
        samples = self.serving.samples(number)
        weight = None if self._weights is None else self._weights[self.store.keys.index(samples.numbers)]
        if not samples.is_real:
            weight = torch.zeros(len(samples.numbers))
        self.capture.arm(module, len(samples.numbers), None if weight is None else weight.to(module.device))

    def record_batch(self, number: int) -> None:
        """Take over the captured losses of a batch, unless that has been done."""
        observed = self.capture.take()
        self.batches_done = number + 1
        samples = self.serving.samples(number)
        if observed is None or not samples.is_real:
            return
        if self.planner.score.observes == "batch_loss":
            mean = mean_of_finite(observed.value)
            observed = replace(observed, value=mean.expand(observed.value.shape))
        self.store.wait(samples.numbers, observed)

    # ---- its end --------------------------------------------------------------------------------------------

    def settle(self, trainer: pl.Trainer) -> None:
        """Give all keys of the epoch an index, on all ranks alike, and add up what they have recorded.

        Raises:
            MisconfigurationException: If nothing was trained.
        """
        length = self.expected_batches(trainer)
        if self.pace is not None and length is not None:
            self.pace.catch_up(trainer, At(self.planner.epoch, length, length))
        before = self.store.num_samples
        self.store.settle()
        self._tell_of_repeats()
        self._tell_of_strangers(before)
        if len(self.store.trained) == 0 and not trainer.should_stop:
            name, epoch = type(self.loader.dataset).__name__, self.planner.epoch
            raise MisconfigurationException(
                f"The stream {name} gave no batch in epoch {epoch}, of whose {before} known samples the plan keeps "
                f"{len(self.planner.plan.keep)}; let it begin anew with each iter(), or leave drop_last=False."
            )
        all_reduce_sum(self.store.open_epoch)
        if self.store.num_samples > before:
            self.planner.policy.grow(self.store.num_samples)
            self.planner.score.grow(self.store.num_samples)

    def predictions(self, trainer: pl.Trainer, module: pl.LightningModule, data: Any) -> None:
        """None, as no sample can be asked for."""

    def _tell_of_repeats(self) -> None:
        times = torch.bincount(self.store.trained)
        if self._has_told or not bool((times > 1).any()):
            return
        self._has_told = True
        rank_zero_info(
            f"AlignPrune: in epoch {self.planner.epoch} {int((times > 1).sum()):,} of {self.store.num_samples:,} keys came "
            f"more than once, one {int(times.max())} times. A key is recorded once an epoch, as the mean of its losses."
        )

    def _tell_of_strangers(self, known: int) -> None:
        """Say so where keys hardly come again, as where they are drawn anew in each epoch: nothing is then pruned."""
        new = self.store.num_samples - known
        again = int((self.store.trained.unique() < known).sum())
        if known and new > again and 2 * again < len(self.planner.plan.keep):
            rank_zero_info(
                f"AlignPrune: in epoch {self.planner.epoch} {new:,} keys were new, and {again:,} of the "
                f"{len(self.planner.plan.keep):,} came that the plan keeps. A sample can be left out only if its key comes "
                "again: let key give the same in every epoch."
            )

    def trained(self) -> Tensor:
        """The samples that the epoch has trained on all ranks together, int64[k]."""
        return self.store.trained

    def close_epoch(
        self, reference: Observed, probed: Observed, full: int, max_epochs: int | None, device: torch.device
    ) -> Row:
        """As :meth:`Run.close_epoch`."""
        row = super().close_epoch(reference, probed, full, max_epochs, device)
        self._done, self._was_settled = self._done[:0], False
        return row

    def probe(
        self, trainer: pl.Trainer, module: pl.LightningModule, loss_fn: LossFunction | None, data: Any
    ) -> Observed:
        """What the plan's probes show, on the ranks that read them: the stream is read once more, for them alone."""
        numbers = self.store.keys.numbers[self.planner.plan.probe]
        if len(numbers) == 0:
            return Observed(torch.empty(0))
        self.gate.publish(numbers, inverts=True)
        serving = Serving(self.cut, None, self._agreement or Agreement(), self._any_batch)
        seen = GrowingStore(2, torch.float32, self.store.pairs)
        forward = ForwardPass(trainer, module, self.capture, loss_fn, "probe")
        with undisturbed(trainer, module) as watched:
            for number, batch in enumerate(served(self.loader, self.gate, serving, again=True)):
                samples = serving.samples(number)
                observed = forward.of_batch(batch, number, len(samples.numbers), watched)
                if samples.is_real:
                    seen.wait(samples.numbers, observed)
        seen.to(trainer.strategy.root_device)
        seen.settle()
        all_reduce_sum(seen.open_epoch)
        seen.close_epoch()
        index = seen.keys.index(numbers)  # -1 of one that the stream has not given again
        value = torch.cat([seen.last_loss().cpu(), torch.tensor([torch.nan])])[index]
        return Observed(value, torch.cat([seen.last_pair().cpu(), torch.tensor([-1])])[index], seen.classes)

    # ---- state ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to select the same samples, as far as this rank knows it."""
        state = super().state_dict()
        if state:
            left_out = None if self._serving is None else self._serving.left_out
            state["left_out"] = self._left_out_before if left_out is None else left_out
        return state

    def state_of_ranks(self, batches_trained: int, is_alone: bool) -> dict[str, Any]:
        """The state with what all ranks have recorded in the open epoch; as :meth:`Run.state_of_ranks`."""
        self.record_trained_batch(batches_trained)
        state = self.state_dict()
        if state and self.batches_done and not is_alone:
            device = self.store.open_epoch.device
            waiting = state["store"]["waiting"]
            state["store"]["waiting"] = {name: gathered(part.to(device)).cpu() for name, part in waiting.items()}
            left_out = torch.tensor(state["left_out"], device=device)
            state["left_out"] = int(all_reduce_sum(left_out))
        return state

    def load_state_dict(self, state: dict[str, Any], seed: int | None, batch_size: int, rank: int, ranks: int) -> None:
        """Take over a state; as :meth:`Run.load_state_dict`.

        What its open epoch has trained is not served again, unless the stream repeats its samples.
        """
        super().load_state_dict(state, seed, batch_size, rank, ranks)
        numbers, times = state["store"]["waiting"]["numbers"].unique(return_counts=True)
        # A stream that repeats its samples gives them again, and may have no others.
        self._done = numbers if not bool((times > 1).any()) else numbers[:0]
        self._left_out_before, self._was_settled = state["left_out"], state["store"]["settled"] is not None
        if rank > 0:  # what all ranks have done is rank 0's to hold
            self._left_out_before = 0
            self.store.forget_waiting()
