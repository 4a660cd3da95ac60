"""Several runs on one page."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import yaml
from test_page import Page

from alignprune_pl.cli import alignprune_report
from alignprune_pl.report import read_run, write_comparison
from alignprune_pl.report.comparison import draw_by_epoch, grouped, table_of
from alignprune_pl.report.theme import LIGHT


@pytest.fixture
def variant(run_dir, tmp_path):
    """A copy of the run with other settings, options or figures."""

    def make(name, settings=(), options=(), **figures):
        folder = shutil.copytree(run_dir, tmp_path / name)
        summary = json.loads((folder / "summary.json").read_text())
        summary.update(figures)
        summary["options"].update(options)
        (folder / "summary.json").write_text(json.dumps(summary))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config.update(settings)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make


def test_runs_that_differ_in_their_seed_alone_are_one_line_with_a_standard_deviation(variant):
    other = {"pruning": {"_target_": "alignprune_pl.NoPruning"}}
    folders = [
        variant("a", {"seed": 0, "logger": {"save_dir": "/out/0"}}, test_acc=0.80),
        variant("b", {"seed": 1, "logger": {"save_dir": "/out/1"}}, test_acc=0.90),
        variant("c", other, {"pruning": "none"}, test_acc=0.5),
    ]
    groups = grouped([read_run(folder) for folder in folders])
    assert {name: len(members) for name, members in groups.items()} == {"pruning=calibrated": 2, "pruning=none": 1}
    table = table_of(groups)
    assert table["head"][:2] == ["runs", "test accuracy"]
    assert [row[:2] for row in table["body"]] == [
        ["pruning=calibrated (2)", "85.0 ± 7.1 %"],
        ["pruning=none", "50.0 %"],
    ]


def test_runs_that_differ_in_one_setting_are_told_apart_by_it(variant):
    folders = [variant(f"share {share}", {"reference": {"share": share}}) for share in (0.01, 0.05)]
    folders.append(variant("none", {"pruning": None}, {"pruning": "none"}))
    names = list(grouped([read_run(folder) for folder in folders]))
    assert names == [
        "pruning=calibrated reference.share=0.01",
        "pruning=calibrated reference.share=0.05",
        "pruning=none",
    ]


def test_the_page_has_the_table_and_every_figure(variant, tmp_path):
    folders = [variant("first"), variant("second", {"callback": {"window": 5}})]
    written = write_comparison(folders, tmp_path / "both.html")
    assert written[0] == tmp_path / "both.html"
    figures = {"accuracy", "saved", "noise-kept", "estimated-noise-rate", "roc", "precision"}
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        f"{name}{theme}.png" for name in figures for theme in ("", "-dark")
    }
    page = Page(written[0].read_text())
    assert page.tags.count("tr") == 3
    assert "window=5" in page.text
    assert "2 runs" in page.text
    assert "in their seed alone, the first." not in page.text
    assert len(page.links) == 2 * len(figures)
    assert all(link.startswith("data:") for link in page.links)


def test_of_runs_alike_the_page_says_whose_curves_are_drawn(variant, tmp_path):
    written = write_comparison([variant("first"), variant("second", {"seed": 5})], tmp_path / "both.html")
    assert Page(written[0].read_text()).text.count("Of runs that differ in their seed alone, the first.") == 2


def test_runs_of_other_lengths_are_compared_as_far_as_both_reach(variant, tmp_path):
    folder = variant("short", {"seed": 1})
    lines = (folder / "epochs.csv").read_text().splitlines()
    (folder / "epochs.csv").write_text("\n".join(lines[:3]) + "\n")
    short, long = read_run(folder), read_run(variant("long", {"seed": 2}))
    short.epochs["val/acc"][:] = 0.25
    long.epochs["val/acc"][:] = 0.75
    figure = draw_by_epoch(grouped([short, long]), "val/acc", LIGHT)
    (line,) = figure.axes[0].get_lines()
    assert line.get_xydata().tolist() == [[0.0, 0.5], [1.0, 0.5]]


def test_a_single_run_is_no_comparison(variant, tmp_path):
    folder = variant("first")
    with pytest.raises(ValueError, match="1 run is given, but a comparison is of two or more"):
        write_comparison([folder, folder], tmp_path / "both.html")


def test_the_command_compares_several_folders(variant, tmp_path, monkeypatch, capsys):
    (tmp_path / "multirun.yaml").touch()  # a sweep has files beside its runs
    folders = [
        str(variant("first")),
        str(variant("second", {"callback": {"window": 5}})),
        str(tmp_path / "multirun.yaml"),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["alignprune-report", *folders])
    alignprune_report()
    assert capsys.readouterr().out == "comparison.html, and 12 pictures in comparison\n"
