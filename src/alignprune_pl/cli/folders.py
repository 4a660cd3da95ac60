"""Whose a folder is: each has one run, whatever else is started in the same second or on another host."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.report import run_files
from alignprune_pl.report.settings import all_settings, differing

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

# What launchers tell the processes of one run apart by.
_RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JSM_NAMESPACE_RANK")


@sentences()
def new_folder(path: str) -> str:
    """Make a folder that nobody has: ``path``, or ``path-2`` and so on where others are.

    Raises:
        SystemExit: If it cannot be made.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        free = path if number == 1 else f"{path}-{number}"
        try:
            os.mkdir(free)
        except FileExistsError:
            continue
        break
    return free


OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep others out of a folder, which is made, for as long as the block runs and this process lives.

    Raises:
        ValueError: If another command is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None or not is_first():
        yield
        return
    with (folder / ".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A disk without locks says something else.
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ValueError(
                    f"{os.path.relpath(folder)} is given, but another command is still running in it; wait for its end, or "
                    "give another folder."
                ) from None
        yield


def check_folder(folder: Path, settings: Mapping[str, Any], key: str) -> None:
    """Refuse a folder of another run; the same one may be trained again, and goes on from a checkpoint in it.

    Args:
        folder: Where a run is to be.
        settings: Its own.
        key: By which the folder is given.

    Raises:
        ValueError: If the files of a run of other settings are there.
    """
    place = os.path.relpath(folder)
    names = (run_files.CONFIG, run_files.LABELS, run_files.EPOCHS, run_files.RECORD, run_files.SUMMARY)
    there = [name for name in names if (folder / name).exists()]
    if not is_first() or not there or _goes_on(folder, settings.get("ckpt_path")):
        return
    how = f"with {there[0]}"
    if run_files.CONFIG in there:
        old, new = (all_settings(_deciding(each)) for each in (run_files.read_config(folder), settings))
        others = differing(new, old)
        if not others:
            return
        other = min(others, key=len)
        how = f"{other} is {old.get(other, 'not set')} there and {new.get(other, 'not set')} here"
    raise ValueError(
        f"{place} holds another run ({how}); give another folder by {key}=..., or go on with that run by "
        f"ckpt_path={place}/checkpoints/last.ckpt."
    )


def is_first() -> bool:
    """Whether this process is the first of its run, or the only one."""
    return all(os.environ.get(name, "0") in ("", "0") for name in _RANKS)


def _goes_on(folder: Path, checkpoint: str | None) -> bool:
    return checkpoint == "last" or (
        checkpoint is not None and Path(checkpoint).resolve().is_relative_to(folder.resolve())
    )


def _deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings but where a run goes on from, as a file has them."""
    return {k: v for k, v in yaml.safe_load(yaml.safe_dump(dict(settings))).items() if k != "ckpt_path"}
