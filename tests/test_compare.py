"""The table of a sweep: what is one cell, and which runs are not."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import yaml

from helpers import ROOT


@pytest.fixture
def command(monkeypatch, capsys):
    """The script with these arguments; the lines of its table, cell by cell."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("compare")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments), "--markdown"])
        script.main()
        lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
        return {row.strip(): [cell.strip() for cell in cells] for row, *cells in (lines[0], *lines[2:])}

    return run


def write_run(folder, accuracy, seed=0, options=(), **settings):
    """A run of which these options and settings are known; a setting's dot is written as two underscores."""
    folder.mkdir(parents=True)
    config = {"seed": seed, "data": {"batch_size": 64, "seed": seed}, "data_dir": str(folder), "labels": None}
    for name, value in settings.items():
        group, _, key = name.partition("__")
        config.setdefault(group, {})[key] = value
    chosen = {
        "experiment": None,
        "pruning": "infobatch",
        "score": "loss",
        "noise": "sym",
        "logger": "none",
        **dict(options),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "summary.json").write_text(json.dumps({"test_acc": accuracy, "seed": seed, "options": chosen}))


@pytest.fixture
def sweep(tmp_path):
    """Two ratios with two seeds each."""
    for at, (ratio, seed, accuracy) in enumerate([(0.3, 0, 0.5), (0.3, 1, 0.6), (0.6, 0, 0.7), (0.6, 1, 0.8)]):
        write_run(tmp_path / "sweep" / str(at), accuracy, seed, pruning__ratio=ratio)
    return tmp_path / "sweep"


def test_runs_of_one_cell_that_differ_in_a_setting_are_refused_by_its_name(command, sweep):
    with pytest.raises(SystemExit) as end:
        command(sweep)
    assert end.value.code == (
        f"error: {sweep}/0 and {sweep}/2 are given for one cell, but runs that differ in their seed alone are expected, and "
        "pruning.ratio differs; give pruning.ratio as --rows or --columns, or a folder of fewer runs."
    )


@pytest.mark.parametrize(
    ("given", "table"),
    [
        (["--rows", "pruning.ratio"], {"0.3": ["55.0 ± 7.1"], "0.6": ["75.0 ± 7.1"]}),
        (["--columns", "pruning.ratio"], {"infobatch": ["55.0 ± 7.1", "75.0 ± 7.1"]}),
        (["--rows", "seed", "--columns", "pruning.ratio"], {"0": ["50.0", "70.0"], "1": ["60.0", "80.0"]}),
        (["--rows", "pruning.ratio", "--columns", "data.seed"], {"0.3": ["50.0", "60.0"], "0.6": ["70.0", "80.0"]}),
        (["--rows", "pruning.ratio", "--columns", "labels"], {"0.3": ["55.0 ± 7.1"], "0.6": ["75.0 ± 7.1"]}),
    ],
)
def test_a_setting_or_the_seed_is_a_row_or_a_column_as_an_option_is(command, sweep, given, table):
    assert dict(list(command(sweep, *given).items())[1:]) == table


def test_an_option_is_named_in_place_of_its_settings_and_few_of_many_are(command, tmp_path):
    for folder in ("two", "three"):
        write_run(tmp_path / folder / "0", 0.5, noise__ratio=0.2, noise__over="others")
    write_run(tmp_path / "two/1", 0.5, options={"noise": "asym", "logger": "csv"}, noise__ratio=0.2, noise__map="pairs")
    with pytest.raises(SystemExit, match=r", and noise differs; give noise as --rows or --columns"):
        command(tmp_path / "two")
    changed = {"noise__ratio": 0.2, "noise__over": "all", "model__a": 1, "model__b": 1}
    write_run(tmp_path / "three/1", 0.5, options={"experiment": "a"}, **changed)
    with pytest.raises(SystemExit, match=r", and experiment, noise\.over, model\.a, \.\.\. differ; give experiment as"):
        command(tmp_path / "three")


def test_what_no_run_has_is_refused_and_where_settings_are_is_said(command, sweep):
    with pytest.raises(
        SystemExit, match=r"^error: pruning\.rat is given, but a run has no such .*0/config\.yaml, such as"
    ):
        command(sweep, "--rows", "pruning.rat")
