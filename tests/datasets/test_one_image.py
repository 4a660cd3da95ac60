"""A file is one image by whatever path or link it is listed, and no image is both held out and trained on."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from alignprune_pl.data import DataFileError, NoisyData, clothing1m, csv_files, image_folder
from alignprune_pl.noise import Given, Symmetric


@pytest.fixture
def folder(tmp_path, caplog):
    """Images to list, and what is told of them."""
    caplog.set_level("INFO")
    for name in (*(f"{i:02d}" for i in range(30)), "test"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "test.csv").write_text("path,label\ntest.png,cat\n")
    return tmp_path


def listed(folder, rows, **kwargs):
    """The benchmark of a table with these rows."""
    (folder / "train.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    return csv_files(folder / "train.csv", folder / "test.csv", image_size=8, **kwargs)


CLASSES = ("cat", "dog")
ONCE = [f"{i:02d}.png,{CLASSES[i % 2]}" for i in range(30)]


def test_images_that_are_listed_once_are_not_told(folder, caplog):
    images = listed(folder, ONCE).images_of
    assert {name: numbers.tolist() for name, numbers in images.items()} == {"train": list(range(30)), "test": [30]}
    assert caplog.text == ""


def test_an_image_that_is_listed_twice_is_in_the_reference_or_trained_on(folder, caplog):
    benchmark = listed(folder, [*ONCE, *(f"./{row}" for row in ONCE)])
    assert benchmark.images_of["train"].tolist() == [*range(30)] * 2
    assert (
        f"csv, train part: 30 of 60 samples repeat an image, such as {folder / '00.png'}, and are kept." in caplog.text
    )
    for seed in range(5):
        caplog.clear()
        data = NoisyData(benchmark, Symmetric(0.2), reference_share=0.2, seed=seed)
        images = benchmark.images_of["train"]
        assert len(images[data.reference_index].unique()) == len(data.reference_index) == 6
        assert len(data.train_index) == 60 - 2 * 6
        assert data.reference_from.startswith("20.00% of the training data's images, drawn by class")
        assert not torch.isin(images[data.train_index], images[data.reference_index]).any()
        assert len(data.labels) == len(data.noise_mask) == len(data.train_set) == 48
        assert caplog.text.count("csv: 6 samples of images in the reference are not trained on.") == 1


def test_a_draw_of_images_that_are_there_once_is_what_it_was(folder):
    data = NoisyData(listed(folder, ONCE), Given(), reference_share=0.2, seed=3)
    assert data.reference_index.tolist() == [1, 8, 9, 11, 12, 28]


def test_an_image_with_two_labels_is_told_and_trained_on_but_no_reference(folder, caplog):
    benchmark = listed(folder, [*ONCE, *(f"{i:02d}.png,cat" for i in range(1, 24, 2))])
    assert f"images with more than one label: 12, such as {folder / '01.png'} (cat and dog)." in caplog.text
    for seed in range(5):
        data = NoisyData(benchmark, Given(), reference_share=0.5, seed=seed)
        assert len(data.reference_index) == 9
        assert set(data.reference_index.tolist()) <= {*range(0, 30, 2), 25, 27, 29}
        assert len(data.train_index) + len(data.reference_index) == 42


def test_a_reference_cannot_be_drawn_of_images_with_two_labels_alone(folder):
    benchmark = listed(folder, ["00.png,cat", "00.png,dog"])
    with pytest.raises(
        ValueError, match="Each image of csv has several labels, but those of a reference are to have one;"
    ):
        NoisyData(benchmark, Given())
    assert len(NoisyData(benchmark, Given(), reference_share=None).train_index) == 2


def test_samples_that_are_picked_as_the_reference_take_their_image_along(folder):
    data = NoisyData(listed(folder, [*ONCE, *ONCE]), Given(), reference_share=None)
    data.take_reference(torch.tensor([0, 3, 30, 35]), "picked")
    assert data.reference_index.tolist() == [0, 3, 35]
    assert data.train_index.tolist() == [i for i in range(60) if i % 30 not in (0, 3, 5)]
    assert len(data.reference_set) == 3
    assert len(data.train_set) == 54


@pytest.mark.parametrize("part", ["test", "reference"])
def test_a_link_to_an_image_that_is_trained_on_is_that_image(folder, part):
    (folder / "linked").symlink_to(folder)
    (folder / "other.png").symlink_to(folder / "linked" / "03.png")
    (folder / "held.csv").write_text("path,label\nother.png,cat\nlinked/04.png,cat\n")
    given = (
        {"test": folder / "held.csv"}
        if part == "test"
        else {"test": folder / "test.csv", "reference": folder / "held.csv"}
    )
    (folder / "train.csv").write_text("\n".join(["path,label", *ONCE]))
    sentence = (
        f"{folder / 'other.png'} is in both csv's train (as {folder / '03.png'}) and its {part} part, with 1 more, but each "
        "image is to be in one of them; take it out of the other."
    )
    with pytest.raises(DataFileError, match=re.escape(sentence)):
        csv_files(folder / "train.csv", **given)


def test_links_between_folders_of_classes_are_one_image(files, tmp_path, caplog):
    caplog.set_level("INFO")
    root = files.write_image_folder(tmp_path)
    (root / "train" / "cat" / "same.png").symlink_to(root / "train" / "cat" / "0000.png")
    (root / "train" / "dog" / "cat.png").symlink_to(root / "train" / "cat" / "0002.png")
    benchmark = image_folder(root)
    assert len(benchmark.train) == 62
    assert len(benchmark.images_of["train"].unique()) == 60
    assert "2 of 62 samples repeat an image" in caplog.text
    assert f"images with more than one label: 1, such as {root}/train/cat/0002.png (cat and dog)." in caplog.text
    (root / "val" / "cat" / "leak.png").symlink_to(root / "train" / "cat" / "0004.png")
    with pytest.raises(
        DataFileError, match=r"leak\.png is in both image_folder's train \(as .*0004\.png\) and its test part"
    ):
        image_folder(root)


def test_what_a_list_names_twice_is_told_of_every_data_set(copy_of, caplog):
    caplog.set_level("INFO")
    root = copy_of("clothing1m") / "clothing1m"
    keys = root / "noisy_train_key_list.txt"
    keys.write_text(keys.read_text() + keys.read_text().splitlines()[4] + "\n")
    assert len(clothing1m(root).train) == 141
    assert "clothing1m, train part: 1 of 141 samples repeat an image" in caplog.text


def test_a_million_paths_are_resolved_by_listing_their_folders(folder, monkeypatch):
    import os

    asked = []
    real = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path, **kwargs: asked.append(path) or real(path, **kwargs))
    listed(folder, ONCE)
    assert len(asked) == 2  # the folder, for each of the two parts
