"""How much of the training time is spent on pruning."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Two sums of seconds: of the training, and of the part of it that is pruning's own."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._training = 0.0
        self._pruning = 0.0

    def start(self) -> None:
        """Training goes on."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Training is over, or interrupted; may be called again."""
        self._training, self._started = self._so_far(), None

    @contextmanager
    def pruning(self) -> Iterator[None]:
        """Count what happens inside as pruning's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._pruning += time.perf_counter() - start

    def share(self) -> float:
        """Pruning's share of the training time so far; 0 before it has begun."""
        seconds = self._so_far()
        return self._pruning / seconds if seconds else 0.0

    def _so_far(self) -> float:
        return self._training + (0.0 if self._started is None else time.perf_counter() - self._started)

    def state_dict(self) -> dict[str, float]:
        """Both sums."""
        return {"training": self._so_far(), "pruning": self._pruning}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from the sums of an interrupted run."""
        self._training, self._pruning = state["training"], state["pruning"]
