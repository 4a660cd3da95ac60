"""The panel that says whether a run was worth it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_page import Page, undrawn  # noqa: F401

from alignprune_pl.cli import alignprune_report
from alignprune_pl.report import read_run
from alignprune_pl.report.worth import full_training, worth

FULL = {"test_acc": 0.80, "saved": 0.0, "noise_kept": 0.4, "policy": "NoPruning()"}


@pytest.fixture
def run(run_dir):
    """The run, with figures of its own."""

    def make(*without, **figures):
        made = read_run(run_dir)
        summary = {key: value for key, value in made.summary.items() if key not in without}
        return replace(made, summary={**summary, **figures})

    return make


@pytest.mark.parametrize(
    ("accuracy", "saved", "verdict"),
    [
        (
            0.9,
            0.3,
            "More accurate than full training, and cheaper in samples: test accuracy is 10.0 points above that of",
        ),
        (0.9, 0.0, "More accurate than full training, but not cheaper in samples: test accuracy is 10.0 points above"),
        (0.803, 0.3, "As accurate as full training, and cheaper in samples: test accuracy is 0.3 points above that of"),
        (0.8, -0.1, "As accurate as full training, and not cheaper in samples: test accuracy is equal to that of full"),
        (
            0.7,
            0.3,
            "Less accurate than full training, but cheaper in samples: test accuracy is 10.0 points below that of",
        ),
        (0.7, 0.0, "Less accurate than full training, and not cheaper in samples: test accuracy is 10.0 points below"),
    ],
)
def test_the_verdict_is_of_accuracy_and_cost_against_full_training(run, accuracy, saved, verdict):
    said = worth(run(test_acc=accuracy, saved=saved), run(**FULL))["verdict"]
    assert said.startswith(verdict)
    costs = {0.3: "with 30.0 % of the samples saved.", 0.0: "with no samples saved."}
    assert said.endswith(costs.get(saved, "with 10.0 % more samples than full training."))


def test_the_points_between_two_accuracies_are_those_between_the_shown_ones(run):
    said = worth(run(test_acc=0.95556), run(**{**FULL, "test_acc": 0.78611}))
    assert "17.0 points above" in said["verdict"]  # 95.6 % and 78.6 %
    assert said["tiles"][0]["words"] == "after the last epoch, 17.0 points above full training"


def test_the_three_tiles_show_accuracy_cost_and_wrong_labels(run):
    figures = {"test_acc": 0.9, "saved": 0.3, "noise_kept": 0.1, "noise_rate": 0.4, "estimated_noise_rate": 0.35}
    tiles = worth(run(**figures, pruning_time=0.05), run(**FULL))["tiles"]
    shown = {tile["name"]: [(bar["name"], bar["text"], bar["width"]) for bar in tile["bars"]] for tile in tiles}
    assert [(tile["name"], tile["value"]) for tile in tiles] == [
        ("test accuracy", "90.0 %"),
        ("samples saved", "30.0 %"),
        ("wrong labels kept", "10.0 %"),
    ]
    assert shown == {
        "test accuracy": [("this run", "90.0 %", "90.0%"), ("full training", "80.0 %", "80.0%")],
        "samples saved": [("trained on in this run", "70.0 %", "70.0%"), ("in full training", "100.0 %", "100.0%")],
        "wrong labels kept": [
            ("kept", "10.0 %", "10.0%"),
            ("in the data", "40.0 %", "40.0%"),
            ("estimated in the data", "35.0 %", "35.0%"),
        ],
    }
    assert "Pruning took 5.0 % of the run's time" in tiles[1]["words"]


def test_without_a_test_the_last_accuracy_in_validation_is_compared(run):
    own, full = run("test_acc"), run("test_acc", **{key: FULL[key] for key in ("saved", "noise_kept")})
    own.epochs["val/acc"][-2:] = 0.875, np.nan
    full.epochs["val/acc"][-1] = 0.625
    panel = worth(own, full)
    assert "validation accuracy is 25.0 points above" in panel["verdict"]
    assert panel["tiles"][0]["value"] == "87.5 %"


def test_a_test_accuracy_is_not_compared_with_another_kind(run):
    own, full = run(test_acc=0.9), run("test_acc", saved=0.0)
    full.epochs.pop("val/acc")
    panel = worth(own, full)
    assert panel["verdict"].startswith("Cheaper in samples than full training: the two runs have no accuracy in common")
    assert [tile["name"] for tile in panel["tiles"]] == ["samples saved", "wrong labels kept"]


def test_without_full_training_the_figures_stand_alone(run):
    panel = worth(run(test_acc=0.9, saved=0.3))
    assert panel["verdict"] == "90.0 % test accuracy, with 30.0 % of the samples saved."
    assert [bar["name"] for bar in panel["tiles"][0]["bars"]] == ["this run"]
    assert panel["missing"] == "full"
    assert worth(run(test_acc=0.9, saved=0.0))["missing"] == "pruned"


def test_where_wrong_labels_are_not_known_their_estimate_is_shown(run):
    (tile,) = worth(run("noise_kept", "noise_rate", estimated_noise_rate=0.2))["tiles"][2:]
    assert (tile["name"], tile["value"]) == ("estimated wrong labels", "20.0 %")
    assert len(worth(run("noise_kept", "noise_rate", "estimated_noise_rate"))["tiles"]) == 2


def test_the_panel_names_what_else_than_pruning_differs(run):
    own, full = run(), run(**FULL)
    full.config["pruning"] = {"_target_": "alignprune_pl.NoPruning"}
    assert worth(own, full)["note"] == "One run of each: with another seed the figures differ."
    full.config["label_smoothing"] = 0.1
    full.summary["seed"] = 7
    said = worth(own, full)["note"]
    assert said.endswith("this run and full training differ in seed (0 against 7), label_smoothing (0.0 against 0.1).")
    full.config["model"] = {"of": {str(number): number for number in range(4)}}
    assert re.search(r" and \d more settings\.$", worth(own, full)["note"])


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        (
            {"saved": 0.3},
            "but a run that prunes nothing is expected, and this one saved 30.0 % of the samples; train once",
        ),
        (
            {"dataset": "other"},
            "and trained on other, Symmetric.* but digits, Symmetric.* is expected, as in .*; train once",
        ),
        ({"noise": "Other()"}, r"and trained on digits, Other\(\), but digits, Symmetric.* is expected"),
    ],
    ids=["pruned", "other data", "other noise"],
)
def test_what_is_no_full_training_on_the_same_data_is_refused(variant, run, figures, message):
    with pytest.raises(ValueError, match=f"full is given as full training, {message}"):
        full_training(variant("full", **{**FULL, **figures}), run())


@pytest.mark.parametrize(
    ("settings", "differing"),
    [
        ({"data": {"correct_only": True}}, "data.correct_only=True against False"),
        ({"data": {"train_size": 7}}, r"data.train_size=7 against \w+"),
        ({"labels": "mended.csv"}, "labels=mended.csv against None"),
        ({"dataset": {"labels": "train_worst"}}, "dataset.labels=train_worst against train_y"),
    ],
)
def test_nor_is_one_on_other_labels_of_the_same_name_or_on_some_of_them(variant, run, settings, differing):
    own = run()
    own.config["dataset"] = {**own.config["dataset"], "labels": "train_y"}
    within = {
        name: {**own.config[name], **value} if isinstance(value, dict) else value for name, value in settings.items()
    }
    with pytest.raises(ValueError, match=rf"trained on other data than .* \({differing}\), but the same are expected"):
        full_training(variant("full", within, **FULL), own)


def test_files_that_lie_elsewhere_are_the_same_data_if_they_have_the_same_labels(variant, run):
    own = run()
    folder = variant("full", {"dataset": {**own.config.get("dataset", {}), "root": "/elsewhere"}}, **FULL)
    assert full_training(folder, own).folder == folder
    own.labels["clean_label"] = own.labels["clean_label"].copy()
    own.labels["clean_label"][3] += 1
    with pytest.raises(ValueError, match=r"\(other labels of the same samples\), but the same are expected"):
        full_training(folder, own)


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset": {"train": "/elsewhere/train.csv", "reference": "clean_val", "imagenet_root": "/other"}},
        {"dataset": "digits", "data": None},
        {"labels_per_batch": 3},
        {"noise": {"matrix": "elsewhere.csv"}},
    ],
)
def test_what_lies_elsewhere_or_decides_nothing_of_the_data_is_no_other_data(variant, run, settings):
    own = run()
    own.config.clear()
    own.config.update(
        {name: {key: "here" for key in of} if isinstance(of, dict) else "here" for name, of in settings.items()}
    )
    folder = variant("full", settings, **FULL)
    assert full_training(folder, own).folder == folder


@pytest.mark.parametrize("missing", ["label", "clean_label", "classes"])
def test_what_a_run_has_not_kept_is_not_compared(variant, run, missing):
    own, folder = run(), variant("full", **FULL)
    own.labels.pop(missing, None)
    if missing == "label":
        own.labels.pop("clean_label", None)
    if missing == "classes":
        own.record["classes"] = np.empty(0, dtype=str)
    assert full_training(folder, own).folder == folder


@pytest.mark.usefixtures("undrawn")
def test_the_command_compares_a_run_with_full_training(variant, monkeypatch, capsys):
    folder, full = variant("run", test_acc=0.9, saved=0.3), variant("full", **FULL)
    how = "alignprune-report RUN --full FULL_RUN"
    for arguments, is_alone in (([folder], True), ([folder, "--full", full], False)):
        monkeypatch.setattr(sys, "argv", ["alignprune-report", *map(str, arguments)])
        alignprune_report()
        text = Page((folder / "report.html").read_text()).text
        assert (how in text) == is_alone
        assert ("More accurate than full training" in text) != is_alone


def test_full_training_is_compared_with_one_run_alone(variant, monkeypatch):
    folders = [str(variant(name)) for name in ("a", "b", "full")]
    monkeypatch.setattr(sys, "argv", ["alignprune-report", *folders[:2], "--full", folders[2]])
    with pytest.raises(
        SystemExit, match=r"error: --full .*full is given with 2 runs, but one is expected; give one run"
    ):
        alignprune_report()


def test_a_full_training_that_is_not_finished_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="is given, but the folder of a finished run is expected, and it is not there"):
        full_training(tmp_path / "none", run())
