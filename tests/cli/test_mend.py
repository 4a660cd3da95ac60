"""From what was decided in a review back into training, the whole way by the commands."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
import sys
from functools import partial

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from alignprune_pl.cli import alignprune_audit
from alignprune_pl.cli.folders import check_folder
from alignprune_pl.report import read_run
from alignprune_pl.report.run_files import read_config, read_labels, read_summary, write_config
from alignprune_pl.report.settings import settings_of
from deciding import as_csv, as_json, decided
from helpers import ROOT, run_script

SMALL = (
    "model=mlp",
    "model.hidden=[8]",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "pruning=none",
    "score=loss",
)
SMALL += ("data.num_workers=0",)
IMAGES = ("dataset.image_size=16",)
ENDS = {"digits": ".csv", "csv": ".csv", "image_folder": ".json", "arrays": ".npz", "webvision_mini": ".csv"}

train = partial(run_script, "train.py")


@pytest.fixture
def command(monkeypatch, capsys):
    """The command ``alignprune-audit`` with these arguments; what it prints."""

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["alignprune-audit", *map(str, arguments)])
        alignprune_audit()
        return capsys.readouterr().out

    return run


def decide(run, path, form=as_csv):
    """Change the first three labels, keep one, leave two samples out; the labels that there are to be by index."""
    index, label = run.labels["train_index"], run.labels["label"]
    new = (label + 1) % len(run.classes)
    words = {int(index[at]): int(new[at]) for at in range(3)} | {int(index[5]): "keep"}
    words |= {int(index[7]): "junk", int(index[11]): "junk"}
    path.write_bytes(form(decided(run, words)))
    expected = dict(zip(index.tolist(), label.tolist(), strict=True))
    expected |= {at: word for at, word in words.items() if isinstance(word, int)}
    return {at: label for at, label in expected.items() if words.get(at) != "junk"}


def trained_on(folder):
    """The labels that a run trained on, by index."""
    labels = read_labels(folder)
    return dict(zip(labels["train_index"].tolist(), labels["label"].tolist(), strict=True))


@pytest.mark.parametrize("name", list(ENDS))
def test_the_labels_that_are_trained_on_are_those_that_were_decided(name, samples, command, tmp_path):
    sizes = IMAGES if name not in ("digits", "arrays") else ()
    settings = [f"dataset={name}", f"data_dir={samples}", *SMALL, *sizes, "reference.share=0.1", "hydra.run.dir=run"]
    settings += ["dataset.reference_per_class=1"] if name == "webvision_mini" else []
    done = train(*settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = decide(read_run(tmp_path / "run"), tmp_path / "decisions.csv")
    said = command("run", "--apply", "decisions.csv")
    n = len(expected) + 2
    place, last = said.splitlines()[-2:]
    assert said.startswith("6 decisions are kept as run/decisions/001.csv.\n")
    assert f"Of {n:,} labels 3 are changed, 1 kept and 2 left out, by 1 file of decisions." in said
    assert place == f"run/mended{ENDS[name]}"
    before = (tmp_path / place).read_bytes()
    assert "6 decisions are there already as run/decisions/001.csv." in command("run", "--apply", "decisions.csv")
    assert "left out, by 1 file of" in command("run", "--apply", "run/decisions/001.csv")
    assert (tmp_path / place).read_bytes() == before
    again = shlex.split(last)
    assert again[0] == "alignprune-train"
    assert [each for each in again[1:] if each not in settings] == [f"labels={place}"]
    done = train(*again[1:], "hydra.run.dir=again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = trained_on(tmp_path / "again")
    assert found == expected
    before, after = (read_labels(tmp_path / folder).get("reference_index") for folder in ("run", "again"))
    assert np.array_equal(before, after)
    summary = read_summary(tmp_path / "again")
    assert (summary["noise"], summary["options"]["noise"]) == ("Given()", "given")
    assert ("noise_rate" in summary) == (name not in ("image_folder", "webvision_mini"))


def test_a_second_review_goes_on_from_the_first(samples, command, tmp_path):
    settings = ["dataset=csv", f"data_dir={samples}", *SMALL, *IMAGES, "reference.share=0.1"]
    assert train(*settings, "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    first = decide(read_run(tmp_path / "run"), tmp_path / "a.json", as_json)
    command("run", "--apply", "a.json", "--output", "mended.csv")
    assert train(*settings, "labels=mended.csv", "hydra.run.dir=second", cwd=tmp_path).returncode == 0
    run = read_run(tmp_path / "second")
    at = int(run.labels["train_index"][20])
    (tmp_path / "b.csv").write_bytes(as_csv(decided(run, {at: (first[at] + 1) % 3})))
    with pytest.raises(SystemExit, match="is of the data set"):  # its labels are others
        command("run", "--apply", "b.csv")
    said = command("second", "--apply", "b.csv", "--output", "mended2.csv")
    assert "labels=mended2.csv" in said
    assert "labels=mended.csv" not in said
    assert train(*settings, "labels=mended2.csv", "hydra.run.dir=third", cwd=tmp_path).returncode == 0
    assert trained_on(tmp_path / "third") == {**first, at: (first[at] + 1) % 3}
    (tmp_path / "mended.csv").write_text((tmp_path / "mended2.csv").read_text())
    with pytest.raises(SystemExit, match=rf"the label of sample {at} was .* and is .*; restore the data set"):
        command("second", "--apply", "b.csv")


def test_labels_made_wrong_stay_so_where_nobody_has_mended_them(samples, command, tmp_path):
    settings = ["dataset=image_folder", f"data_dir={samples}", *SMALL, *IMAGES, "reference=none", "hydra.run.dir=run"]
    assert train(*settings, "noise=sym40", cwd=tmp_path).returncode == 0
    expected = decide(read_run(tmp_path / "run"), tmp_path / "a.csv")
    again = shlex.split(command("run", "--apply", "a.csv").splitlines()[-1])[1:]
    assert not [each for each in again if each.startswith("noise")]
    assert len(json.loads((tmp_path / "run/mended.json").read_text())["moves"]) > 10
    assert train(*again, "hydra.run.dir=again", cwd=tmp_path).returncode == 0
    assert trained_on(tmp_path / "again") == expected


def test_a_checkpoint_of_the_run_before_is_refused(samples, command, tmp_path):
    settings = ["dataset=arrays", f"data_dir={samples}", *SMALL, "hydra.run.dir=run"]
    assert train(*settings, cwd=tmp_path).returncode == 0
    decide(read_run(tmp_path / "run"), tmp_path / "a.csv")
    command("run", "--apply", "a.csv")
    settings[-1:] = ["labels=run/mended.npz", "ckpt_path=run/checkpoints/last.ckpt", "trainer.max_epochs=2"]
    done = train(*settings, "hydra.run.dir=again", cwd=tmp_path)
    assert "error: The checkpoint is of a run on other training samples or labels" in done.stderr
    done = train(*settings[:-2], "hydra.run.dir=run", cwd=tmp_path)
    assert "run holds another run (labels is None there and run/mended.npz here)" in done.stderr


# ---- refused ------------------------------------------------------------------------------------------------


def test_a_data_set_that_has_changed_since_is_refused(files, command, tmp_path):
    files.write_csv(tmp_path)
    own = tmp_path / "csv/train.csv"
    done = train("dataset=csv", f"data_dir={tmp_path}", *SMALL, *IMAGES, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    decide(read_run(tmp_path / "run"), tmp_path / "a.csv")
    text = own.read_text()
    lines = text.splitlines()
    at = int(read_labels(tmp_path / "run")["train_index"][0])
    path, label, clean = lines[1 + at].split(",")
    other, third = sorted({"cat", "dog", "fox"} - {label})
    swapped = [line if not line.startswith(path) else line.replace(path, "images/test_000.png") for line in lines]
    for changed, expected in (
        ([*lines[: 1 + at], f"{path},{other},{clean}", *lines[2 + at :]], f"the label of sample {at} was"),
        (
            [*lines[: 1 + at], f"{path},{label},{other if clean != other else third}", *lines[2 + at :]],
            "the true label of",
        ),
        ([lines[0], lines[2], lines[1], *lines[3:]], "the path of sample 0 was images/train_000.png and is"),
        (lines[:30], "it has 29 samples, the run had"),
        (swapped, ".*test_000.*Relative paths start"),
    ):
        own.write_text("\n".join(changed))
        with pytest.raises(SystemExit, match=rf"error: .*{expected}") as error:
            command("run", "--apply", "a.csv")
        assert not (tmp_path / "run/mended.csv").exists(), error.value
        assert not (tmp_path / "run/decisions").exists()
    own.unlink()
    with pytest.raises(SystemExit, match=r"csv/train.csv is missing.* Relative paths start where the run was started"):
        command("run", "--apply", "a.csv")
    own.write_text(text)
    assert "6 decisions are kept as" in command("run", "--apply", "a.csv")


def test_another_kind_of_file_and_a_run_without_predictions_are_refused(run_dir, command, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    decide(read_run(tmp_path / "run"), tmp_path / "a.csv")
    with pytest.raises(SystemExit, match=r"--output mended.json is given, but a file that ends in .csv is expected"):
        command("run", "--apply", "a.csv", "--output", "mended.json")
    with pytest.raises(SystemExit):
        command("run", "--apply", "a.csv", "--all")
    with pytest.raises(SystemExit, match=r"error: gone.csv cannot be read or written \(No such file"):
        command("run", "--apply", "gone.csv")
    assert not (tmp_path / "run/decisions").exists()
    with np.load(tmp_path / "run/record.npz") as record:
        kept = {name: record[name] for name in record.files if name != "predicted"}
    np.savez(tmp_path / "run/record.npz", **kept)
    with pytest.raises(SystemExit, match="error: run has no predictions"):
        command("run", "--apply", "a.csv")


def test_what_no_command_has_trained_is_mended_as_a_table_of_places(run_dir, command, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    decide(read_run(tmp_path / "run"), tmp_path / "a.csv")
    *words, setting = shlex.split(command("run", "--apply", "a.csv", "--output", "b c's é.csv").splitlines()[-1][:-1])
    assert " ".join(words) == "Train on it with the settings of run/config.yaml and"
    assert OverridesParser.create().parse_override(setting).value() == "b c's é.csv"
    (tmp_path / "run/config.yaml").write_text("{}\n")
    with np.load(run_dir / "record.npz") as record:
        paths = np.array([f"é/{at}.png".encode() for at in range(len(record["suspicion"]))])
        np.savez(tmp_path / "run/record.npz", **record, paths=paths)
    run = read_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/decisions")  # which are of the data set without paths
    expected = decide(run, tmp_path / "a.csv")
    said = command("run", "--apply", "a.csv")
    told = "Train on its rows: index is a sample's place in your training data, and label its class's name."
    assert said.splitlines()[-1] == told
    head, *lines = (tmp_path / "run/mended.csv").read_text("utf-8").splitlines()
    assert head == "index,label,path"
    places = {int(index): position for position, index in enumerate(run.labels["train_index"])}
    table = [f"{index},{run.classes[label]},é/{places[index]}.png" for index, label in expected.items()]
    pairs = zip(run.labels["reference_index"], run.labels["reference_label"], strict=True)
    assert lines == table + [f"{index},{run.classes[label]}," for index, label in pairs]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ("labels=a.csv", "noise=sym40"),
            "labels=a.csv and noise=sym40 are given, but the labels of a file are trained on as",
        ),
        (("labels=a.csv", "noise.ratio=0.3"), "labels=a.csv and noise.ratio=0.3 are given"),
        (
            ("labels=gone.csv",),
            "labels=gone.csv is missing, but a .csv, .json or .npz file of mended labels is expected",
        ),
        (("labels=5",), "labels=5 is given, but a .csv, .json or .npz file of mended labels is expected"),
        (("labels=b.csv",), "b.csv, line 2, has the label 'ten', but digits has the classes 0, 1, 2"),
        (
            ("labels=a.csv", "noise=given", "data.train_size=1500"),
            "train_size=1500 is given, but 1 to 1437 is expected",
        ),
    ],
)
def test_labels_that_cannot_be_trained_on_are_refused_before_training(tmp_path, settings, expected):
    (tmp_path / "a.csv").write_text("index,label\n0,1\n")
    (tmp_path / "b.csv").write_text("index,label\n0,ten\n")
    done = train("dataset=digits", *SMALL, *settings, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 1
    assert f"error: {expected}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/epochs.csv").exists()


def test_a_sweep_compares_the_labels_before_and_after(tmp_path):
    rows = [f"{at},{at % 10}" for at in range(0, 1437, 2)]
    (tmp_path / "a.csv").write_text("\n".join(["index,label", *rows]))
    done = train("-m", "dataset=digits", *SMALL, "labels=null,a.csv", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [read_summary(tmp_path / "sweep" / job)["options"]["noise"] for job in "01"] == ["sym", "given"]
    found = trained_on(tmp_path / "sweep/1")
    assert {(at % 2, label - at % 10) for at, label in found.items()} == {(0, 0)}
    done = run_script("compare.py", "sweep", "--rows", "noise", "--markdown", cwd=tmp_path)
    assert "| sym |" in done.stdout


def test_a_reference_that_is_picked_is_picked_out_of_them(tmp_path):
    rows = [f"{at},{at % 10}" for at in range(0, 1437, 3)]
    (tmp_path / "a.csv").write_text("\n".join(["index,label", *rows]))
    picking = (
        "reference=pseudo_clean",
        "reference.epochs=1",
        "reference.share=0.1",
        "labels=a.csv",
        "data.in_memory=true",
    )
    done = train("dataset=digits", *SMALL, *picking, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    labels = read_labels(tmp_path / "run")
    both = sorted([*labels["train_index"].tolist(), *labels["reference_index"].tolist()])
    assert both == list(range(0, 1437, 3))
    assert (labels["label"] == labels["train_index"] % 10).all()


def test_a_run_of_a_version_without_a_setting_is_the_same_run(run_dir, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    now = read_config(run_dir)
    callback = {name: value for name, value in now["callback"].items() if name != "merge_batches"}
    before = {**{name: value for name, value in now.items() if name != "labels"}, "callback": callback}
    assert now["labels"] is None
    assert now["callback"]["merge_batches"] is False
    assert settings_of(before) == settings_of(now) != settings_of({**now, "labels": "a.csv"})
    deciding = importlib.import_module("benchmark").deciding
    assert deciding(OmegaConf.create(before)) == deciding(OmegaConf.create(now))
    write_config(tmp_path, before)
    check_folder(tmp_path, now, "hydra.run.dir")
    with pytest.raises(ValueError, match=r"labels is None there and a.csv here"):
        check_folder(tmp_path, {**now, "labels": "a.csv"}, "hydra.run.dir")
