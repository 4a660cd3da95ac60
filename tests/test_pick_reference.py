"""A reference that is picked out of noisy training data, or none at all, in the training script."""

from __future__ import annotations

import re

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from alignprune_pl import callback
from alignprune_pl.cli import train as script
from alignprune_pl.data import NoisyData, digits
from alignprune_pl.noise import Symmetric
from helpers import ROOT


def config(*overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", ["trainer.accelerator=cpu", "model.hidden=[8]", "report=false", *overrides])


def noisy_digits():
    return NoisyData(digits(), Symmetric(0.4), reference_share=None, seed=0)


def picked(*overrides):
    torch.manual_seed(0)
    data = noisy_digits()
    script.picked(config("reference=pseudo_clean", "reference.share=0.05", *overrides), data)
    return data


def test_it_is_the_same_however_long_the_run_is_that_follows():
    short, long = (picked(f"trainer.max_epochs={epochs}") for epochs in (4, 40))
    assert torch.equal(short.reference_index, long.reference_index)
    assert len(short.reference_index) == 72


def test_it_has_fewer_wrong_labels_than_the_data():
    data = picked()
    wrong = data.reference_set.labels != digits().train.labels[data.reference_index]
    assert 0 <= wrong.float().mean() < 0.25
    assert noisy_digits().noise_mask.float().mean() > 0.39


@pytest.mark.parametrize("epochs", ["0", "-1", "1.5"])
def test_less_than_an_epoch_to_pick_is_refused(epochs):
    with pytest.raises(
        ValueError, match=f"reference.epochs={epochs} is given, but a number of epochs of at least 1 is"
    ):
        picked(f"reference.epochs={epochs}")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reference.share=0.7", "reference share=0.7 and among=0.6 are given"),
        ("reference.among=2", "reference share=0.05 and among=2 are given"),
        ("data.reference_wrong=2", "reference wrong=2 is given"),
        ("pruning.line=2", "line=2 is given, but a probability in"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_trained(tmp_path, monkeypatch, setting, message):
    monkeypatch.setattr(script, "classifier", None)
    settings = ("pruning=calibrated", "reference=pseudo_clean", "reference.share=0.05", "model=mlp")
    with pytest.raises((ValueError, InstantiationException), match=message):
        script.train(config(*settings, setting), tmp_path, {})


def test_without_a_reference_what_needs_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got no reference, but Calibrated"):
        script.train(config("pruning=calibrated", "reference=none"), tmp_path, {})


class _Started(Exception):
    """Ends a run where its training would begin."""


def _parts_of_run(monkeypatch, folder, *overrides):
    """The network, the data and the arguments of the callback with which a run begins."""
    parts = {}
    make = script.classifier

    def classifier(cfg, data):
        parts.update(network=make(cfg, data), data=data)
        return parts["network"]

    def align_prune(**arguments):
        parts["callback"] = arguments
        raise _Started

    monkeypatch.setattr(script, "classifier", classifier)
    monkeypatch.setattr(callback, "AlignPrune", align_prune)
    with pytest.raises(_Started):
        script.train(config(*overrides), folder, {})
    monkeypatch.undo()
    return parts


def test_a_run_starts_with_the_same_network_whether_or_not_a_reference_was_picked(tmp_path, monkeypatch):
    first = [
        _parts_of_run(monkeypatch, tmp_path, *settings)["network"].network.state_dict()
        for settings in (["reference=none", "score=loss"], ["reference=pseudo_clean", "reference.share=0.05"])
    ]
    assert len(first[0]) > 0
    assert all(torch.equal(first[0][name], weight) for name, weight in first[1].items())


def test_a_run_probes_the_images_without_augmentation(tmp_path, monkeypatch):
    parts = _parts_of_run(monkeypatch, tmp_path, "pruning=calibrated")
    assert parts["callback"]["probe_data"] is parts["data"].probe_set


def test_a_run_disturbs_the_pixels_of_its_reference_alone(tmp_path, monkeypatch):
    near, far = (
        _parts_of_run(monkeypatch, tmp_path, f"data.reference_pixel_noise={share}")["data"] for share in (0, 0.3)
    )
    pixels = [torch.stack([data.reference_set[i][0] for i in range(10)]) for data in (near, far)]
    assert 0.1 < (pixels[0] - pixels[1]).std() < 1
    assert all(torch.equal(near.train_set[i][0], far.train_set[i][0]) for i in range(10))


@pytest.mark.parametrize(
    ("group", "setting", "sentence"),
    [
        (
            "data",
            "batchsize",
            "data.batchsize is given, but NoisyData has no such argument; leave it out, or give one of",
        ),
        ("callback", "windows", "callback.windows is given, but AlignPrune has no such argument; leave it out, or"),
        (
            "trainer",
            "gradient_clip",
            "trainer.gradient_clip is given, but Trainer has no such argument; leave it out, or",
        ),
    ],
)
def test_a_setting_that_is_none_is_told_with_those_that_there_are(group, setting, sentence):
    cfg = config("dataset=digits", f"+{group}.{setting}=1")
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)} .*, "):
        script.partial_of(group, cfg[group])


@pytest.mark.parametrize(
    ("settings", "checked", "better"),
    [
        (["dataset=image_folder"], False, "reference=pseudo_clean"),
        (["dataset=image_folder", "reference=pseudo_clean", "reference.share=0.1"], True, "reference=pseudo_clean"),
        (["dataset=csv"], True, "reference.share=0.1"),  # with clean labels
        (["dataset=csv", "reference.share=0.1"], True, ""),
        (["dataset=clothing1m"], True, ""),
    ],
)
def test_a_reference_out_of_labels_that_nobody_knows_is_not_a_checked_one(samples, settings, checked, better):
    cfg = config(f"data_dir={samples}", "model=mlp", *settings)
    data = script.data_of(cfg, instantiate(cfg.noise))
    assert (script.is_checked(cfg, data), script.better_reference(cfg, data)) == (checked, better)
