"""What the training script's command line takes beyond the files under ``configs``, and what it says of mistakes."""

from __future__ import annotations

import re
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from yaml import YAMLError

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries them in the package; in a working copy they stand beside ``src``.
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parents[1] / "configs"

# The noise models with a ratio: noise=sym40 is noise=sym noise.ratio=0.4.
_WITH_RATIO = re.compile(r"(sym|asym|pairflip|instance)(\d{1,2})")


# Numbers that may be left out: no reference, and the seed of everything.
_MAY_BE_NONE = ("data.reference_share", "callback.seed")


def add_ratios(arguments: list[str]) -> None:
    """Make an option of every noise model whose name on the command line ends in a ratio in percent, 0 to 99."""
    for argument in arguments:
        key, _, names = argument.partition("=")
        for name in names.split(",") if key.lstrip("+") == "noise" else ():
            match = _WITH_RATIO.fullmatch(name)
            if match:
                node = {"defaults": [match[1], "_self_"], "ratio": int(match[2]) / 100}
                ConfigStore.instance().store(group="noise", name=name, node=node)


def check_arguments(arguments: list[str]) -> None:
    """Check what is given of a run, or of the first job of a sweep; all else is Hydra's to explain.

    Raises:
        SystemExit: If a key or an option does not exist, or a value is of another kind than the key's.
    """
    given = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    flags = [argument for argument in arguments if argument not in given]
    if not flags:
        check_overrides(given)
    elif set(flags) <= {"-m", "--multirun"}:
        try:
            check_overrides(_first_job(given))
        except OverrideParseException as error:
            raise SystemExit(_unreadable(error)) from None


def _first_job(overrides: list[str]) -> list[str]:
    """What the first job of a sweep is given."""
    first = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if not override.is_sweep_override():
            first.append(str(override.input_line))
        elif override.is_discrete_sweep():  # not an interval, of which a sweeper draws
            first.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
    return first


def _unreadable(error: OverrideParseException) -> str:
    return f"error: {' '.join(str(error).split())}; write a path in full, without ~, and quote other characters."


def check_overrides(overrides: list[str]) -> None:
    """Say which keys or options there are, where an override names none of them, and what kind of value a key takes."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            _check_kinds(overrides, compose("train", overrides))
        except OverrideParseException as error:
            raise SystemExit(_unreadable(error)) from None
        except YAMLError as error:
            raise SystemExit(
                f"error: a configuration is no YAML: {' '.join(str(error).split())}; mend that line."
            ) from None
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
    """Compare what is given with the kind of value that stands in the file."""
    before = _before(overrides)
    for key in (override.split("=")[0].lstrip("+") for override in overrides):
        # The Trainer's other settings take words and numbers alike: devices=auto.
        if key.startswith("trainer.") and key != "trainer.max_epochs":
            continue
        usual, given = OmegaConf.select(before, key), OmegaConf.select(after, key, throw_on_missing=False)
        is_path = key.startswith("dataset.") or key == "data_dir"
        expected = _expected(usual, given, is_path, may_be_none=key in _MAY_BE_NONE)
        if expected:
            raise SystemExit(f"error: {key}={given} is given, but {expected} is expected, such as {usual}.")


def _expected(usual: object, given: object, is_path: bool, may_be_none: bool) -> str:
    """What is expected instead of the value that is given; nothing if it is of the usual one's kind."""
    if isinstance(usual, bool):
        return "" if isinstance(given, bool) else "true or false"
    if isinstance(usual, int | float):
        is_number = not isinstance(given, str | bool) and given is not None
        return "" if is_number or (given is None and may_be_none) else "a number"
    if isinstance(usual, ListConfig):
        numbers = isinstance(given, ListConfig) and all(isinstance(number, int | float) for number in given)
        return "" if numbers else "a list of numbers"
    return "a word" if is_path and isinstance(usual, str) and not isinstance(given, str) else ""
