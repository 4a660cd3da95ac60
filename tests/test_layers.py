"""Imports point downward only: the tensor code works where Lightning and Hydra are not installed."""

import subprocess
import sys

import pytest

CORE = [
    "orientation",
    "registry",
    "plan",
    "trajectory",
    "scores",
    "policies",
    "noise",
    "functional",
    "sampler",
    "distributed",
    "planner",
    "schedule",
    "losses",
    "clock",
]


def loading(unwanted: set[str], modules: list[str]) -> list[str]:
    """The modules after whose import, one after the other in one process, another of the unwanted packages is loaded."""
    code = (
        "import importlib, sys\n"
        f"left = {unwanted!r}\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(f'alignprune_pl.{name}')\n"
        "    if left & set(sys.modules): print(name)\n"
        "    left -= set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_core_loads_neither_lightning_nor_hydra():
    assert loading({"lightning", "pytorch_lightning", "hydra"}, [*CORE, "callback"]) == ["callback"]


def test_reports_are_drawn_without_torch():
    assert loading({"torch", "lightning", "hydra"}, ["report", "record"]) == ["record"]


def test_the_commands_alone_need_hydra():
    above = ["callback", "module", "data", "models", "checkpoint", "epoch_table", "record", "report"]
    assert loading({"hydra"}, [*above, "cli.train"]) == ["cli.train"]


def test_every_public_name_loads():
    import alignprune_pl

    assert all(getattr(alignprune_pl, name) is not None for name in alignprune_pl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = alignprune_pl.Nothing
