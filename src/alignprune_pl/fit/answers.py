"""What the callback tells of its run, while it lasts and after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignprune_pl.core import epoch_metrics
from alignprune_pl.core.contracts import Policy, Suspects
from alignprune_pl.core.keys import number_of
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.trajectory import TrajectoryStore
from alignprune_pl.fit.checks import STREAM
from alignprune_pl.fit.elsewhere import Copied
from alignprune_pl.fit.predictions import Predictions
from alignprune_pl.fit.run import Run


class Answers(Copied):
    """Plan, trajectories, figures and suspects of the run that the callback has made."""

    policy: Policy
    noise_mask: Tensor | None
    probe_data: Dataset[Any] | None
    _run: Run | None

    @property
    def plan(self) -> EpochPlan:
        """The plan in force: of the running epoch, or of the next one between two.

        Raises:
            RuntimeError: Before ``fit`` has made the training loader.
        """
        return self._the_run().planner.plan

    @property
    def store(self) -> TrajectoryStore:
        """The trajectories so far.

        Raises:
            RuntimeError: Before ``fit`` has made the training loader.
        """
        return self._the_run().store

    @property
    def history(self) -> list[epoch_metrics.Row]:
        """One dictionary of figures for each finished epoch."""
        self._check_ran_itself()
        return [] if self._run is None else self._run.history

    @property
    def over_stream(self) -> bool:
        """Whether the training set is a stream, whose samples are known by keys."""
        return self._the_run().kind == STREAM

    @property
    def keys(self) -> Tensor:
        """Of a stream's samples the numbers of their keys, by their indices: int64[n]; see :func:`alignprune_pl.number_of`.

        Raises:
            RuntimeError: Before ``fit`` has made the training loader, or if the training set is no stream.
        """
        return self._the_run().keys.numbers

    def index_of(self, keys: Iterable[Any]) -> Tensor:
        """By which index a stream's samples are known in plan, trajectories and suspects, given their keys.

        Returns:
            int64[k], -1 of a key that has not appeared.

        Raises:
            RuntimeError: Before ``fit`` has made the training loader, or if the training set is no stream.
            TypeError: If a key is no text, bytes or integer.
        """
        return self._the_run().keys.index(torch.tensor([number_of(key) for key in keys], dtype=torch.int64))

    def suspicion(self) -> Tensor:
        """The score of each sample, turned so that high is suspect: float32[n], NaN where it is not defined."""
        return self._the_run().planner.scores(self.store).suspicion

    def suspects(self) -> Suspects:
        """The samples whose label the policy takes for wrong, and how many of all labels it estimates to be.

        Raises:
            RuntimeError: Before there is a plan, or if the policy suspects no one.
        """
        self._check_ran_itself()
        suspects = self.policy.suspects() if self._run is None else self._run.suspects()
        if suspects is None:
            raise RuntimeError(
                f"{self.policy!r} tells no suspects; pass AlignPrune(policy='calibrated', reference=...)."
            )
        return suspects

    def wrong_probability(self) -> Tensor:
        """How likely each label is wrong, float64[n]: as the policy has measured it, else guessed by the scores alone."""
        return self._the_run().of_all("wrong_probability()").planner.wrong_probability(self.suspicion())

    def predictions(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Predictions | None:
        """What the network says of each training sample, where its loss has logits; all ranks ask together, in ``fit``."""
        return self._the_run().of_all("predictions()").predictions(trainer, pl_module, self.probe_data)

    def summary(self) -> dict[str, float]:
        """The run in figures: ``saved`` and ``pruning_time`` as shares, ``noise_kept`` over all epochs if known."""
        figures = epoch_metrics.run_figures(self.history, self.noise_mask, self.policy.noise_rate)
        return {**figures, "pruning_time": 0.0 if self._run is None else self._run.stopwatch.share()}

    def _the_run(self) -> Run:
        self._check_ran_itself()
        if self._run is None:
            raise RuntimeError(
                "AlignPrune has nothing to prune: the fit loop has not made the training loader, or failed in a process of "
                "its own."
            )
        return self._run
