"""What the training script's command line takes beyond the files under ``configs``, and what it says of mistakes."""

from __future__ import annotations

import re
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

# The noise models with a ratio: noise=sym40 is noise=sym noise.ratio=0.4.
_WITH_RATIO = re.compile(r"(sym|asym|pairflip|instance)(\d{1,2})")


def add_ratios(arguments: list[str]) -> None:
    """Make an option of every noise model whose name on the command line ends in a ratio in percent, 0 to 99."""
    for argument in arguments:
        key, _, names = argument.partition("=")
        for name in names.split(",") if key.lstrip("+") == "noise" else ():
            match = _WITH_RATIO.fullmatch(name)
            if match:
                node = {"defaults": [match[1], "_self_"], "ratio": int(match[2]) / 100}
                ConfigStore.instance().store(group="noise", name=name, node=node)


def check_overrides(overrides: list[str]) -> None:
    """Say which keys or options there are, where an override names none of them, and what kind of value a key takes."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            _check_kinds(overrides, compose("train", overrides))
        except ConfigCompositionException as error:
            text = " ".join(str(part) for part in (error, error.__cause__) if part)
            wrong = re.search(r"Could not override '([^']+)'", text)
            if wrong is None:
                hint = (
                    " (a ratio goes behind a noise model's name in percent, 0 to 99: sym40)"
                    if "'noise/" in text
                    else ""
                )
                raise SystemExit(f"error: {' '.join(str(error).split())}{hint}") from None
            *parents, key = wrong[1].split(".")
            node = OmegaConf.select(_before(overrides), ".".join(parents)) if parents else compose("train")
            valid = ", ".join(str(name) for name in node) if isinstance(node, DictConfig) else "none"
            raise SystemExit(
                f"error: {wrong[1]} is given, but {'.'.join(parents) or 'the configuration'} has no {key}; "
                f"valid are: {valid}."
            ) from None


def _before(overrides: list[str]) -> DictConfig:
    """The configuration with the options that were chosen, before any value is changed."""
    return compose("train", [o for o in overrides if (CONFIGS / o.split("=")[0]).is_dir()])


def _check_kinds(overrides: list[str], after: DictConfig) -> None:
    before = _before(overrides)
    for key in (override.split("=")[0].lstrip("+") for override in overrides):
        # The Trainer's own settings take words and numbers alike: devices=auto.
        if key.startswith("trainer."):
            continue
        usual, given = OmegaConf.select(before, key), OmegaConf.select(after, key, throw_on_missing=False)
        is_number = isinstance(usual, int | float) and not isinstance(usual, bool)
        if isinstance(usual, bool) and not isinstance(given, bool):
            raise SystemExit(f"error: {key}={given} is given, but true or false is expected.")
        if is_number and (isinstance(given, str | bool) or given is None):
            raise SystemExit(f"error: {key}={given} is given, but a number is expected, such as {usual}.")
