"""Miniature data sets in the original on-disk formats, so that loading code can run without a download.

python scripts/sample_files.py data

Counts, names and noise rates are chosen; layouts, file formats and keys are the originals'. Each image is its true
class's colour plus noise, so that a model can learn it, and one WordNet id has one colour in every set that has ids.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_SUPERCLASSES = """
aquatic_mammals: beaver dolphin otter seal whale | fish: aquarium_fish flatfish ray shark trout
flowers: orchid poppy rose sunflower tulip | food_containers: bottle bowl can cup plate
fruit_and_vegetables: apple mushroom orange pear sweet_pepper
household_electrical_devices: clock keyboard lamp telephone television
household_furniture: bed chair couch table wardrobe | insects: bee beetle butterfly caterpillar cockroach
large_carnivores: bear leopard lion tiger wolf | large_man-made_outdoor_things: bridge castle house road skyscraper
large_natural_outdoor_scenes: cloud forest mountain plain sea
large_omnivores_and_herbivores: camel cattle chimpanzee elephant kangaroo
medium_mammals: fox porcupine possum raccoon skunk | non-insect_invertebrates: crab lobster snail spider worm
people: baby boy girl man woman | reptiles: crocodile dinosaur lizard snake turtle
small_mammals: hamster mouse rabbit shrew squirrel | trees: maple_tree oak_tree palm_tree pine_tree willow_tree
vehicles_1: bicycle bus motorcycle pickup_truck train | vehicles_2: lawn_mower rocket streetcar tank tractor
"""
CIFAR100_SUPERCLASSES = {
    name: tuple(members.split())
    for name, members in (entry.split(":") for entry in _SUPERCLASSES.strip().replace("\n", " | ").split(" | "))
}
CIFAR100_CLASSES = tuple(sorted(name for members in CIFAR100_SUPERCLASSES.values() for name in members))
_COARSE = {name: i for i, members in enumerate(CIFAR100_SUPERCLASSES.values()) for name in members}
CIFAR100_COARSE = tuple(_COARSE[name] for name in CIFAR100_CLASSES)  # of each fine class

CLOTHING1M_CLASSES = (
    *("T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker"),
    *("Jacket", "Down Coat", "Suit", "Shawl", "Dress", "Vest", "Underwear"),
)

# Ids of the original's range, in ImageNet's order; WebVision's order is another, so that only the ids match.
WNIDS = tuple(f"n{1440764 + 13637 * i:08d}" for i in range(1000))
WEBVISION_ORDER = tuple(np.random.default_rng(1000).permutation(1000).tolist())
WEBVISION_WNIDS = tuple(WNIDS[i] for i in WEBVISION_ORDER)

FOLDER_CLASSES = ("cat", "dog", "fox")

# Where CIFAR-10N's labels are wrong, as a stretch of the shuffled samples: worse where any annotator was wrong.
_CIFAR10N_WRONG = {
    "aggre_label": (0.1100, 0.2001),
    "worse_label": (0.0, 0.4021),
    "random_label1": (0.0, 0.1723),
    "random_label2": (0.1100, 0.2912),
    "random_label3": (0.2257, 0.4021),
}

# ImageNet has files of other kinds than their name says; here the first three classes of mini-WebVision have one each.
_ODD_FILES = dict(zip(WEBVISION_WNIDS, (("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "PNG")), strict=False))

_SIZES = ((20, 16), (16, 20), (18, 18), (24, 15))


def write_cifar10(folder: str | Path, seed: int = 0) -> Path:
    """``cifar-10-batches-py``: five batches of 40 and 40 test images, 4 a class in each."""
    rng, root = np.random.default_rng(seed), Path(folder) / "cifar-10-batches-py"
    names = {f"data_batch_{i}": f"training batch {i} of 5" for i in range(1, 6)}
    for name, title in {**names, "test_batch": "testing batch 1 of 1"}.items():
        labels = _labels(rng, 10, 4)
        batch = {"batch_label": title, "labels": labels.tolist(), "data": _cifar_rows(rng, labels)}
        _write_python2_pickle(root / name, {**batch, "filenames": _cifar_names(labels, CIFAR10_CLASSES)})
    meta = {"num_cases_per_batch": 40, "label_names": list(CIFAR10_CLASSES), "num_vis": 3072}
    _write_python2_pickle(root / "batches.meta", meta)
    return root


def write_cifar100(folder: str | Path, seed: int = 0) -> Path:
    """``cifar-100-python``: 3 training images and 1 test image of each of the 100 classes."""
    rng, root = np.random.default_rng(seed), Path(folder) / "cifar-100-python"
    for name, title, copies in (("train", "training", 3), ("test", "testing", 1)):
        fine = _labels(rng, 100, copies)
        content = {
            "filenames": _cifar_names(fine, CIFAR100_CLASSES),
            "batch_label": f"{title} batch 1 of 1",
            "fine_labels": fine.tolist(),
            "coarse_labels": [CIFAR100_COARSE[label] for label in fine],
            "data": _cifar_rows(rng, fine),
        }
        _write_python2_pickle(root / name, content)
    names = {"fine_label_names": list(CIFAR100_CLASSES), "coarse_label_names": list(CIFAR100_SUPERCLASSES)}
    _write_python2_pickle(root / "meta", names)
    return root


def write_cifar10n(folder: str | Path, seed: int = 0) -> Path:
    """``CIFAR-10_human.pt``: human labels of the CIFAR-10 that is already in ``folder``."""
    rng, root = np.random.default_rng(seed), Path(folder) / "cifar-10-batches-py"
    clean = np.concatenate([_read_labels(root / f"data_batch_{i}", "labels") for i in range(1, 6)])
    wrong = (clean + rng.integers(1, 10, len(clean))) % 10
    place = rng.permutation(len(clean))
    labels: dict[str, Any] = {"clean_label": clean}
    for name, stretch in _CIFAR10N_WRONG.items():
        start, stop = (round(share * len(clean)) for share in stretch)
        labels[name] = np.where((start <= place) & (place < stop), wrong, clean)
    return _write_human(Path(folder) / "CIFAR-10_human.pt", "archive", labels)


def write_cifar100n(folder: str | Path, seed: int = 0) -> Path:
    """``CIFAR-100_human.pt``: human labels, 40 % wrong, of the CIFAR-100 that is already in ``folder``."""
    rng = np.random.default_rng(seed)
    clean = _read_labels(Path(folder) / "cifar-100-python" / "train", "fine_labels")
    labels: dict[str, Any] = {"clean_label": clean, "noisy_label": _wrong(rng, clean, 100, 0.402)}
    for kind in ("clean", "noisy"):
        labels[f"{kind}_coarse_label"] = [CIFAR100_COARSE[label] for label in labels[f"{kind}_label"]]
    return _write_human(Path(folder) / "CIFAR-100_human.pt", "CIFAR-100_human", labels)


def write_fashion_mnist(folder: str | Path, seed: int = 0) -> Path:
    """``FashionMNIST/raw``: four gzipped idx files, 200 training and 50 test images."""
    rng, root = np.random.default_rng(seed), Path(folder) / "FashionMNIST" / "raw"
    root.mkdir(parents=True, exist_ok=True)
    band = np.arange(28) * 3 // 28  # a class's three colour values, as grey bands
    for name, copies in (("train", 20), ("t10k", 5)):
        labels = _labels(rng, 10, copies)
        grey = np.stack([np.repeat(_colour(label)[band, None], 28, axis=1) for label in labels])
        images = _noisy(rng, grey)
        for kind, magic, array in (("images-idx3", 0x803, images), ("labels-idx1", 0x801, labels.astype(np.uint8))):
            header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
            (root / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes(), mtime=0))
    return root


def write_webvision(folder: str | Path, seed: int = 0) -> Path:
    """``webvision``: 2 training images and 1 validation image of each of 1,000 classes; 4 and 4 of the first 50.

    A fifth of the training images shows another class than its label.
    """
    rng, root = np.random.default_rng(seed), Path(folder) / "webvision"
    train, val = (np.repeat(np.arange(1000), [4] * 50 + [rest] * 950) for rest in (2, 1))
    shown = _wrong(rng, train, 1000, 0.2)
    lines = []
    for label, content in zip(train, shown, strict=True):
        name = f"google/q{label + 1:04d}/{rng.bytes(7).hex()}.jpg"
        _save(root / name, _image(rng, WEBVISION_ORDER[content]))
        lines.append(f"{name} {label}")
    _write_lines(root / "info" / "train_filelist_google.txt", lines)
    lines = []
    for i, label in enumerate(rng.permutation(val), start=1):
        _save(root / "val_images_256" / f"val{i:06d}.jpg", _image(rng, WEBVISION_ORDER[label]))
        lines.append(f"val{i:06d}.jpg {label}")
    _write_lines(root / "info" / "val_filelist.txt", lines)
    _write_lines(root / "info" / "synsets.txt", [f"{wnid} {_words(wnid)}" for wnid in WEBVISION_WNIDS])
    return root


def write_clothing1m(folder: str | Path, seed: int = 0, annotations: bool = False) -> Path:
    """``clothing1m``: 140 noisy training images, and 42 clean ones for each of training, validation and test.

    As in the original, some of the clean images have a noisy label too. With ``annotations`` the text files lie in
    ``annotations/`` instead of beside ``images/``.
    """
    rng, root = np.random.default_rng(seed), Path(folder) / "clothing1m"
    lists = root / "annotations" if annotations else root
    noisy: list[str] = []
    clean: list[str] = []
    for part, copies in (("noisy_train", 10), ("clean_train", 3), ("clean_val", 3), ("clean_test", 3)):
        true = _labels(rng, 14, copies)
        keys = [_clothing_key(rng) for _ in true]
        for key, label in zip(keys, true, strict=True):
            _save(root / key, _image(rng, label))
        _write_lines(lists / f"{part}_key_list.txt", keys)
        with_noisy_label = [f"{key} {label}" for key, label in zip(keys, _wrong(rng, true, 14, 0.38), strict=True)]
        if part == "noisy_train":
            noisy += with_noisy_label
        else:
            noisy += with_noisy_label[::2]
            clean += [f"{key} {label}" for key, label in zip(keys, true, strict=True)]
    _write_lines(lists / "noisy_label_kv.txt", rng.permutation(noisy))
    _write_lines(lists / "clean_label_kv.txt", rng.permutation(clean))
    _write_lines(lists / "category_names_eng.txt", CLOTHING1M_CLASSES)
    return root


def write_imagenet(folder: str | Path, seed: int = 0) -> Path:
    """``imagenet``: 2 training images and 1 validation image of each of 1,000 classes.

    Among each part's files are a CMYK one, a grey one, and a PNG that is named ``.JPEG``.
    """
    rng, root = np.random.default_rng(seed), Path(folder) / "imagenet"
    for label, wnid in enumerate(WNIDS):
        for i, kind in enumerate((_ODD_FILES.get(wnid, ("RGB", "JPEG")), ("RGB", "JPEG"))):
            _save(root / "train" / wnid / f"{wnid}_{i}.JPEG", _image(rng, label), *kind)
    for i, label in enumerate(_labels(rng, 1000, 1), start=1):
        kind = _ODD_FILES.get(WNIDS[label], ("RGB", "JPEG"))
        _save(root / "val" / WNIDS[label] / f"ILSVRC2012_val_{i:08d}.JPEG", _image(rng, label), *kind)
    return root


def write_tiny_imagenet(folder: str | Path, seed: int = 0) -> Path:
    """``tiny-imagenet-200``: 3 training images and 1 validation image of each class, and 5 test images without labels.

    The first class's first training image is grey, as some of the original's are.
    """
    rng, root = np.random.default_rng(seed), Path(folder) / "tiny-imagenet-200"
    classes = rng.permutation(1000)[:200].tolist()
    for k, label in enumerate(classes):
        wnid, boxes = WNIDS[label], []
        for i in range(3):
            mode = "L" if k == i == 0 else "RGB"
            _save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", _image(rng, label, (64, 64)), mode)
            boxes.append(f"{wnid}_{i}.JPEG\t{_box(rng)}")
        _write_lines(root / "train" / wnid / f"{wnid}_boxes.txt", boxes)
    annotations = []
    for i, label in enumerate(rng.permutation(classes)):
        _save(root / "val" / "images" / f"val_{i}.JPEG", _image(rng, label, (64, 64)))
        annotations.append(f"val_{i}.JPEG\t{WNIDS[label]}\t{_box(rng)}")
    _write_lines(root / "val" / "val_annotations.txt", annotations)
    for i in range(5):
        _save(root / "test" / "images" / f"test_{i}.JPEG", _image(rng, classes[i], (64, 64)))
    _write_lines(root / "wnids.txt", [WNIDS[label] for label in classes])
    _write_lines(root / "words.txt", [f"{wnid}\t{_words(wnid)}" for wnid in WNIDS])
    return root


def write_image_folder(folder: str | Path, seed: int = 0, reference: bool = False) -> Path:
    """``image_folder``: a folder a class below ``train`` (20 images each) and ``val`` (5), PNG and JPEG mixed.

    With ``reference`` there is a ``reference`` beside them, with 4 images a class.
    """
    rng, root = np.random.default_rng(seed), Path(folder) / "image_folder"
    for part, copies in (("train", 20), ("val", 5), ("reference", 4))[: 3 if reference else 2]:
        for label, name in enumerate(FOLDER_CLASSES):
            for i in range(copies):
                suffix, form = (("png", "PNG"), ("jpg", "JPEG"))[i % 2]
                _save(root / part / name / f"{i:04d}.{suffix}", _image(rng, label), form=form)
    return root


def write_csv(folder: str | Path, seed: int = 0) -> Path:
    """``csv``: tables of paths and class names: 60 training images, 18 wrongly labelled, 15 test and 12 reference."""
    rng, root = np.random.default_rng(seed), Path(folder) / "csv"
    for part, copies in (("train", 20), ("test", 5), ("reference", 4)):
        true = _labels(rng, len(FOLDER_CLASSES), copies)
        paths = [f"images/{part}_{i:03d}.png" for i in range(len(true))]
        for path, label in zip(paths, true, strict=True):
            _save(root / path, _image(rng, label), form="PNG")
        clean = [FOLDER_CLASSES[label] for label in true]
        columns = {"path": paths, "label": clean}
        if part == "train":
            given = [FOLDER_CLASSES[label] for label in _wrong(rng, true, len(FOLDER_CLASSES), 0.3)]
            columns = {"path": paths, "label": given, "clean_label": clean}
        with (root / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *zip(*columns.values(), strict=True)])
    return root


def write_arrays(folder: str | Path, seed: int = 0) -> Path:
    """``arrays.npz``: 60 training embeddings of 8 numbers, 18 wrongly labelled, and 15 for the test."""
    rng, path = np.random.default_rng(seed), Path(folder) / "arrays.npz"
    true, test = _labels(rng, 3, 20), _labels(rng, 3, 5)
    x, test_x = (rng.normal(3 * np.eye(3, 8)[labels]).astype(np.float16) for labels in (true, test))
    labels = {"train_y": _wrong(rng, true, 3, 0.3), "train_clean": true, "test_y": test, "classes": FOLDER_CLASSES}
    np.savez(path, train_x=x, test_x=test_x, **labels)
    return path


def write_all(folder: str | Path, seed: int = 0) -> dict[str, Path]:
    """Every data set, in an order in which each function finds what it reads; what each wrote, by name."""
    writers = (
        *(write_cifar10, write_cifar10n, write_cifar100, write_cifar100n, write_fashion_mnist, write_webvision),
        *(write_clothing1m, write_imagenet, write_tiny_imagenet, write_image_folder, write_csv, write_arrays),
    )
    return {write.__name__.removeprefix("write_"): write(folder, seed) for write in writers}


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike as Python 2's ``str``, which the C pickler cannot be told to."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def _save_str(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        opcode, length = (pickle.SHORT_BINSTRING, "<B") if len(content) < 256 else (pickle.BINSTRING, "<i")
        self.write(opcode + struct.pack(length, len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _save_str


def _old_names(pickled: bytes) -> bytes:
    """NumPy's array module by the name that it had before NumPy 2."""
    return pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def _write_python2_pickle(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_old_names(buffer.getvalue()))


def _write_human(path: Path, root: str, labels: dict[str, Any]) -> Path:
    """What ``torch.save`` wrote in its first zip format, of an object without tensors."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{root}/data.pkl"), _old_names(pickle.dumps(labels, protocol=2)))
        archive.writestr(zipfile.ZipInfo(f"{root}/version"), b"3\n")
    return path


def _read_labels(path: Path, key: str) -> NDArray[np.int64]:
    with path.open("rb") as file:
        return np.array(pickle.load(file, encoding="latin1")[key], dtype=np.int64)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def _save(path: Path, pixels: NDArray[np.uint8], mode: str = "RGB", form: str = "JPEG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 90} if form == "JPEG" else {}
    Image.fromarray(pixels).convert(mode).save(path, form, **options)


def _labels(rng: np.random.Generator, classes: int, copies: int) -> NDArray[np.int64]:
    return rng.permutation(np.repeat(np.arange(classes), copies))


def _wrong(rng: np.random.Generator, labels: NDArray[np.int64], classes: int, rate: float) -> NDArray[np.int64]:
    """The labels with exactly round(rate * n) of them replaced by another class."""
    chosen = rng.permutation(len(labels)) < round(rate * len(labels))
    return np.where(chosen, (labels + rng.integers(1, classes, len(labels))) % classes, labels)


def _colour(label: int) -> NDArray[np.float64]:
    """Float[3] in [28, 228]; any number of first classes is spread evenly over the colours."""
    return 28 + 200 * ((0.5 + (label + 1) * np.array([0.8191725134, 0.6710436067, 0.5497004779])) % 1)


def _noisy(rng: np.random.Generator, values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(values + rng.normal(0, 15, values.shape), 0, 255).astype(np.uint8)


def _image(rng: np.random.Generator, label: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """uint8[H, W, 3]; without a size, of one of several."""
    width, height = size or _SIZES[rng.integers(len(_SIZES))]
    return _noisy(rng, np.broadcast_to(_colour(label), (height, width, 3)))


def _cifar_rows(rng: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8[n, 3072], all of a row's red before its green and blue."""
    return np.stack([_image(rng, label, (32, 32)).transpose(2, 0, 1).reshape(3072) for label in labels])


def _cifar_names(labels: NDArray[np.int64], classes: tuple[str, ...]) -> list[str]:
    return [f"{classes[label]}_s_{i:06d}.png" for i, label in enumerate(labels, start=1)]


def _clothing_key(rng: np.random.Generator) -> str:
    """The original's names are two numbers; the second's last three digits are the folders."""
    first, second, folder, inner = rng.integers([10**9, 10**6, 0, 0], [4 * 10**9, 4 * 10**6, 2, 3])
    return f"images/{folder}/{inner:02d}/{first},{second}{folder}{inner:02d}.jpg"


def _box(rng: np.random.Generator) -> str:
    left, top, right, bottom = rng.integers([0, 0, 32, 32], [32, 32, 64, 64])
    return f"{left}\t{top}\t{right}\t{bottom}"


def _words(wnid: str) -> str:
    """As in the original, two classes are called crane."""
    i = WNIDS.index(wnid)
    return "crane" if i in (134, 517) else f"thing {i}, kind of thing {i}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write miniature data sets in the original on-disk formats.")
    parser.add_argument("folder", type=Path, help="the data folder; made if it is not there")
    parser.add_argument("--seed", type=int, default=0, help="of images and labels (default: 0)")
    arguments = parser.parse_args()
    for name, path in write_all(arguments.folder, arguments.seed).items():
        print(f"{name:14} {sum(found.is_file() for found in (path, *path.rglob('*'))):5} files  {path}")


if __name__ == "__main__":
    main()
