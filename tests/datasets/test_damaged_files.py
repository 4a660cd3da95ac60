"""A damaged, missing or mislabelled file ends in one sentence that names it."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from alignprune_pl.data import (
    DataFileError,
    cifar10,
    cifar10n,
    cifar100,
    cifar100n,
    clothing1m,
    csv_files,
    fashion_mnist,
    image_folder,
    imagenet,
    tiny_imagenet,
    webvision,
)

LOADERS = {
    "cifar10": (("cifar-10-batches-py",), lambda root: cifar10(root, download=False)),
    "cifar100": (("cifar-100-python",), lambda root: cifar100(root, download=False)),
    "cifar10n": (
        ("cifar-10-batches-py", "CIFAR-10_human.pt"),
        lambda root: cifar10n(root, root / "CIFAR-10_human.pt", download=False),
    ),
    "cifar100n": (
        ("cifar-100-python", "CIFAR-100_human.pt"),
        lambda root: cifar100n(root, root / "CIFAR-100_human.pt", download=False),
    ),
    "fashion_mnist": (("FashionMNIST",), lambda root: fashion_mnist(root, download=False)),
    "webvision": (("webvision",), lambda root: webvision(root / "webvision", reference_per_class=1)),
    "clothing1m": (("clothing1m",), lambda root: clothing1m(root / "clothing1m")),
    "imagenet": (("imagenet",), lambda root: imagenet(root / "imagenet")),
    "tiny_imagenet": (("tiny-imagenet-200",), lambda root: tiny_imagenet(root / "tiny-imagenet-200")),
    "image_folder": (("image_folder",), lambda root: image_folder(root / "image_folder")),
    "csv": (("csv",), lambda root: csv_files(root / "csv" / "train.csv", root / "csv" / "test.csv")),
}


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(b"\x89\xfe\x80\x81" * 50)  # no byte order mark: the bytes of UTF-16 would be text


def append(line: str):
    def change(path: Path) -> None:
        path.write_text(path.read_text() + line)

    return change


def first_line(line: str):
    def change(path: Path) -> None:
        path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]) + "\n")

    return change


def pickled(**changes):
    def change(path: Path) -> None:
        content = pickle.loads(path.read_bytes(), encoding="latin1")
        path.write_bytes(pickle.dumps({**content, **changes}))

    return change


def human(**changes):
    def change(path: Path) -> None:
        torch.save(changes, path)

    return change


def human_worst(label: int):
    """Every human label of the worst set the same, the clean ones as they were."""

    def change(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            content = pickle.loads(archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl"))))
        torch.save({**content, "worse_label": np.full(200, label)}, path)

    return change


def idx(labels: list[int]):
    def change(path: Path) -> None:
        path.write_bytes(gzip.compress(struct.pack(">II", 0x801, len(labels)) + bytes(labels)))

    return change


def flip_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(255 - byte for byte in content[2000:2100])
    path.write_bytes(bytes(content))


def all_labels(label: str):
    def change(path: Path) -> None:
        path.write_text("".join(f"{line.split()[0]} {label}\n" for line in path.read_text().splitlines()))

    return change


def fewer_labels(path: Path) -> None:
    content = pickle.loads(path.read_bytes(), encoding="latin1")
    path.write_bytes(pickle.dumps({**content, "labels": content["labels"][:-1]}))


@pytest.mark.parametrize("name", LOADERS)
def test_the_files_that_are_damaged_below_are_read_while_they_are_whole(samples, name):
    assert len(LOADERS[name][1](samples).train) > 0


@pytest.mark.parametrize(
    ("name", "file", "damage", "sentence"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_3", remove, "is missing"),
        ("cifar10", "cifar-10-batches-py/data_batch_3", truncate, "is not a whole CIFAR file"),
        ("cifar10", "cifar-10-batches-py/test_batch", empty, "is not a whole CIFAR file"),
        ("cifar10", "cifar-10-batches-py/data_batch_1", fewer_labels, "has 40 images, but 39 labels"),
        ("cifar10", "cifar-10-batches-py/data_batch_1", pickled(data=[[1]]), "no whole 32 x 32 images"),
        ("cifar10", "cifar-10-batches-py/batches.meta", pickled(label_names=3), "has no list of 10 label_names"),
        ("cifar10", "cifar-10-batches-py/batches.meta", pickled(label_names=["a"]), "has no list of 10 label_names"),
        ("cifar10", "cifar-10-batches-py/data_batch_2", pickled(labels=[10] * 40), "has labels from 10 to 10"),
        ("cifar10", "cifar-10-batches-py/data_batch_2", pickled(labels=[-1] * 40), "has labels from -1 to -1"),
        ("cifar100", "cifar-100-python/test", pickled(fine_labels=[100] * 100), "has labels from 100 to 100"),
        ("cifar10n", "CIFAR-10_human.pt", human_worst(10), "has int64[200] as worse_label"),
        ("cifar10n", "CIFAR-10_human.pt", human_worst(-1), "has int64[200] as worse_label"),
        ("fashion_mnist", "FashionMNIST/raw/train-labels-idx1-ubyte.gz", idx([77] * 200), "has labels from 77 to 77"),
        ("fashion_mnist", "FashionMNIST/raw/train-labels-idx1-ubyte.gz", idx([1] * 199), "has 199 labels, but"),
        ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte.gz", flip_bits, "is not a whole idx file"),
        ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", empty, "has no labels"),
        ("clothing1m", "clothing1m/clean_test_key_list.txt", append("images/9/x.jpg\n"), "no label to images/9/x.jpg"),
        ("clothing1m", "clothing1m/clean_label_kv.txt", all_labels("14"), "gives 14 to "),
        ("clothing1m", "clothing1m/clean_label_kv.txt", all_labels("7" * 5000), f"gives {'7' * 80} to "),
        ("webvision", "webvision/info/val_filelist.txt", first_line("a.jpg " + "7" * 5000), "line 1, is 'a.jpg 777"),
        ("cifar100", "cifar-100-python/train", truncate, "is not a whole CIFAR file"),
        ("cifar100", "cifar-100-python/train", pickled(coarse_labels="?"), "no coarse_labels"),
        ("cifar10n", "CIFAR-10_human.pt", remove, "is missing"),
        ("cifar10n", "CIFAR-10_human.pt", truncate, "is not a whole file of human labels"),
        ("cifar10n", "CIFAR-10_human.pt", human(clean_label=np.arange(200) % 10), "gives another clean_label"),
        (
            "cifar10n",
            "CIFAR-10_human.pt",
            human(clean_label=np.zeros(5, dtype=np.int64)),
            "has int64[5] as clean_label",
        ),
        ("cifar10n", "CIFAR-10_human.pt", human(other=1), "has NoneType as clean_label"),
        ("cifar100n", "CIFAR-100_human.pt", binary, "is not a whole file of human labels"),
        ("fashion_mnist", "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz", truncate, "is not a whole idx file"),
        ("webvision", "webvision/info/train_filelist_google.txt", remove, "is missing"),
        ("webvision", "webvision/info/train_filelist_google.txt", empty, "is empty"),
        ("webvision", "webvision/info/train_filelist_google.txt", first_line("google/a.jpg 1000"), "line 1, is"),
        ("webvision", "webvision/info/train_filelist_google.txt", first_line("google/a.jpg"), "line 1, is"),
        ("webvision", "webvision/info/val_filelist.txt", binary, "is not a text file"),
        ("webvision", "webvision/info/val_filelist.txt", append("val999.jpg 3\n"), "0 more of the 1151 files"),
        ("webvision", "webvision/info/synsets.txt", append("n9 x\n"), "has 1001 lines"),
        ("clothing1m", "clothing1m/noisy_label_kv.txt", remove, "is missing"),
        ("clothing1m", "clothing1m/clean_val_key_list.txt", empty, "is empty"),
        ("tiny_imagenet", "tiny-imagenet-200/wnids.txt", append("n9\n"), "lists 201 classes"),
        ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", first_line("val_0.JPEG\tn9\t0"), "line 1, is"),
        ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", append("val_0.JPEG\n"), "line 201, is"),
        ("tiny_imagenet", "tiny-imagenet-200/val/images/val_3.JPEG", remove, "is missing"),
        ("csv", "csv/train.csv", remove, "is missing"),
        ("csv", "csv/train.csv", empty, "has the columns (none)"),
        ("csv", "csv/train.csv", first_line("file,label"), "has the columns file, label"),
        ("csv", "csv/train.csv", append("images/x.png,cat\n"), "line 62, has no clean_label"),
        ("csv", "csv/train.csv", append("images/x.png,,cat\n"), "line 62, has no label"),
        ("csv", "csv/train.csv", append("images/x.png,cat,cat\n"), "0 more of the 61 files"),
        ("csv", "csv/train.csv", binary, "is not a CSV file in UTF-8"),
        ("csv", "csv/test.csv", append("images/x.png,cow\n"), "line 17, has the label 'cow'"),
    ],
)
def test_a_damaged_file_is_named(copy_of, name, file, damage, sentence):
    folders, load = LOADERS[name]
    root = copy_of(*folders)
    damage(root / file)
    with pytest.raises(DataFileError, match=re.escape(sentence)) as raised:
        load(root)
    text = str(raised.value)
    named = re.findall(
        r"[^\s,:]+\.(?:pt|txt|csv|gz|jpg|png|JPEG)|[^\s,:]*(?:data_batch_\d|test_batch|batches\.meta|train|test)\b",
        text,
    )
    assert any(Path(path).name in (Path(file).name, "x.png", "val999.jpg") for path in named), text
    assert text.endswith((".", ")")), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "folder", "sentence"),
    [
        ("imagenet", "imagenet/val/{wnid}", "is missing, with 0 more"),
        ("imagenet", "imagenet/train/{wnid}", "has 999 class folders, but 1000 are expected"),
        ("webvision", "webvision/val_images_256", "is missing, and so is val_images"),
        ("webvision", "webvision/google", "is missing, with 2099 more of the 2100 files"),
        ("image_folder", "image_folder/val/dog", "dog is missing"),
        ("image_folder", "image_folder/train", "train is missing or has no folders"),
        ("image_folder", "image_folder/train/dog", "dog is not a class of the training data"),
        ("cifar10", "cifar-10-batches-py", "has no folder cifar-10-batches-py and dataset.download is false"),
    ],
)
def test_a_missing_folder_is_named(copy_of, files, name, folder, sentence):
    import shutil

    folders, load = LOADERS[name]
    root = copy_of(*folders)
    shutil.rmtree(root / folder.format(wnid=files.WNIDS[5]))
    with pytest.raises((DataFileError, FileNotFoundError), match=re.escape(sentence)):
        load(root)


def test_a_class_without_images_is_named(copy_of):
    root = copy_of("image_folder")
    for path in (root / "image_folder" / "val" / "fox").iterdir():
        path.unlink()
    with pytest.raises(DataFileError, match=r"val/fox has no image, with 0 more of the class folders"):
        image_folder(root / "image_folder")


@pytest.mark.parametrize("damage", [truncate, empty, binary])
def test_a_damaged_image_is_named_when_it_is_read(copy_of, damage):
    benchmark = tiny_imagenet(copy_of("tiny-imagenet-200") / "tiny-imagenet-200")
    path = benchmark.train.inputs.path(4)
    damage(path)
    with pytest.raises(DataFileError, match=rf"{re.escape(str(path))} is not a whole image"):
        benchmark.train.inputs[4]


def test_an_image_of_another_size_is_named_where_all_have_one(copy_of, samples):
    benchmark = tiny_imagenet(copy_of("tiny-imagenet-200") / "tiny-imagenet-200")
    path = benchmark.train.inputs.path(4)
    path.write_bytes(next((samples / "imagenet" / "val").glob("*/*.JPEG")).read_bytes())
    with pytest.raises(DataFileError, match=rf"{re.escape(str(path))} is an image of \d+ x \d+ pixels, but 64 x 64"):
        benchmark.train.inputs[4]


def test_an_image_that_goes_missing_is_named_when_it_is_read(copy_of):
    benchmark = clothing1m(copy_of("clothing1m") / "clothing1m")
    benchmark.train.inputs.path(0).unlink()
    with pytest.raises(DataFileError, match=re.escape(f"{benchmark.train.inputs.path(0)} is missing")):
        benchmark.train.inputs[0]


@pytest.mark.parametrize(
    ("kind", "file"), [("cifar10", "cifar-10-batches-py/data_batch_2"), ("cifar10n", "CIFAR-10_human.pt")]
)
def test_no_code_in_a_data_file_runs(copy_of, kind, file):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch ran",)

    folders, load = LOADERS[kind]
    root = copy_of(*folders)
    if kind == "cifar10n":
        torch.save({"clean_label": Evil()}, root / file)
    else:
        (root / file).write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    with pytest.raises(DataFileError, match="is not a whole"):
        load(root)
    assert not Path("ran").exists()


def test_a_bit_flipped_anywhere_in_a_compressed_file_ends_in_a_sentence_that_names_it(copy_of):
    root = copy_of("FashionMNIST")
    path = root / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for place in range(12, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(DataFileError, match=f"{path.name} is not a whole idx file"):
            fashion_mnist(root, download=False)


def test_a_path_below_a_file_is_missing(samples, tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "train.csv").write_text("path,label\na/b.png,cat\n")
    with pytest.raises(DataFileError, match=r"a/b\.png is missing, with 0 more of the 1 files"):
        csv_files(tmp_path / "train.csv", samples / "csv" / "test.csv")


@pytest.mark.parametrize("name", ["image_folder", "imagenet"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(DataFileError, match="train is missing or has no folders"):
        LOADERS[name][1](tmp_path)


def test_no_image_is_in_two_parts(samples, copy_of):
    folder = samples / "csv"
    for name in ("train", "test"):
        with pytest.raises(ValueError, match=r"images/\S+ is in both csv's (train|reference) and its \w+ part"):
            csv_files(folder / "train.csv", folder / "test.csv", folder / f"{name}.csv")
    with pytest.raises(ValueError, match="is in both csv's train and its test part"):
        csv_files(folder / "train.csv", folder / "train.csv")
    root = copy_of("clothing1m") / "clothing1m"
    (root / "clean_val_key_list.txt").write_bytes((root / "clean_test_key_list.txt").read_bytes())
    with pytest.raises(ValueError, match="is in both clothing1m's reference and its test part"):
        clothing1m(root)


def test_the_same_file_under_another_path_is_found(samples, tmp_path):
    folder = samples / "csv"
    path = next(iter((folder / "images").iterdir()))
    (tmp_path / "a.csv").write_text(f"path,label\n{path},cat\n")
    (tmp_path / "b.csv").write_text(f"path,label\n{folder}/../csv/images/{path.name},cat\n")
    with pytest.raises(ValueError, match=f"{path.name} is in both"):
        csv_files(tmp_path / "a.csv", tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("load", "sentence"),
    [
        (lambda s: webvision(s / "webvision", num_classes=1), "num_classes=1 is given"),
        (lambda s: webvision(s / "webvision", num_classes=1001), "num_classes=1001 is given"),
        (lambda s: webvision(s / "webvision", reference_per_class=0), "reference_per_class=0 is given"),
        (lambda s: webvision(s / "webvision"), "takes all 1150 validation images"),
        (
            lambda s: webvision(s / "webvision", imagenet_root=s / "csv", reference_per_class=1),
            "with 999 more of the classes",
        ),
        (lambda s: clothing1m(s / "clothing1m", reference="test"), "reference='test' is given, but 'clean_val' or"),
        (lambda s: clothing1m(s / "clothing1m", image_size=0), "image_size=0 is given"),
        (lambda s: imagenet(s / "imagenet", num_classes=10), "has 1000 class folders, but 10 are expected"),
        (
            lambda s: image_folder(s / "image_folder", mean=(0.5,)),
            "has 1 means and 3 stds, but its images have 3 channels",
        ),
        (
            lambda s: image_folder(s / "image_folder", mean=(0.5,), std=(0.5,)),
            "has 1 means and 1 stds, but its images have 3 channels",
        ),
        (lambda s: image_folder(s / "image_folder", std=(0.0, 0.5, 0.5)), "std=[0.0, 0.5, 0.5] is given"),
        (lambda s: image_folder(s / "image_folder", std=(0.5, 0.5, -1.0)), "std=[0.5, 0.5, -1.0] is given"),
        (lambda s: image_folder(s / "image_folder", mean=(124, 116, 104)), "mean=[124, 116, 104] is given"),
        (lambda s: image_folder(s / "image_folder", mean=(-0.1, 0, 0)), "mean=[-0.1, 0, 0] is given"),
        (lambda s: image_folder(s / "image_folder", std=("a", "b", "c")), "std=['a', 'b', 'c'] is given"),
        (
            lambda s: webvision(s / "webvision", num_classes=50, reference_per_class=4),
            "takes all 200 validation images",
        ),
    ],
)
def test_a_wrong_setting_is_told(samples, load, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load(samples)
