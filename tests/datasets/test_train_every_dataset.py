"""The training script trains on every data set, from its original files."""

from __future__ import annotations

import json
import re
from functools import partial

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from alignprune_pl.cli.command_line import add_ratios
from helpers import ROOT, run_script

SMALL = ["model=mlp", "model.hidden=[8]", "trainer.max_epochs=2", "trainer.accelerator=cpu", "report=false"]
IN_MEMORY = ("digits", "fashion_mnist", "cifar10", "cifar10n", "cifar100", "cifar100n")
IN_FILES = ("webvision", "webvision_mini", "clothing1m", "imagenet", "tiny_imagenet", "image_folder", "csv", "arrays")


train = partial(run_script, "train.py")


def test_every_option_is_trained_below():
    assert {path.stem for path in (ROOT / "configs" / "dataset").glob("*.yaml")} == {*IN_MEMORY, *IN_FILES}


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (IN_MEMORY, ("data.in_memory=true",), {"cifar10n": ("human", "Human(annotation='worst')")}),
        (
            IN_FILES,
            ("data.num_workers=0", "++dataset.image_size=16", "++dataset.reference_per_class=1"),
            {"clothing1m": ("given", "Given()"), "imagenet": ("sym", "Symmetric(ratio=0.4, over='others')")},
        ),
    ],
    ids=["in memory", "in files"],
)
def test_every_dataset_trains_two_epochs(samples, tmp_path, names, settings, expected):
    arguments = [f"dataset={','.join(names)}", f"data_dir={samples}", *SMALL, *settings, "hydra.sweep.dir=sweep"]
    done = train("-m", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for i, name in enumerate(names):
        run = tmp_path / "sweep" / str(i)
        summary = json.loads((run / "summary.json").read_text())
        assert summary["options"]["dataset"] == name
        assert summary["epochs"] > 1
        assert 0 <= summary["test_acc"] <= 1
        assert len((run / "epochs.csv").read_text().splitlines()) == 3
        assert f"reference: {summary['reference_samples']:,} samples, {summary['reference_from']}" in done.stdout
        option, noise = expected.get(name, (None, None))
        assert option in (None, summary["options"]["noise"])
        assert noise in (None, summary["noise"])
        with np.load(run / "labels.npz") as labels:
            assert len(labels["label"]) == summary["train_samples"]
            assert ("noise_rate" in summary) == ("noise_mask" in labels)
            if "noise_mask" in labels:
                assert summary["noise_rate"] == pytest.approx(labels["noise_mask"].mean())
    assert ("which labels are wrong is unknown" in done.stdout) == ("clothing1m" in names)


@pytest.mark.parametrize("name", ["sym", "asym", "pairflip", "instance"])
def test_a_ratio_behind_a_noise_models_name_is_its_ratio_in_percent(name):
    add_ratios(["seed=1", f"noise=clean,{name}35,{name}7"])
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for percent, ratio in ((35, 0.35), (7, 0.07)):
            short = compose("train", [f"noise={name}{percent}"])
            assert short == compose("train", [f"noise={name}", f"noise.ratio={ratio}"])
            assert short.noise.ratio == ratio


def test_ratios_and_both_conventions_of_symmetric_noise_can_be_named_on_the_command_line(tmp_path):
    done = train("-m", *SMALL, "noise=sym50,sym35", "noise.over=others,all", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summaries = [json.loads((tmp_path / "sweep" / str(i) / "summary.json").read_text()) for i in range(4)]
    named = {(summary["options"]["noise"], summary["noise"]): summary["noise_rate"] for summary in summaries}
    assert named == {
        ("sym50", "Symmetric(ratio=0.5, over='others')"): pytest.approx(0.5, abs=1e-3),
        ("sym50", "Symmetric(ratio=0.5, over='all')"): pytest.approx(0.45, abs=0.02),
        ("sym35", "Symmetric(ratio=0.35, over='others')"): pytest.approx(0.35, abs=1e-3),
        ("sym35", "Symmetric(ratio=0.35, over='all')"): pytest.approx(0.315, abs=0.02),
    }


def test_a_set_of_annotations_can_be_named_on_the_data_set_or_the_noise(samples, tmp_path):
    arguments = ["dataset=cifar10n", f"data_dir={samples}", *SMALL]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for option in ("noise.annotation=aggregate", "dataset.annotation=aggregate"):
            assert compose("train", [*arguments, option]).noise.annotation == "aggregate"
    done = train("-m", *arguments, "dataset.annotation=aggregate,random2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("aggregate", "random2"):
        assert f"Human(annotation='{name}')" in done.stdout


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_stops_the_run_with_its_name(copy_of, workers):
    root = copy_of("image_folder")
    path = next((root / "image_folder" / "train" / "fox").iterdir())
    path.write_bytes(path.read_bytes()[:40])
    settings = ["dataset=image_folder", f"data_dir={root}", "dataset.image_size=16", f"data.num_workers={workers}"]
    done = train(*settings, *SMALL, cwd=root)
    assert done.returncode == 1
    assert re.search(
        rf"^error: {re.escape(str(path))} is not a whole image \(.*\); restore it or leave it out\.$", done.stderr, re.M
    )
    assert "Traceback" not in done.stderr


def test_images_that_differ_in_size_are_not_kept_in_memory(samples, tmp_path):
    done = train("dataset=csv", "data.in_memory=true", f"data_dir={samples}", *SMALL, cwd=tmp_path)
    assert done.returncode == 1
    assert "data.in_memory=true is given, but csv's images differ in size" in done.stderr


def test_the_script_over_all_pairs_prints_what_ran_and_what_was_refused(tmp_path):
    arguments = ["--datasets", "clothing1m", "--noises", "clean,matrix"]
    done = run_script("every_dataset.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| clothing1m \| refused \| [\d.]+ / [\d.]+ \|$", done.stdout, re.M)
    assert "1 pairs ran, 1 were refused" in done.stdout
    assert "clothing1m's clean labels are not known" in done.stdout
