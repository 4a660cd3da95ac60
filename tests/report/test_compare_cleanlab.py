"""What runs find beside what cleanlab finds in the same runs."""

from __future__ import annotations

import shutil
import sys

import lightning.pytorch as pl
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from alignprune_pl.cli.train import train
from alignprune_pl.report import read_run
from helpers import ROOT, load_script


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        return load_script("compare_cleanlab")


@pytest.fixture
def command(script, monkeypatch, capsys):
    """The script with these arguments; what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare_cleanlab.py", *map(str, arguments)])
        script.main()
        return capsys.readouterr().out

    return run


def row(table, who):
    (line,) = (line for line in table.splitlines() if f"| {who} |" in line)
    return [float(cell) for cell in line.split("|")[3:-1]]


def test_its_figures_are_those_of_the_audit_and_of_cleanlab_against_the_mask(command, run_dir):
    table = command(run_dir, "--markdown")
    run = read_run(run_dir)
    hits = run.mask[run.issues].sum()
    assert row(table, "alignprune-pl")[:3] == [
        pytest.approx(100 * hits / len(run.issues), abs=0.06),
        pytest.approx(100 * hits / run.mask.sum(), abs=0.06),
        pytest.approx(200 * hits / (len(run.issues) + run.mask.sum()), abs=0.06),
    ]
    from cleanlab.filter import find_label_issues

    probabilities = run.record["probabilities"].astype(float)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    theirs = find_label_issues(run.labels["label"], probabilities, n_jobs=1)
    assert row(table, "cleanlab")[0] == pytest.approx(100 * run.mask[theirs].mean(), abs=0.06)
    assert row(table, "cleanlab")[1] == pytest.approx(100 * theirs[run.mask].mean(), abs=0.06)


def test_with_folds_cleanlab_is_given_what_networks_say_that_did_not_train_on_a_sample(
    command, run_dir, script, monkeypatch
):
    run, fit, trained, epochs = read_run(run_dir), pl.Trainer.fit, [], []

    def recorded(self, module, datamodule):
        trained.append((set(datamodule.train_index.tolist()), datamodule.reference_index.tolist()))
        epochs.append(self.max_epochs)
        return fit(self, module, datamodule=datamodule)

    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "fit", recorded)
        probabilities = script.cross_validated(run, 2)
        assert epochs == [4, 4]
        command(run_dir, "--folds", 2, "--stop-after", 1)
        assert epochs == [4, 4, 1, 1]
    assert all(not seen & set(held) and len(seen) + len(held) == 1365 for seen, held in trained)
    assert sorted(trained[0][1] + trained[1][1]) == sorted(run.labels["train_index"].tolist())
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(1365))
    predicted = probabilities.argmax(axis=1)
    assert (predicted == run.labels["clean_label"]).mean() > 0.6 > (predicted == run.labels["label"]).mean()
    table = command(run_dir, "--folds", 2, "--markdown")
    assert row(table, "cleanlab, 2 folds") == [
        pytest.approx(figure, abs=0.06) for figure in script.of_cleanlab(run.mask, run.labels["label"], probabilities)
    ]


@pytest.fixture
def twice_listed(tmp_path):
    """A run on a table whose first twelve images are listed twice, three of them under two labels."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(48):
        pixels = np.random.default_rng(i).integers(0, 60, (8, 8, 3), dtype=np.uint8)
        pixels[..., i % 2] += 150  # each class has a colour
        Image.fromarray(pixels).save(images / f"{i:02d}.png")
    rows = [f"{i:02d}.png,{'ab'[i % 2]}" for i in range(48)] + [
        f"{i:02d}.png,{'ab'[i % 2 * (i < 6)]}" for i in range(12)
    ]
    for name, of in (("train", rows), ("test", ["test.png,a"])):
        (images / f"{name}.csv").write_text("\n".join(["path,label", *of]) + "\n")
    Image.new("RGB", (8, 8)).save(images / "test.png")
    settings = [
        *(
            "dataset=csv",
            f"dataset.train={images}/train.csv",
            f"dataset.test={images}/test.csv",
            "dataset.image_size=8",
        ),
        *("noise=given", "reference=none", "pruning=none", "score=loss", "model=mlp", "model.hidden=[8]"),
        *("trainer.accelerator=cpu", "trainer.max_epochs=10", "data.batch_size=9", "data.num_workers=0"),
    ]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose("train", settings), tmp_path / "run", {"noise": "given"})
    return read_run(tmp_path / "run")


def test_an_image_that_is_listed_twice_is_trained_on_in_no_fold_that_holds_it_and_told_one_thing(
    script, twice_listed, monkeypatch
):
    fit, parts = pl.Trainer.fit, []

    def recorded(self, module, datamodule):
        images = datamodule.benchmark.images_of["train"]
        parts.append([images[index] for index in (datamodule.train_index, datamodule.reference_index)])
        return fit(self, module, datamodule=datamodule)

    monkeypatch.setattr(pl.Trainer, "fit", recorded)
    held = []
    split = script.StratifiedKFold.split
    monkeypatch.setattr(
        script.StratifiedKFold, "split", lambda *given: (held.append(two[1]) or two for two in split(*given))
    )
    probabilities = script.cross_validated(twice_listed, 3)
    order = np.concatenate([np.arange(48), np.arange(12)])[twice_listed.labels["train_index"]]
    assert sorted(np.concatenate(held)) == list(range(60))
    for (trained, told), at in zip(parts, held, strict=True):
        assert sorted(told.tolist()) == sorted(set(order[at]))
        assert not set(trained.tolist()) & set(order[at])
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(60))
    assert (probabilities.argmax(axis=1) == order % 2).all()  # each sample is told of its own image


def test_folds_that_cannot_be_are_refused(command, run_dir, script, tmp_path):
    with pytest.raises(SystemExit, match="error: --folds 1 is given, but 2 or more are expected"):
        command(run_dir, "--folds", 1)
    with pytest.raises(SystemExit, match="error: --stop-after 5 is given, but 1 or more is expected, beside --folds"):
        command(run_dir, "--stop-after", 5)
    run = shutil.copytree(run_dir, tmp_path / "run")
    with np.load(run / "labels.npz") as labels:
        np.savez(run / "labels.npz", **{**labels, "label": np.roll(labels["label"], 1)})
    with pytest.raises(SystemExit, match=r"run trained on other labels than its settings give"):
        command(run_dir, run, "--folds", 2)


def test_a_run_of_which_only_the_labels_made_wrong_are_known_is_refused(command, run_dir, tmp_path):
    run = shutil.copytree(run_dir, tmp_path / "run")
    with np.load(run / "labels.npz") as labels:
        np.savez(run / "labels.npz", **{name: labels[name] for name in labels.files if name != "clean_label"})
    with pytest.raises(
        SystemExit, match=r"error: .*run has labels that were made wrong, but nobody knows which others"
    ):
        command(run)


def test_a_run_without_predictions_is_refused_by_what_it_lacks(command, run_dir, tmp_path):
    run = shutil.copytree(run_dir, tmp_path / "run")
    with np.load(run / "record.npz") as record:
        kept = {name: record[name] for name in record.files if name not in ("predicted", "probabilities")}
    np.savez(run / "record.npz", **kept)
    with pytest.raises(SystemExit, match=r"error: .*run has no predictions for its training samples"):
        command(run)


def test_runs_alike_are_a_row_with_mean_and_deviation(command, run_dir):
    assert command(run_dir, run_dir, "--markdown").count(" ± 0.0 ") == 8


def test_a_run_without_known_wrong_labels_is_refused(command, run_dir, tmp_path):
    run = shutil.copytree(run_dir, tmp_path / "run")
    with np.load(run / "labels.npz") as labels:
        kept = {name: labels[name] for name in labels.files if name != "noise_mask"}
    np.savez(run / "labels.npz", **kept)
    with pytest.raises(SystemExit, match=r"error: .*run has no wrong labels that are known"):
        command(run)


@pytest.mark.parametrize("name", ["compare_cleanlab", "review_worth"])
def test_without_cleanlab_there_is_help_and_a_sentence_that_says_how_to_get_it(name, monkeypatch, capsys, run_dir):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    for module in [module for module in sys.modules if module.partition(".")[0] in ("cleanlab", "compare_cleanlab")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "cleanlab", None)  # as if it were not there
    script = load_script(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        script.main()
    assert "cleanlab" in capsys.readouterr().out
    monkeypatch.setattr(
        sys, "argv", [name, str(run_dir), *(["--full", str(run_dir)] if name == "review_worth" else [])]
    )
    with pytest.raises(SystemExit, match=r"^error: cleanlab is missing, .*; run pip install cleanlab\.$"):
        script.main()
