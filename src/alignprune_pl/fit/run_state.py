"""What of a run a checkpoint holds."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from alignprune_pl.core.distributed import all_reduce_sum
from alignprune_pl.core.epoch_metrics import Row
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.stopwatch import Stopwatch
from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.fit.capture import LossCapture
from alignprune_pl.fit.checks import check_state


class Kept:
    """The part of a run that is written and taken over; see :class:`~alignprune_pl.fit.run.Run` for what it is of."""

    is_sharded: bool = False
    planner: Planner
    store: TrajectoryStore
    capture: LossCapture
    stopwatch: Stopwatch
    history: list[Row]
    batches_done: int
    merges_batches: bool
    paced: dict[str, Any] | None
    was_restored: bool

    @property
    @abstractmethod
    def is_served(self) -> bool:
        """Whether the training loader was made."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What decides which samples an epoch has, in words."""

    @property
    @abstractmethod
    def batch_of_all_ranks(self) -> list[int]:
        """Samples that the loader makes a batch of, and the number of ranks: what half an epoch must go on with."""

    @abstractmethod
    def record_trained_batch(self, trained: int) -> None:
        """Record a batch whose step is over but whose end has not come, if ``trained`` of the epoch's batches tell so."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to select the same samples, as far as this rank knows it.

        Empty before the training loader was made, which may have failed.
        """
        if not self.is_served:
            return {}
        return {"store": self.store.state_dict(), "planner": self.planner.state_dict(), **self._progress()}

    def _progress(self) -> dict[str, Any]:
        """How far the run has come, besides what store and planner hold."""
        return {
            "kind": self.kind,
            "is_sharded": self.is_sharded,
            "batches_done": self.batches_done,
            "batch_of_all_ranks": self.batch_of_all_ranks,
            "merges_batches": self.merges_batches,
            "paced": self.paced,
            "capture": self.capture.state_dict(),
            "history": [dict(row) for row in self.history],
            "stopwatch": self.stopwatch.state_dict(),
        }

    def state_of_ranks(self, batches_trained: int, is_alone: bool) -> dict[str, Any]:
        """The state with the open epoch of all ranks, right also between a batch's step and its end.

        Args:
            batches_trained: Lightning's count of the running epoch's batches.
            is_alone: Whether this rank fails by itself; it then gives its own part, as the others do not come here.
        """
        self.record_trained_batch(batches_trained)
        state = self.state_dict()
        if state and self.batches_done and not is_alone:
            state["store"]["open_epoch"] = all_reduce_sum(self.store.open_epoch.clone()).cpu()
        return state

    def load_state_dict(self, state: dict[str, Any], seed: int | None, batch_size: int, rank: int, ranks: int) -> None:
        """Take over a state.

        Args:
            state: What :meth:`state_dict` gave, its open epoch that of all ranks.
            seed: The seed that this run was given, if it was.
            batch_size: Samples a batch on each rank; 0 with a batch sampler of the user's own.
            rank: This rank.
            ranks: How many there are.

        Raises:
            ValueError: If it is of another policy, score, window, storage or data set size.
            MisconfigurationException: If it is of another seed or kind of sampler, or of other batches and an epoch is half
                done.
        """
        check_state(state, seed, [batch_size, ranks], self.kind, self.merges_batches, self.is_sharded)
        self._load_parts(state, rank)
        self.batches_done = state["batches_done"]
        self.paced = state["paced"]
        self.capture.load_state_dict(state["capture"])
        self.history = [dict(row) for row in state["history"]]
        self.stopwatch.load_state_dict(state["stopwatch"])
        self.was_restored = True

    def _load_parts(self, state: dict[str, Any], rank: int) -> None:
        """Take over what store and planner hold."""
        self.planner.load_state_dict(state["planner"])
        self.store.load_state_dict(state["store"])
        if rank > 0:
            self.store.open_epoch.zero_()  # the sum over all ranks is rank 0's to hold
