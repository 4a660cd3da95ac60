"""The labels that a run takes for wrong, as a table."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pandas
import pytest
from cleanlab.classification import CleanLearning
from sklearn.linear_model import LogisticRegression

from alignprune_pl.cli import alignprune_audit
from alignprune_pl.report import read_run, read_table
from alignprune_pl.report.audit import audit, write_table
from helpers import ROOT


@pytest.fixture
def command(run_dir, tmp_path, monkeypatch, capsys):
    """The command with these arguments, on a copy of the run; what it prints."""
    shutil.copytree(run_dir, tmp_path / "run")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["alignprune-audit", *arguments])
        alignprune_audit()
        return capsys.readouterr().out

    return run


def test_it_lists_the_suspected_labels_that_the_network_takes_for_another_most_suspect_first(run_dir):
    run = read_run(run_dir)
    table = audit(run)
    assert 100 < len(table["index"]) < len(run.suspicion) / 2
    assert (np.diff(table["score"]) <= 0).all()
    assert (np.diff(table["probability"]) <= 0).all()
    assert (table["given_label"] != table["suggested_label"]).all()
    assert set(table["position"]) <= set(run.suspects.tolist())
    assert run.mask[table["position"]].mean() > 0.7 > run.mask.mean() + 0.2
    at = table["position"]
    assert (table["index"] == run.labels["train_index"][at]).all()
    assert (table["given_label"] == run.labels["label"][at]).all()
    assert table["given_name"].tolist() == [run.classes[label] for label in table["given_label"]]


def test_all_samples_are_listed_once_where_they_are_asked_for(run_dir):
    run = read_run(run_dir)
    table = audit(run, every=True)
    assert sorted(table["position"].tolist()) == list(range(len(run.suspicion)))
    assert table["position"][table["is_label_issue"]].tolist() == audit(run)["position"].tolist()
    assert np.allclose(table["label_quality"], 1 - table["probability"])


def test_samples_without_a_score_come_last(run_dir):
    run = read_run(run_dir)
    run.record["suspicion"] = run.suspicion.copy()
    run.suspicion[:5] = np.nan
    table = audit(run, every=True)
    assert table["position"][-5:].tolist() == [0, 1, 2, 3, 4]
    assert not table["is_label_issue"][-5:].any()


def test_the_command_writes_a_table_and_says_what_is_known_of_it(command, tmp_path):
    said = command("run")
    table = read_table(tmp_path / "run/label_issues.csv")
    run = read_run(tmp_path / "run")
    wrong, count = run.mask[table["position"]], len(table["position"])
    assert f"{count:,} of 1,365 labels ({count / 1365:.1%}) are probably wrong; by the known labels" in said
    assert f"labels {wrong.mean():.1%} of them are wrong" in said
    assert f"{wrong.sum() / run.mask.sum():.1%} of all wrong ones" in said
    assert said.endswith("run/label_issues.csv\n")
    assert table["given_name"][0] in said
    again = audit(run)
    assert list(table) == list(again)
    assert all(table[name].tolist() == again[name].tolist() for name in again)


def test_of_a_run_that_estimated_no_noise_rate_the_command_warns_of_counting(command, tmp_path):
    caution = "This run has no estimate of how many labels are wrong"
    said = command("run")
    assert caution not in said
    assert "wrong with" in said
    path = tmp_path / "run/summary.json"
    summary = json.loads(path.read_text())
    del summary["estimated_noise_rate"]
    path.write_text(json.dumps(summary))
    said = command("run")
    assert caution in said
    assert "wrong with" not in said


def test_of_labels_that_are_all_right_the_command_says_so(command, tmp_path):
    with np.load(tmp_path / "run/labels.npz") as labels:
        known = {**labels, "noise_mask": np.zeros_like(labels["noise_mask"])}
    np.savez(tmp_path / "run/labels.npz", **known)
    assert "are probably wrong; by the known labels none of them is wrong." in command("run")


def test_parquet_has_what_csv_has(command, tmp_path):
    command("run", "--output", "issues.parquet", "--all")
    command("run", "--output", "issues.csv", "--all")
    parquet, text = pandas.read_parquet("issues.parquet"), read_table("issues.csv")
    assert parquet.columns.tolist() == list(text)
    for name in ("index", "given_label", "score", "probability", "is_label_issue"):
        assert np.allclose(parquet[name], text[name]), name
    assert parquet["given_name"].tolist() == text["given_name"].tolist()


def test_cleanlab_trains_without_the_labels_that_are_listed(command, run_dir):
    command("run", "--output", "issues.csv", "--all")
    issues = pandas.read_csv("issues.csv").sort_values("position", ignore_index=True)
    run = read_run(run_dir)
    pixels = np.random.default_rng(0).normal(size=(len(issues), 2))
    learner = CleanLearning(LogisticRegression())
    learner.fit(pixels, run.labels["label"], label_issues=issues)
    assert learner.get_label_issues()["is_label_issue"].sum() == len(run.issues) > 100


@pytest.mark.parametrize("name", ["issues.txt", "issues"])
def test_another_kind_of_file_is_refused(command, tmp_path, name):
    with pytest.raises(SystemExit, match=f"error: {name} is given, but a file that ends in .csv or .parquet"):
        command("run", "--output", name)
    assert not (tmp_path / name).exists()


def test_without_its_library_parquet_is_refused_with_what_to_install(run_dir, tmp_path, monkeypatch):
    table = audit(read_run(run_dir))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pyarrow is not installed.*pip install '.\[parquet\]'"):
        write_table(tmp_path / "issues.parquet", table)


def test_a_run_without_predictions_is_refused(command, tmp_path):
    with np.load(tmp_path / "run/record.npz") as record:
        kept = {name: record[name] for name in record.files if name != "predicted"}
    np.savez(tmp_path / "run/record.npz", **kept)
    with pytest.raises(SystemExit, match="error: run has no predictions for its training samples"):
        command("run")


def test_images_in_files_are_listed_by_their_paths(samples, tmp_path):
    from hydra import compose, initialize_config_dir

    from alignprune_pl.cli.train import train

    settings = ["dataset=image_folder", f"data_dir={samples}", "dataset.image_size=16", "data.num_workers=0"]
    settings += [
        "noise=sym",
        "model=mlp",
        "model.hidden=[8]",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "score=loss",
    ]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose("train", settings), tmp_path, {"noise": "sym40"})
    run = read_run(tmp_path)
    table = audit(run, every=True)
    folder = samples / "image_folder" / "train"
    for path, given, position in zip(table["path"], table["given_label"], table["position"], strict=True):
        file = folder / path
        assert file.is_file()
        assert (run.classes[given] != file.parent.name) == run.mask[position]
    assert run.record["thumbnails"].shape[0] == 16
    assert run.record["thumbnails"].max() > 100
    assert (tmp_path / "report.html").stat().st_size > 100_000
