"""A run's settings by their names, as runs are told apart by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What runs of older versions had not, and is as it was then.
_LATER = {"labels": "None", "callback.merge_batches": "False"}
_NOT_DECIDING = ("seed", "ckpt_path", "logger", "report", "data_dir")


def settings_of(config: dict[str, Any]) -> dict[str, str]:
    """All settings by their names, but the seeds, where a run resumed, and what decides nothing of how it ends."""
    every = all_settings({key: value for key, value in config.items() if key not in _NOT_DECIDING})
    return {name: value for name, value in every.items() if name.rpartition(".")[2] != "seed"}


def differing(some: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """The names of the settings that are not the same in both, in their order."""
    return [name for name in {**some, **others} if some.get(name) != others.get(name)]


def all_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """All settings by their names, whichever version has written them."""
    return {**_LATER, **leaves(dict(config))}


def leaves(node: object, path: str = "") -> dict[str, str]:
    """All settings of a mapping of mappings by their names, such as ``data.batch_size``."""
    if not isinstance(node, dict):
        return {path: str(node)}
    found: dict[str, str] = {}
    for key, value in node.items():
        found.update(leaves(value, f"{path}.{key}" if path else str(key)))
    return found
