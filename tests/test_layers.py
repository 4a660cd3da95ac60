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


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", CORE)
def test_core_loads_neither_lightning_nor_hydra(name):
    assert not {"lightning", "pytorch_lightning", "hydra"} & loaded_by(f"alignprune_pl.{name}")


def test_the_check_above_can_fail():
    assert "lightning" in loaded_by("alignprune_pl.callback")


@pytest.mark.parametrize("name", ["callback", "module", "data", "models", "checkpoint", "epoch_table"])
def test_the_commands_alone_need_hydra(name):
    assert "hydra" not in loaded_by(f"alignprune_pl.{name}")
    assert "hydra" in loaded_by("alignprune_pl.cli.train")


def test_every_public_name_loads():
    import alignprune_pl

    assert all(getattr(alignprune_pl, name) is not None for name in alignprune_pl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = alignprune_pl.Nothing
