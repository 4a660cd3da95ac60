"""A run's figures as one CSV row an epoch."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl


class EpochTable(pl.Callback):
    """Writes all logged figures to a CSV file at the end of each epoch; those of ``val/...`` where it was validated.

    The file is replaced as a whole, so that it is never half written. Stands after the callbacks that log.

    Args:
        path: The file; its folder is made.

    Attributes:
        rows: One dictionary an epoch.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []
        self._validated: int | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember which epoch was validated."""
        if not trainer.sanity_checking:
            self._validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._validated != trainer.current_epoch:  # Lightning goes on showing what an earlier epoch has shown
            figures = {name: figure for name, figure in figures.items() if not name.startswith("val/")}
        self.rows.append({"epoch": trainer.current_epoch, **figures})
        if trainer.is_global_zero:
            self._write()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows of a run that was at its end already when it resumed."""
        if trainer.is_global_zero and self.rows:
            self._write()

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".part")
        with scratch.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(scratch, self.path)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, so that a resumed run's file is whole."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the rows of the interrupted run."""
        self.rows = [dict(row) for row in state_dict["rows"]]
