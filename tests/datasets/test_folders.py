"""Which files and folders count, in what order, and that what does not count is told."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from alignprune_pl.data import DataFileError, csv_files, image_folder
from alignprune_pl.data.folders import class_order, folder_per_class, image_extensions, is_left_out


def put(folder, *names):
    """Files of these names; all are the same small image."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")


def read(folder):
    """Each image's path with its class's name."""
    classes, part = folder_per_class(folder)
    return [(path, classes[label]) for path, label in zip(part.inputs.paths(), part.labels.tolist(), strict=True)]


HIDDEN = (
    *("cat/.DS_Store", "cat/._a.png", "cat/Thumbs.db", "cat/desktop.ini", "cat/.hidden.png", "cat/.thumbnails/a.png"),
    *("cat/.ipynb_checkpoints/a-checkpoint.png", "cat/@eaDir/a.png", "cat/__MACOSX/a.png"),
    *(".ipynb_checkpoints/a.png", "__MACOSX/cat/a.png", "lost+found/a.png", "@eaDir/a.png", ".git/a.png", ".DS_Store"),
)


def test_hidden_files_and_those_of_systems_are_no_images_and_no_classes(tmp_path, caplog):
    caplog.set_level("INFO")
    put(tmp_path, "cat/a.png", "dog/b.png", *HIDDEN)
    assert read(tmp_path) == [("cat/a.png", "cat"), ("dog/b.png", "dog")]
    assert f"{tmp_path}: 15 files or folders are left out: 15 hidden or of a system (such as " in caplog.text


@pytest.mark.parametrize("name", HIDDEN)
def test_a_table_leaves_out_what_a_folder_does(name):
    assert is_left_out(name)
    assert is_left_out(name.replace("/", "\\"))


@pytest.mark.parametrize("name", ["cat/a.png", "./a.png", "../cat/a.png", "/home/me/.cache/cat/a.png", "a", "a.b.png"])
def test_a_table_may_list_what_lies_below_a_hidden_folder_of_the_users(name):
    assert not is_left_out(name)


def test_one_line_tells_what_is_left_out_and_why(tmp_path, caplog):
    caplog.set_level("INFO")
    put(
        tmp_path, "cat/a.png", "cat/notes.txt", "cat/b.xyz", "cat/clip.mpg", "cat/old/c.png", "readme.md", "cat/._a.png"
    )
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cat" / "self.png").symlink_to(tmp_path / "cat" / "self.png")
    assert read(tmp_path) == [("cat/a.png", "cat"), ("cat/old/c.png", "cat")]
    (line,) = caplog.messages
    assert line == (
        f"{tmp_path}: 7 files or folders are left out: 1 beside the class folders (such as readme.md), "
        "1 hidden or of a system (such as ._a.png), 3 without an image's extension (such as b.xyz), "
        "2 linked to nothing (such as gone.png)."
    )


def test_nothing_is_told_where_nothing_is_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    put(tmp_path, "cat/a.png")
    read(tmp_path)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "end", ["jpg", "JPEG", "jfif", "jpe", "gif", "avif", "jp2", "png", "bmp", "tif", "webp", "PGM", "qoi"]
)
def test_an_image_counts_by_the_extension_of_every_format_that_pillow_decodes(tmp_path, end):
    put(tmp_path, f"cat/a.{end}")
    assert read(tmp_path) == [(f"cat/a.{end}", "cat")]


def test_a_format_that_is_registered_later_counts_from_then_on(tmp_path, caplog, monkeypatch):
    put(tmp_path, "cat/a.png", "cat/a.heic")
    assert ".heic" not in image_extensions()
    assert len(read(tmp_path)) == 1
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])
    assert len(read(tmp_path)) == 2


@pytest.mark.parametrize("end", [".pdf", ".mpg", ".h5", ".eps", ".wmf", ".txt", ""])
def test_what_pillow_only_writes_or_names_is_no_image(end):
    assert end not in image_extensions()
    assert set(IMG_EXTENSIONS) <= image_extensions()


def test_a_class_without_an_image_is_told_with_what_was_left_out(tmp_path):
    put(tmp_path, "ant/a.png", "cat/a.heic", "fox/b.heic")
    with pytest.raises(
        DataFileError,
        match=re.escape(
            "cat has no image, with 1 more of the class folders (2 files or folders are left out: 2 without an"
        ),
    ):
        read(tmp_path)


# ---- links --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["..", ".", "../..", "../dog/../cat", "deep"])
def test_links_that_loop_end(tmp_path, caplog, target):
    caplog.set_level("INFO")
    root = tmp_path / "data"
    put(root, "cat/a.png", "cat/deep/b.png", "dog/c.png")
    before = read(root)
    (root / "cat" / "loop").symlink_to(target)
    (root / "cat" / "deep" / "loop").symlink_to("../loop")
    assert read(root) == before == [("cat/a.png", "cat"), ("cat/deep/b.png", "cat"), ("dog/c.png", "dog")]
    assert "2 linked to a folder that is read already (such as loop)" in caplog.text


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_a_link_to_what_the_classes_are_in_is_no_class(tmp_path, caplog, target):
    caplog.set_level("INFO")
    root = tmp_path / "data"
    put(root, "cat/a.png")
    (root / "loop").symlink_to(target)
    assert read(root) == [("cat/a.png", "cat")]
    assert "1 linked to a folder that is read already (such as loop)" in caplog.text


def test_folders_elsewhere_are_read_by_their_links(tmp_path):
    put(tmp_path, "store/a.png", "more/b.png", "data/cat/c.png")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "store")
    (tmp_path / "data" / "cat" / "more").symlink_to(tmp_path / "more")
    assert read(tmp_path / "data") == [("cat/c.png", "cat"), ("cat/more/b.png", "cat"), ("dog/a.png", "dog")]


def test_a_folder_that_is_there_and_linked_is_read_where_it_is(tmp_path):
    put(tmp_path, "cat/z/a.png")
    (tmp_path / "cat" / "b").symlink_to(tmp_path / "cat" / "z")
    assert read(tmp_path) == [("cat/z/a.png", "cat")]


# ---- order --------------------------------------------------------------------------------------------------

ORDERS = [
    (["0", "1", "10", "11", "2"], ["0", "1", "2", "10", "11"]),
    (["00", "01", "10", "02"], ["00", "01", "02", "10"]),
    (["1", "01", "001", "2"], ["001", "01", "1", "2"]),
    (["-1", "-2", "10", "9"], ["-2", "-1", "9", "10"]),
    (["10", "9", "b"], ["10", "9", "b"]),
    (["n02", "n01", "a"], ["a", "n01", "n02"]),
    (["B", "a", "C"], ["B", "C", "a"]),
    (["1.5", "1", "10"], ["1", "1.5", "10"]),
]


@pytest.mark.parametrize(("names", "order"), ORDERS)
def test_classes_have_one_order_in_folders_and_in_tables(tmp_path, names, order):
    assert class_order(names) == tuple(order)
    for part in ("train", "val"):
        put(tmp_path / part, *(f"{name}/a.png" for name in names))
        rows = [f"{part}/{name}/a.png,{name}" for name in names]
        (tmp_path / f"{part}.csv").write_text("\n".join(["path,label", *rows]))
    folder, table = image_folder(tmp_path), csv_files(tmp_path / "train.csv", tmp_path / "val.csv")
    assert folder.classes == table.classes == tuple(order)
    assert folder.train.labels.tolist() == list(range(len(order)))
    assert folder.train.inputs.paths() == [f"{name}/a.png" for name in order]
    assert [table.classes[label] for label in table.train.labels.tolist()] == names


def test_the_longest_numbers_are_words():
    assert class_order(["9" * 5000, "1" + "0" * 5000]) == ("1" + "0" * 5000, "9" * 5000)


def test_plain_folders_have_the_order_that_torchvision_gives_them(tmp_path):
    put(
        tmp_path,
        *(f"{c}/{d}{i}.png" for c in ("b", "a-b", "a") for d in ("", "x/", "x-y/", "x/y/") for i in (10, 9, 1)),
    )
    names, number = find_classes(str(tmp_path))
    theirs = make_dataset(str(tmp_path), number, IMG_EXTENSIONS)
    classes, part = folder_per_class(tmp_path)
    assert list(classes) == names
    assert [str(tmp_path / path) for path in part.inputs.paths()] == [path for path, _ in theirs]
    assert part.labels.tolist() == [label for _, label in theirs]
    assert part.labels.dtype == torch.int64


# ---- names --------------------------------------------------------------------------------------------------


def test_a_class_is_one_however_its_accents_are_written(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    put(tmp_path / "train", f"{composed}/a.png", "cat/b.png")
    put(tmp_path / "val", f"{apart}/c.png", "cat/d.png")
    benchmark = image_folder(tmp_path)
    assert benchmark.classes == (composed, "cat")
    assert benchmark.evaluated["test"].inputs.paths() == [f"{apart}/c.png", "cat/d.png"]
    put(tmp_path / "train", f"{apart}/e.png")
    assert set(read(tmp_path / "train")) == {
        (f"{composed}/a.png", composed),
        (f"{apart}/e.png", composed),
        ("cat/b.png", "cat"),
    }


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines"])
def test_a_folder_whose_name_cannot_be_shown_is_refused(tmp_path, name):
    os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    with pytest.raises(DataFileError, match=r"has a folder '.*', which is no name of a class; rename it\."):
        read(tmp_path)


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    put(tmp_path, "cat/a.png", "cat/deep/b.png")
    listed = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataFileError, match=r"cat/deep cannot be listed \(Permission denied\)"):
        read(tmp_path)


def test_the_current_folder_can_be_a_data_set(tmp_path, monkeypatch):
    put(tmp_path, "cat/a.png")
    monkeypatch.chdir(tmp_path)
    assert read(Path()) == [("cat/a.png", "cat")]
