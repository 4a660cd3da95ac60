"""Every loader reads the original format: each image with its own label, each part from its own place."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from alignprune_pl.data import (
    cifar10,
    cifar10n,
    cifar100,
    cifar100n,
    clothing1m,
    csv_files,
    digits,
    fashion_mnist,
    image_folder,
    imagenet,
    tiny_imagenet,
    webvision,
)
from alignprune_pl.data.human import human_labels
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.views import IMAGENET_MEAN, IMAGENET_STD, Views

REAL_HUMAN_LABELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "CIFAR-10_human.pt"


def read(path: Path) -> list[list[str]]:
    return [line.rsplit(maxsplit=1) for line in path.read_text().splitlines()]


def test_cifar10_has_the_batches_in_their_order(samples):
    benchmark = cifar10(samples, download=False)
    batches = [
        pickle.loads((samples / "cifar-10-batches-py" / f"data_batch_{i}").read_bytes(), encoding="latin1")
        for i in range(1, 6)
    ]
    assert benchmark.train.labels.tolist() == [label for batch in batches for label in batch["labels"]]
    assert torch.equal(benchmark.train.inputs[40], torch.tensor(batches[1]["data"][0]).view(3, 32, 32))
    assert benchmark.train.inputs.shape == (200, 3, 32, 32)
    assert len(benchmark.evaluated["test"]) == 40
    assert benchmark.classes[3] == "cat"
    assert benchmark.class_map == {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
    assert torch.equal(benchmark.clean_labels, benchmark.train.labels)


def test_cifar100_maps_each_fine_class_to_the_next_of_its_superclass(samples, files):
    benchmark = cifar100(samples, download=False)
    assert benchmark.classes == files.CIFAR100_CLASSES
    assert len(benchmark.class_map) == 100
    named = {benchmark.classes[a]: benchmark.classes[b] for a, b in benchmark.class_map.items()}
    fish = ("aquarium_fish", "flatfish", "ray", "shark", "trout")
    assert [named[name] for name in fish] == [*fish[1:], fish[0]]


def test_cifar10n_has_every_set_of_annotations_by_name(samples):
    benchmark = cifar10n(samples, samples / "CIFAR-10_human.pt", download=False)
    assert list(benchmark.annotations) == ["aggregate", "worst", "random1", "random2", "random3"]
    rates = [float((labels != benchmark.clean_labels).float().mean()) for labels in benchmark.annotations.values()]
    assert rates == pytest.approx([0.09, 0.40, 0.17, 0.18, 0.175], abs=0.02)


def test_human_labels_in_torchs_older_file_format_are_read_too(samples, tmp_path):
    path = tmp_path / "old.pt"
    benchmark = cifar10n(samples, samples / "CIFAR-10_human.pt", download=False)
    keys = ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3")
    content = {key: labels.numpy() for key, labels in zip(keys, benchmark.annotations.values(), strict=True)}
    content["clean_label"] = benchmark.clean_labels.numpy()
    torch.save(content, path, _use_new_zipfile_serialization=False)
    old = cifar10n(samples, path, download=False)
    assert torch.equal(old.annotations["worst"], benchmark.annotations["worst"])


def test_cifar100n_has_the_fine_labels_of_its_people(samples):
    benchmark = cifar100n(samples, samples / "CIFAR-100_human.pt", download=False)
    assert list(benchmark.annotations) == ["noisy_fine"]
    assert float((benchmark.annotations["noisy_fine"] != benchmark.clean_labels).float().mean()) == pytest.approx(
        0.4, abs=0.02
    )


def test_a_file_of_human_labels_is_read_as_its_authors_report_it(samples):
    # The original file is not ours to pass on. Where it is not beside the project, the miniature has about its rates.
    path, exactly = (REAL_HUMAN_LABELS, 5e-5) if REAL_HUMAN_LABELS.is_file() else (samples / "CIFAR-10_human.pt", 0.02)
    with zipfile.ZipFile(path) as archive:
        content = pickle.loads(archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl"))))
    clean = torch.as_tensor(content["clean_label"])
    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(len(clean), -1, -1, -1)
    part = Part(images, clean)
    made = Benchmark("cifar10", tuple("abcdefghij"), Views((0,) * 3, (1,) * 3), part, {"test": part}, clean)
    names = {"aggregate": "aggre_label", "worst": "worse_label", "random1": "random_label1"}
    annotations = human_labels(made, "cifar10n", path, names).annotations
    rates = {name: float((labels != clean).double().mean()) for name, labels in annotations.items()}
    assert rates == pytest.approx({"aggregate": 0.0901, "worst": 0.4021, "random1": 0.1723}, abs=exactly)


def test_fashion_mnist_is_read_gzipped_or_not(samples, copy_of):
    import gzip

    zipped = fashion_mnist(samples, download=False)
    root = copy_of("FashionMNIST")
    for path in (root / "FashionMNIST" / "raw").glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = fashion_mnist(root, download=False)
    assert torch.equal(zipped.train.inputs, plain.train.inputs)
    assert torch.equal(zipped.train.labels, plain.train.labels)
    assert zipped.train.inputs.shape == (200, 1, 28, 28)


def test_digits_are_the_same_whatever_the_seed():
    assert torch.equal(digits().train.labels, digits().train.labels)
    train, test = digits().train, digits().evaluated["test"]
    assert len(train) + len(test) == 1797
    assert int(train.inputs.max()) == int(test.inputs.max()) == 255
    shares = torch.bincount(test.labels) / torch.bincount(torch.cat([train.labels, test.labels]))
    assert ((shares - 0.2).abs() < 0.005).all()


def test_webvision_has_the_listed_images_with_their_labels(samples):
    root = samples / "webvision"
    benchmark = webvision(root, reference_per_class=1)
    listed = read(root / "info" / "train_filelist_google.txt")
    assert [str(benchmark.train.inputs.path(i).relative_to(root)) for i in (0, 7)] == [listed[0][0], listed[7][0]]
    assert benchmark.train.labels.tolist() == [int(label) for _, label in listed]
    assert benchmark.num_classes == 1000
    assert benchmark.clean_labels is None
    assert benchmark.train.inputs[0].shape[0] == 3


def test_mini_webvision_evaluates_what_is_left_of_the_validation_images_and_imagenets(samples, files):
    root = samples / "webvision"
    benchmark = webvision(root, num_classes=50, imagenet_root=samples / "imagenet", reference_per_class=1)
    assert sorted(set(benchmark.train.labels.tolist())) == list(range(50))
    assert list(benchmark.evaluated) == ["test", "imagenet"]
    held, val = benchmark.reference, benchmark.evaluated["test"]
    assert torch.equal(torch.bincount(held.labels), torch.ones(50, dtype=torch.int64))
    assert torch.equal(torch.bincount(val.labels), torch.full((50,), 3))
    apart = {held.inputs.path(i) for i in range(len(held))} & {val.inputs.path(i) for i in range(len(val))}
    assert not apart
    by_id = benchmark.evaluated["imagenet"]
    wnids = [by_id.inputs.path(i).parent.name for i in range(len(by_id))]
    assert [files.WEBVISION_WNIDS[label] for label in by_id.labels.tolist()] == wnids
    assert len(by_id) == 50


def test_webvisions_validation_images_may_lie_in_the_other_folder(copy_of):
    root = copy_of("webvision") / "webvision"
    (root / "val_images_256").rename(root / "val_images")
    assert webvision(root, reference_per_class=1).evaluated["test"].inputs[0].dtype == torch.uint8


@pytest.mark.parametrize("annotations", [False, True])
def test_clothing1m_takes_noisy_labels_to_train_and_clean_ones_for_the_rest(files, tmp_path, annotations):
    root = files.write_clothing1m(tmp_path, annotations=annotations)
    texts = root / "annotations" if annotations else root
    assert (texts / "noisy_label_kv.txt").is_file()
    noisy, clean = (dict(read(texts / f"{kind}_label_kv.txt")) for kind in ("noisy", "clean"))
    for reference in ("clean_val", "clean_train"):
        benchmark = clothing1m(root, reference)
        assert (len(benchmark.train), len(benchmark.reference), len(benchmark.evaluated["test"])) == (140, 42, 42)
        for part, label_of, keys in (
            (benchmark.train, noisy, "noisy_train"),
            (benchmark.evaluated["test"], clean, "clean_test"),
            (benchmark.reference, clean, reference),
        ):
            listed = (texts / f"{keys}_key_list.txt").read_text().split()
            assert [str(part.inputs.path(i).relative_to(root)) for i in range(len(part))] == listed
            assert part.labels.tolist() == [int(label_of[key]) for key in listed]
        assert f"{reference}_key_list.txt" in benchmark.reference_from


def test_imagenets_classes_are_its_sorted_folders_and_every_odd_file_is_read(samples, files):
    benchmark = imagenet(samples / "imagenet")
    assert benchmark.classes == tuple(sorted(files.WNIDS))
    folders = [benchmark.train.inputs.path(i).parent.name for i in range(len(benchmark.train))]
    assert [benchmark.classes[label] for label in benchmark.train.labels.tolist()] == folders
    modes = set()
    for i in range(len(benchmark.train)):
        with Image.open(benchmark.train.inputs.path(i)) as image:
            if image.mode != "RGB" or image.format != "JPEG":
                modes.add((image.mode, image.format))
                assert benchmark.train.inputs[i].shape == (3, *reversed(image.size))
    assert modes == {("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "PNG")}


def test_tiny_imagenets_validation_labels_come_from_its_annotations(samples):
    root = samples / "tiny-imagenet-200"
    benchmark = tiny_imagenet(root)
    rows = [line.split("\t") for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
    val = benchmark.evaluated["test"]
    assert [val.inputs.path(i).name for i in range(len(val))] == [row[0] for row in rows]
    assert [benchmark.classes[label] for label in val.labels.tolist()] == [row[1] for row in rows]
    assert len(benchmark.train) == 600
    assert benchmark.classes == tuple(sorted(benchmark.classes))
    folder = benchmark.train.inputs.path(5).parent.parent.name
    assert benchmark.classes[benchmark.train.labels[5]] == folder
    assert benchmark.train.inputs[5].shape == (3, 64, 64)


@pytest.mark.parametrize("reference", [False, True])
def test_a_folder_of_ones_own_may_have_a_clean_reference(files, tmp_path, reference):
    benchmark = image_folder(files.write_image_folder(tmp_path, reference=reference))
    assert benchmark.classes == ("cat", "dog", "fox")
    assert torch.bincount(benchmark.train.labels).tolist() == [20, 20, 20]
    assert benchmark.clean_labels is None
    assert (None if benchmark.reference is None else len(benchmark.reference)) == (12 if reference else None)


def test_csv_files_give_labels_and_the_truth_where_they_have_it(samples, tmp_path):
    folder = samples / "csv"
    benchmark = csv_files(folder / "train.csv", folder / "test.csv", folder / "reference.csv")
    assert benchmark.classes == ("cat", "dog", "fox")
    assert int((benchmark.train.labels != benchmark.clean_labels).sum()) == 18
    assert len(benchmark.reference) == 12
    lines = (folder / "train.csv").read_text().splitlines()
    assert lines[0] == "path,label,clean_label"
    first = lines[1].split(",")
    assert str(benchmark.train.inputs.path(0)) == str(folder / first[0])
    assert benchmark.classes[benchmark.train.labels[0]] == first[1]
    assert benchmark.classes[benchmark.clean_labels[0]] == first[2]


def test_csv_labels_that_are_numbers_are_in_the_order_of_numbers(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"a.png,{label}\n" for label in (10, 9, 2)))
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    (tmp_path / "test.csv").write_text("path,label\nb.png,9\n")
    benchmark = csv_files(tmp_path / "t.csv", tmp_path / "test.csv")
    assert benchmark.classes == ("2", "9", "10")
    assert benchmark.train.labels.tolist() == [2, 1, 0]
    assert benchmark.clean_labels is None


def test_csv_classes_and_clean_labels_of_every_file_count(tmp_path):
    for name in ("ä.png", "b.png", "c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "train.csv").write_bytes("\ufeffpath,label,clean_label\nä.png,cat,owl\n".encode())
    (tmp_path / "test.csv").write_text("path,label,clean_label\nb.png,cat,owl\n")
    (tmp_path / "reference.csv").write_text("path,label,clean_label\nc.png,owl,cat\n")
    benchmark = csv_files(*(tmp_path / f"{name}.csv" for name in ("train", "test", "reference")))
    assert benchmark.classes == ("cat", "owl")
    assert (benchmark.train.labels.tolist(), benchmark.clean_labels.tolist()) == ([0], [1])
    assert benchmark.evaluated["test"].labels.tolist() == [1]
    assert benchmark.reference.labels.tolist() == [0]
    assert benchmark.train.inputs[0].shape == (3, 4, 4)


def test_lists_with_a_byte_order_mark_are_read(copy_of):
    root = copy_of("clothing1m") / "clothing1m"
    path = root / "clean_test_key_list.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(clothing1m(root).evaluated["test"]) == 42


@pytest.mark.parametrize(
    ("load", "mean", "std", "crop"),
    [
        (cifar10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), (32, 4)),
        (cifar100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), (32, 4)),
        (fashion_mnist, (0.2860,), (0.3530,), None),
        (lambda s, download: tiny_imagenet(s / "tiny-imagenet-200"), IMAGENET_MEAN, IMAGENET_STD, (64, 8)),
    ],
    ids=["cifar10", "cifar100", "fashion_mnist", "tiny_imagenet"],
)
def test_small_images_are_normalised_and_cropped_as_the_field_does(samples, load, mean, std, crop):
    views = load(samples, download=False).views
    assert (views.mean, views.std) == (mean, std)
    assert views.evaluate is None
    assert (None if views.train is None else (views.train.size, views.train.padding)) == crop
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert IMAGENET_STD == (0.229, 0.224, 0.225)


def test_csv_paths_start_where_the_user_says(samples, tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_bytes((samples / "csv" / f"{name}.csv").read_bytes())
    benchmark = csv_files(tmp_path / "train.csv", tmp_path / "test.csv", root=samples / "csv")
    assert len(benchmark.train.inputs[0]) == 3
