"""Each mistake in NumPy files is told in one sentence, with what was given, what is expected and what to do."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import pytest
import torch

from alignprune_pl.data import DataFileError, NoisyData, arrays
from alignprune_pl.noise import Given, Human
from helpers import run_script

N, M = 12, 6
CONTENT = {
    "train_x": np.arange(N * 4, dtype=np.float32).reshape(N, 4),
    "train_y": np.arange(N) % 3,
    "test_x": np.arange(M * 4, dtype=np.float32).reshape(M, 4),
    "test_y": np.arange(M) % 3,
}
IMAGES = np.zeros((N, 8, 8), np.uint8)


def written(folder, write=np.savez, **changes):
    path = folder / "made.npz"
    write(path, **{name: array for name, array in {**CONTENT, **changes}.items() if array is not None})
    return path


def changed(name, *at, to):
    array = CONTENT[name].copy()
    array[at] = to
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_x": None}, "PATH has no array train_x, but it is expected; add it to test_x, test_y, train_y,"),
        ({"test_x": None}, "PATH has no array test_x, but it is expected; add it to test_y, train_x, train_y,"),
        ({"test_y": None}, "PATH has no array test_y, but it is expected;"),
        (
            {"train_y": None, "train_clean": CONTENT["train_y"], "train_worst": CONTENT["train_y"]},
            "PATH has no array train_y, but the labels to train on are expected; choose those that it has by "
            "dataset.labels=NAME: train_clean, train_worst.",
        ),
        (
            {"train_y": None},
            "PATH has no array train_y, but the labels to train on are expected; add them to test_x, test_y, train_x,",
        ),
        ({"train_y": CONTENT["train_y"][:5]}, "train_y of PATH is int64[5], but train_x has 12 rows; give one label"),
        ({"train_clean": CONTENT["test_y"]}, "train_clean of PATH is int64[6], but train_x has 12 rows;"),
        ({"test_y": CONTENT["train_y"]}, "test_y of PATH is int64[12], but test_x has 6 rows;"),
        (changed("train_y", 7, to=-1), "train_y of PATH has the label -1 in row 7, but classes from 0 are expected;"),
        (
            changed("test_y", 4, to=3),
            "test_y of PATH has the label 3 in row 4, but the 3 classes of the training data are",
        ),
        (changed("train_y", 2, to=10**6), "train_y of PATH has the label 1000000 in row 2, but the 12 classes"),
        (
            {"train_y": np.arange(N) % 3 + 1, "test_y": np.ones(M, int)},
            "train_y of PATH has labels up to 3 but none of class 0, and all classes from 0 on are expected; number them",
        ),
        (
            {"train_y": np.arange(N) % 3 * 2, "test_y": np.zeros(M, int)},
            "train_y of PATH has labels up to 4 but none of class 1, and all classes",
        ),
        (
            {"classes": np.array(["a", "b"])},
            "train_y of PATH has the label 2 in row 2, but the 2 classes of the training data are 0 to 1; mend it,",
        ),
        ({"train_y": np.zeros(N)}, "train_y of PATH is float64[12], but whole numbers [n], the classes from 0, are"),
        ({"train_y": np.zeros((N, 3), int)}, "train_y of PATH is int64[12, 3], but whole numbers [n]"),
        (
            {"train_y": np.array(["cat"] * N)},
            "but whole numbers [n], the classes from 0, are expected; number the classes.",
        ),
        ({"classes": np.zeros((3, 2))}, "classes of PATH is float64[3, 2], but one word for each class is expected;"),
        (
            {"test_x": CONTENT["test_x"][:, :3]},
            "test_x of PATH is float32[n, 3], but train_x is float32[n, 4]; make both",
        ),
        ({"test_x": CONTENT["test_x"].astype(int)}, "test_x of PATH is int64[n, 4], but train_x is float32[n, 4];"),
        (
            {"train_x": IMAGES, "test_x": IMAGES[:M, None].astype(np.int16)},
            "test_x of PATH is int16[n, 1, 8, 8], but train_x is uint8[n, 1, 8, 8];",
        ),
        ({"reference_x": CONTENT["test_x"]}, "PATH has no array reference_y, but it is expected;"),
        (
            {"reference_x": CONTENT["test_x"][:, :2], "reference_y": CONTENT["test_y"]},
            "reference_x of PATH is float32[n, 2], but train_x is float32[n, 4];",
        ),
        (
            {"train_x": np.zeros((0, 4)), "train_y": np.zeros(0, int)},
            "train_x of PATH is float64[0, 4], but at least one",
        ),
        (
            {"test_x": np.zeros((0, 4)), "test_y": np.zeros(0, int)},
            "test_x of PATH is float64[0, 4], but at least one row",
        ),
        ({"train_x": np.zeros((N, 0))}, "train_x of PATH is float64[12, 0], but at least one row and one column are"),
        (
            {"train_x": np.array(["word"] * N)},
            "but numbers [n, ...] are expected; convert them, such as by astype('float32').",
        ),
        (
            {"train_x": np.zeros((N, 4), complex)},
            "train_x of PATH is complex128[12, 4], but numbers [n, ...] are expected;",
        ),
        ({"train_x": np.float32(3)}, "train_x of PATH is float32[], but numbers [n, ...] are expected;"),
        (
            {"train_x": np.array([{}] * N)},
            "train_x of PATH has Python objects, which are not read as they could run code;",
        ),
        (
            {"train_x": np.zeros((N, 3, 8, 3), np.uint8)},
            "train_x of PATH is uint8[12, 3, 8, 3], but images as uint8[n, H, W], [n, H,",
        ),
        (
            {"train_x": np.zeros((N, 8, 8, 4), np.uint8)},
            "train_x of PATH is uint8[12, 8, 8, 4], but images as uint8[n, H, W], [n, H,",
        ),
        (
            changed("train_x", 3, 2, to=np.nan),
            "train_x of PATH has nan in row 3, column 2, but finite numbers of float32 are",
        ),
        (
            changed("test_x", 5, 0, to=-np.inf),
            "test_x of PATH has -inf in row 5, column 0, but finite numbers of float32",
        ),
        (
            {"train_x": np.where(np.arange(N * 4).reshape(N, 4) == 6, 1e39, 0.0)},
            "train_x of PATH has 1e+39 in row 1, column 2, but finite numbers of float32 are expected; mend it, or leave",
        ),
        (
            {"train_x": np.full((N, 2, 2), np.nan), "test_x": np.zeros((M, 2, 2))},
            "train_x of PATH has nan in row 0, column [0, 0], but",
        ),
    ],
)
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed], ids=["mapped", "compressed"])
def test_arrays_that_do_not_fit_are_told(tmp_path, write, changes, sentence):
    path = written(tmp_path, write, **changes)
    with pytest.raises(DataFileError) as told:
        arrays(path)
    assert sentence.replace("PATH", str(path)) in str(told.value)
    assert re.search(r"; .*\.$", str(told.value))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "train_x of PATH has no images, which are uint8[n, H, W]"),
        (
            {"train_x": IMAGES[:, 1:], "test_x": IMAGES[:M, 1:]},
            "train_x of PATH has images of 7 x 8 pixels, and squares",
        ),
    ],
)
def test_what_cannot_be_augmented_is_not(tmp_path, changes, sentence):
    path = written(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"dataset\.augment=true is given") as told:
        arrays(path, augment=True)
    assert sentence.replace("PATH", str(path)) in str(told.value)


def test_a_missing_or_other_file_and_a_folder_without_arrays_are_told(tmp_path):
    with pytest.raises(
        DataFileError, match=r"x\.npz is missing; give an \.npz file, as numpy\.savez writes it, or a folder"
    ):
        arrays(tmp_path / "x.npz")
    np.save(tmp_path / "one.npy", CONTENT["train_x"])
    with pytest.raises(DataFileError, match=r"one\.npy is not a whole \.npz file \(.*\); give an \.npz file"):
        arrays(tmp_path / "one.npy")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.csv").touch()
    with pytest.raises(DataFileError, match=r"empty has no \.npy files, but some are expected; give"):
        arrays(tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(DataFileError, match=r"other\.npz has no \.npy files"):
        arrays(tmp_path / "other.npz")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed], ids=["mapped", "compressed"])
@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_told_wherever_it_ends(tmp_path, write, kept):
    path = written(tmp_path, write)
    content = path.read_bytes()
    path.write_bytes(content[: round(kept * len(content)) if kept <= 1 else kept])
    with pytest.raises(DataFileError, match=r"made\.npz is not a whole \.npz file \(.*\); give an \.npz file"):
        arrays(path)


@pytest.mark.parametrize("kept", [0, 5, 60, 130, -1])
def test_a_truncated_array_of_a_folder_is_told_by_its_name(tmp_path, kept):
    for name, array in CONTENT.items():
        np.save(tmp_path / f"{name}.npy", array)
    path = tmp_path / "train_x.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataFileError, match=rf"^train_x of {tmp_path} is not a whole array \(.*\); save it again\.$"):
        arrays(tmp_path)


def test_damage_within_a_compressed_array_is_told_by_its_name(tmp_path):
    path = written(tmp_path, np.savez_compressed)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("train_x.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 70 : start + 110] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=r"^train_x of .*made\.npz is not a whole array \(.*\); save it again\.$"):
        arrays(path)


def test_objects_are_not_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    for write in (np.savez, np.savez_compressed):
        path = written(tmp_path, write, classes=np.array([Harm()] * 3))
        with pytest.raises(DataFileError, match=r"classes of .* has Python objects"):
            arrays(path)
        assert not (tmp_path / "harm").exists()


def test_noise_on_the_references_pixels_is_refused_of_what_are_no_images(tmp_path):
    benchmark = arrays(written(tmp_path))
    with pytest.raises(ValueError, match=r"pixel_noise=0\.1 is given, but the reference's inputs are no images; use"):
        NoisyData(benchmark, Given(), reference_share=0.3, reference_pixel_noise=0.1)
    images = arrays(written(tmp_path, train_x=IMAGES, test_x=IMAGES[:M]))
    data = NoisyData(images, Given(), reference_share=0.3, reference_pixel_noise=0.1)
    assert isinstance(data.reference_set.inputs, torch.Tensor)
    assert data.reference_set.inputs.float().std() > 1


def test_an_annotation_of_other_classes_is_none(tmp_path):
    benchmark = arrays(written(tmp_path, train_other=CONTENT["train_y"] + 5))
    with pytest.raises(
        ValueError, match="annotation='train_other' is given, but arrays has no human labels of that name"
    ):
        NoisyData(benchmark, Human("train_other"))


def test_the_command_ends_with_the_sentence(tmp_path):
    path = written(tmp_path, **changed("train_x", 3, 2, to=np.nan))
    done = run_script("train.py", "dataset=arrays", f"dataset.path={path}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"error: train_x of {path} has nan in row 3, column 2, but finite numbers of float32 are expected; mend it, or "
        "leave the row out."
    )
