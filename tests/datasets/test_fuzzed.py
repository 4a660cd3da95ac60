"""Whatever is in a table, a folder or an image's file, it is read as it was written, or one sentence names the file.

Each test draws 40 cases, the same in each run. FUZZ=5000 pytest tests/datasets/test_fuzzed.py draws others, and as many.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from alignprune_pl.data import DataFileError, ImageFiles, NoisyData, csv_files
from alignprune_pl.data.folders import folder_per_class, is_left_out
from alignprune_pl.data.tables import read_table
from alignprune_pl.data.text import paths_and_labels
from alignprune_pl.noise import Given

MANY = int(os.environ.get("FUZZ", "0"))
fuzzed = settings(
    max_examples=MANY or 40,
    derandomize=not MANY,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def error_of(path, read):
    """What reading gives, or the error; any but ours fails the test, and so does one that does not name the file."""
    try:
        return read(), None
    except DataFileError as error:
        text = str(error)
        assert str(path) in text
        assert text.endswith(".")
        assert "\n" not in text.replace(str(path), "")
        return None, text


# ---- tables -------------------------------------------------------------------------------------------------

NAMES = tuple(f"{i}.png" for i in range(8))
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
label = st.one_of(st.sampled_from(["cat", "dog", "1", "01", "10", "nan", "a,b", 'a"b', " cat", "cat\n"]), text)
rows = st.lists(st.tuples(st.sampled_from(NAMES), label), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in (*NAMES, "test.png"):
        Image.new("RGB", (2, 2)).save(folder / name)
    return folder


def written(table, delimiter, quoting, ends, extra, space):
    """A table's text as a spreadsheet would save it."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=ends)
    writer.writerow(["path", "label", *[""] * extra])
    for row in table:
        writer.writerow([*row, *[""] * extra])
        file.write(space + ends if space.strip(" ") == "" else delimiter * 2 + ends)
    return file.getvalue()


saved = st.builds(
    lambda table, *how: (table, written(table, *how)),
    rows,
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.integers(0, 2),
    st.sampled_from(["", " ", ","]),
)


def meant(name):
    """What a reader makes of a label: without spaces around it, and with its accents composed."""
    return unicodedata.normalize("NFC", name.strip())


@fuzzed
@given(saved, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_a_table_that_is_written_is_read_as_it_is_meant(images, case, encoding):
    table, content = case
    path = images / "train.csv"
    path.write_bytes(content.encode(encoding))
    read, error = error_of(path, lambda: read_table(path))
    names = [meant(name) for _, name in table]
    if error is None:
        assert [(row.path, row.label) for row in read] == [
            (path, name) for (path, _), name in zip(table, names, strict=True)
        ]
    else:  # rightly: no table has these labels
        assert any(not name or "\n" in name or "\r" in name for name in names), error


@fuzzed
@given(saved)
def test_a_table_in_an_older_encoding_is_refused_where_its_first_letter_is(images, case):
    _, content = case
    content = "".join(character for character in content if ord(character) < 256)
    assume(not content.isascii())
    path = images / "train.csv"
    path.write_bytes(content.encode("latin-1"))
    at = first_undecodable(path.read_bytes())
    _, error = error_of(path, lambda: read_table(path))
    if at is not None:
        assert error is not None
        assert f"is the byte 0x{path.read_bytes()[at]:02x}" in error


def first_undecodable(content):
    """Where bytes are no UTF-8 any more; None where they are."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


@fuzzed
@given(rows, st.floats(0.1, 0.9), st.integers(0, 3))
def test_no_image_of_any_table_is_held_out_and_trained_on(images, table, share, seed):
    table = [(path, meant(name) or "cat") for path, name in table]
    table = [row for row in table if "\n" not in row[1] and "\r" not in row[1]]
    assume(table)
    (images / "train.csv").write_text(written(table, ",", csv.QUOTE_ALL, "\n", 0, ""), encoding="utf-8", newline="")
    (images / "test.csv").write_text(written([("test.png", table[0][1])], ",", csv.QUOTE_ALL, "\n", 0, ""), newline="")
    benchmark = csv_files(images / "train.csv", images / "test.csv", image_size=8)
    assert [benchmark.classes[at] for at in benchmark.train.labels.tolist()] == [name for _, name in table]
    assert benchmark.train.inputs.paths() == [path for path, _ in table]
    labels = {path: {name for other, name in table if other == path} for path, _ in table}
    fit = sum(len(names) == 1 for names in labels.values())  # images that can be held out
    if max(1, round(share * fit)) >= fit:
        with pytest.raises(ValueError, match=r"leaves nothing to train on|has several labels"):
            NoisyData(benchmark, Given(), reference_share=share, seed=seed)
        return
    data = NoisyData(benchmark, Given(), reference_share=share, seed=seed)
    held, kept = ({table[i][0] for i in index.tolist()} for index in (data.reference_index, data.train_index))
    assert not held & kept
    assert held | kept == {path for path, _ in table}
    assert len(held) == len(data.reference_index)


def changed(draw, content, most=8):
    """Bytes with some of them replaced, left out or put in, or cut short."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["replace", "remove", "insert", "cut", "double"]))
        if kind == "replace" and content:
            content[at] = draw(st.sampled_from([0, 10, 13, 34, 44, 59, 92, 127, 128, 255]) | st.integers(0, 255))
        elif kind == "remove":
            del content[at : at + draw(st.integers(1, 4))]
        elif kind == "insert":
            content[at:at] = draw(st.sampled_from([b'"', b",", b"\n", b"\r", b"\0", b"\xff\xfe", b"\\", b"/", b";;"]))
        elif kind == "cut":
            del content[at:]
        else:
            content[at:at] = content[at : at + 8]
    return bytes(content)


@fuzzed
@given(st.data())
def test_a_table_or_a_list_of_any_bytes_is_read_or_named(images, data):
    _, content = data.draw(saved)
    whole = data.draw(st.binary(max_size=200)) if data.draw(st.booleans()) else changed(data.draw, content.encode())
    path = images / "odd.csv"
    path.write_bytes(whole)
    (images / "test.csv").write_text("path,label\ntest.png,cat\n")
    read, error = error_of(path, lambda: read_table(path))
    if error is None:
        assert all(row.path and row.label and row.path == row.path.strip() for row in read)
        benchmark, _ = error_of(images, lambda: csv_files(path, images / "test.csv"))
        if benchmark is not None:
            assert len(benchmark.train) == sum(not is_left_out(row.path) for row in read)
            assert all(file.is_file() for file in map(benchmark.train.inputs.path, range(len(benchmark.train))))
    listed, error = error_of(path, lambda: paths_and_labels(path, 10))
    assert error is not None or all(0 <= number < 10 for number in listed[1])


# ---- folders ------------------------------------------------------------------------------------------------

FOLDERS = ("cat", "dog", "1", "02", "deep", ".git", "@eaDir", "é", "e\u0301", "two words")
FILES = (
    "a.png",
    "b.PNG",
    "c.jfif",
    "d.txt",
    "._a.png",
    "Thumbs.db",
    "no_end",
    "e.heic",
    "f.webp",
    " g.png",
    "h.png ",
    ".png",
)
IMAGE_ENDS = (".png", ".jfif", ".webp")
place = st.lists(st.sampled_from(FOLDERS), min_size=0, max_size=3).map("/".join)
trees = st.lists(st.tuples(place, st.sampled_from(FILES)), min_size=1, max_size=15)
links = st.lists(
    st.tuples(place, st.sampled_from(["l", "m", "l.png"]), place | st.just("gone") | st.just("..")), max_size=5
)


def grown(root, tree):
    """A folder with these files and none besides."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for folder, name in tree:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).touch()


def counts(path):
    """The rule in other words: whether a file is an image of a class."""
    *folders, name = path.split("/")
    is_plain = all(not part.startswith(".") and part not in ("@eaDir", "Thumbs.db") for part in (*folders, name))
    return bool(folders) and is_plain and name.lower().endswith(IMAGE_ENDS)


@fuzzed
@given(trees)
def test_a_folders_images_are_those_that_were_put_there(tmp_path_factory, tree):
    root = tmp_path_factory.getbasetemp() / "tree"
    grown(root, tree)
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    images = {path for path in there if counts(path)}
    read, error = error_of(root, lambda: folder_per_class(root))
    if error is None:
        classes, part = read
        assert sorted(part.inputs.paths()) == sorted(images)
        for path, number in zip(part.inputs.paths(), part.labels.tolist(), strict=True):
            assert classes[number] == unicodedata.normalize("NFC", path.split("/")[0])
    else:
        of_class = {path.name for path in root.iterdir() if path.is_dir() and path.name not in (".git", "@eaDir")}
        named = {unicodedata.normalize("NFC", name) for name in of_class}
        assert named != {unicodedata.normalize("NFC", path.split("/")[0]) for path in images} or not named, error


@fuzzed
@given(trees, links)
def test_no_link_makes_an_image_out_of_nothing_or_hides_one(tmp_path_factory, tree, linked):
    root = tmp_path_factory.getbasetemp() / "linked"
    grown(root, tree)
    before, _ = error_of(root, lambda: folder_per_class(root))
    for folder, name, target in linked:
        if (root / folder).is_dir() and not os.path.lexists(root / folder / name):
            (root / folder / name).symlink_to(root / target)
    read, error = error_of(root, lambda: folder_per_class(root))
    if error is not None:
        return
    _, part = read
    files = [part.inputs.path(i) for i in range(len(part))]
    assert all(path.is_file() for path in files)
    assert len({str(path) for path in files}) == len(files)
    seen = [(path.parent.resolve() / path.name, label) for path, label in zip(files, part.labels.tolist(), strict=True)]
    if not any(unicodedata.normalize("NFC", name) != name for folder, _ in tree for name in folder.split("/")):
        assert len(set(seen)) == len(files)  # no folder is read twice for a class
    real = {os.path.realpath(path) for path in files}
    assert real <= {os.path.realpath(path) for path in root.rglob("*")}
    if before is not None:
        assert {os.path.realpath(before[1].inputs.path(i)) for i in range(len(before[1]))} <= real


# ---- pictures -----------------------------------------------------------------------------------------------

LOSSLESS = {
    "PNG": ("L", "LA", "RGB", "RGBA", "I;16", "P", "1"),
    "TIFF": ("L", "LA", "RGB", "RGBA", "I;16", "I", "F", "CMYK"),
}
LOSSLESS |= {"BMP": ("L", "RGB"), "PPM": ("L", "RGB", "1"), "TGA": ("L", "RGB", "RGBA"), "WEBP": ("RGB", "RGBA")}
LOSSLESS |= {"GIF": ("L", "P"), "JPEG2000": ("L", "RGB", "RGBA")}
OTHERS = {
    "JPEG": ("L", "RGB", "CMYK"),
    "ICO": ("RGBA",),
    "PCX": ("L", "RGB"),
    "SGI": ("L", "RGB"),
    "QOI": ("RGB", "RGBA"),
}
OTHERS |= {"AVIF": ("RGB",), "DDS": ("RGB", "RGBA"), "IM": ("L", "I", "F", "I;16")}
KINDS = [(form, mode) for form, modes in (LOSSLESS | OTHERS).items() for mode in modes]
TURNED = ("PNG", "TIFF", "WEBP", "JPEG", "JPEG2000", "AVIF")


@st.composite
def pictures(draw, kinds=tuple(KINDS)):
    """Format, mode, orientation, pixels of the mode, and the bytes of the file."""
    form, mode = draw(st.sampled_from(kinds))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode, 1)
    pixels = rng.integers(0, 256, (height, width, bands), dtype=np.uint8)
    if mode in ("I;16", "I"):
        image = Image.fromarray(pixels[..., 0].astype({"I;16": np.uint16, "I": np.int32}[mode]) * 257)
    elif mode == "F":
        image = Image.fromarray((pixels[..., 0] / 255).astype(np.float32))
    elif mode == "P":
        image = Image.fromarray(pixels[..., 0]).convert("P")
    elif mode == "1":
        image = Image.fromarray(pixels[..., 0] > 127)
    else:
        image = Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode if bands > 1 else "L")
    orientation = draw(st.integers(1, 8)) if form in TURNED[:3] and draw(st.booleans()) else 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if orientation > 1 else {}
    options |= {"lossless": True, "exact": True} if form == "WEBP" else {}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save(file, form, **options)
    return form, mode, orientation, pixels, file.getvalue()


def shown(mode, orientation, pixels):
    """The rule in other words: what a person sees, float[H, W, 3]."""
    values = pixels.astype(float)
    if mode in ("LA", "RGBA"):
        alpha = values[..., -1:] / 255
        values = values[..., :-1] * alpha + 255 * (1 - alpha)
    elif mode == "CMYK":
        values = (255 - values[..., :3]) * (255 - values[..., 3:]) / 255
    elif mode == "1":
        values = 255.0 * (values > 127)
    values = values.repeat(3, axis=2) if values.shape[2] == 1 else values
    turns = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)  # quarters against the clock
    values = np.rot90(values, turns)
    return values[:, ::-1] if orientation in (2, 4, 5, 7) else values


@fuzzed
@given(pictures(kinds=[(form, mode) for form, modes in LOSSLESS.items() for mode in modes]))
def test_a_picture_is_shown_as_it_was_drawn(tmp_path_factory, case):
    form, mode, orientation, pixels, content = case
    folder = tmp_path_factory.getbasetemp()
    (folder / "picture").write_bytes(content)
    seen = ImageFiles(folder, ["picture"])[0].permute(1, 2, 0).numpy()
    drawn = shown(mode, orientation, pixels)
    assert seen.shape == drawn.shape, (form, mode, orientation)
    assert np.abs(seen - drawn).max() <= 1.01, (form, mode, orientation)


@fuzzed
@given(st.data())
def test_an_image_of_any_bytes_is_read_or_named(tmp_path_factory, monkeypatch_module, data):
    _, _, _, _, content = data.draw(pictures())
    most = 8 if data.draw(st.booleans()) else 2
    head = data.draw(st.integers(8, 120))
    content = (
        changed(data.draw, content[:head], most) + content[head:]
        if data.draw(st.booleans())
        else changed(data.draw, content, most)
    )
    folder = tmp_path_factory.getbasetemp()
    path = folder / "odd"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen, _ = error_of(path, lambda: ImageFiles(folder, ["odd"])[0])
    if seen is not None:
        assert seen.dtype == torch.uint8
        assert seen.shape[0] == 3
        assert seen.ndim == 3


@pytest.fixture(scope="module")
def monkeypatch_module():
    """Sizes that are made up are to be refused early."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
        yield
