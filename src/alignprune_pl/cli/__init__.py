"""The commands: compose a configuration, instantiate, run. The only part of the package that imports Hydra."""

from __future__ import annotations

import os
from importlib import import_module

# A notebook tells the commands that it starts to draw into its own page, which they cannot; ours draw into files.
if os.environ.get("MPLBACKEND", "").startswith("module://"):
    os.environ["MPLBACKEND"] = "agg"


def _run(name: str) -> None:
    """Run a command.

    Raises:
        SystemExit: If what it needs beyond the callback is not installed.
    """
    try:
        command = import_module(f"alignprune_pl.cli.{name}")
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"error: {error.name} is missing, which the command needs beyond the callback; install it with "
            "pip install '.[train]' in the repository's folder."
        ) from None
    command.main()


def alignprune_train() -> None:
    """The command ``alignprune-train``, equal to ``python scripts/train.py``."""
    _run("train")


def alignprune_report() -> None:
    """The command ``alignprune-report``, equal to ``python scripts/report.py``."""
    _run("report")


def alignprune_audit() -> None:
    """The command ``alignprune-audit``, equal to ``python scripts/audit.py``."""
    _run("audit")
