"""Several runs on one page."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image
from test_page import Page

from alignprune_pl.cli import alignprune_report
from alignprune_pl.report import read_run, write_comparison
from alignprune_pl.report.comparison import draw_by_epoch, grouped, notes_of, table_of, verdict_of


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
    assert table["head"][0] == {"name": "test accuracy", "words": "after the last epoch"}
    assert [(row["name"], row["cells"][0]) for row in table["body"]] == [
        ("pruning=calibrated (2 seeds)", {"text": "85.0 ± 7.1 %", "is_best": True}),
        ("pruning=none", {"text": "50.0 %", "is_best": False}),
    ]


@pytest.fixture
def none(variant):
    """A run like the other that pruned nothing, with figures of its own."""
    settings, options = {"pruning": {"_target_": "alignprune_pl.NoPruning"}}, {"pruning": "none"}
    return lambda name, **figures: read_run(variant(name, settings, options, **figures))


FIRST = {"test_acc": 0.9, "saved": 0.5, "noise_kept": 0.1, "pruning_time": 0.2}


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        (
            {"test_acc": 0.8, "saved": 0.0, "noise_kept": 0.4},
            "pruning=calibrated reached the best test accuracy (90.0 %), saved the most samples (50.0 %) and kept the "
            "fewest wrong labels (10.0 %).",
        ),
        (
            {"test_acc": 0.95, "saved": 0.0, "noise_kept": 0.1},
            "pruning=none reached the best test accuracy (95.0 %). pruning=calibrated saved the most samples (50.0 %).",
        ),
        ({"test_acc": 0.9, "saved": 0.5, "noise_kept": 0.1}, "The runs end with the same figures."),
        (
            {"dataset": "other", "test_acc": 0.95},
            "The runs are of different data sets or noise, so that none of them is the best.",
        ),
    ],
    ids=["all", "some", "none", "other data"],
)
def test_the_page_says_in_words_which_runs_were_the_best_at_what(variant, none, other, verdict):
    groups = grouped([read_run(variant("a", **FIRST)), none("b", **other)])
    assert verdict_of(groups) == verdict
    is_best = [cell["is_best"] for row in table_of(groups)["body"] for cell in row["cells"][:3]]
    assert any(is_best) == ("reached" in verdict)


def test_runs_that_differ_in_their_seed_alone_are_not_ranked(variant):
    groups = grouped(
        [read_run(variant("a", {"seed": 0}, test_acc=0.8)), read_run(variant("b", {"seed": 1}, test_acc=0.9))]
    )
    assert verdict_of(groups) == "The runs differ in their seed alone, so that none of them is the best."


def test_the_page_says_which_runs_chance_may_have_put_behind_the_best(variant, none):
    best = [read_run(variant(f"seed {seed}", {"seed": seed}, test_acc=0.8 + 0.1 * seed)) for seed in (0, 1)]
    near, far = (grouped([*best, none(name, test_acc=accuracy)]) for name, accuracy in (("near", 0.79), ("far", 0.6)))
    said = "In test accuracy, pruning=none is within a standard deviation of the best."
    assert said in notes_of(near)
    assert said not in notes_of(far)


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
    assert {path.name for path in (tmp_path / "both").iterdir()} == {f"{name}.png" for name in figures}
    for path in written[1:]:
        with Image.open(path) as image:  # long names in the legend are not cut off
            assert (np.asarray(image.convert("L"))[:, -4:] == 255).all(), path.name
    page = Page(written[0].read_text())
    assert page.tags.count("tr") == 3
    assert "window=5" in page.text
    assert "2 runs" in page.text
    assert "in their seed alone, the first." not in page.text
    assert len(page.drawings) == len(figures)
    assert page.scopes == ["col"] * 7 + ["row"] * 2
    assert not page.tags.count("img")


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
    figure = draw_by_epoch(grouped([short, long]), "val/acc")
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
    assert capsys.readouterr().out == "comparison.html, and 6 pictures in comparison\n"
