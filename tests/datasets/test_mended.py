"""Labels that were mended: files of them, read and written in each data set's form, and trained on."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignprune_pl.data import DataFileError, NoisyData, arrays, csv_files, digits, image_folder, read_labels
from alignprune_pl.data.mended import array, moves, table_of_images, table_of_places
from alignprune_pl.noise import Given, Symmetric


@pytest.fixture
def folder(samples):
    return image_folder(samples / "image_folder", image_size=8)


@pytest.fixture
def table(samples):
    return csv_files(samples / "csv/train.csv", samples / "csv/test.csv", image_size=8)


@pytest.fixture
def rows(samples):
    return arrays(samples / "arrays.npz")


def changed(benchmark):
    """Other labels: the first three samples get the next class, and the last two none."""
    labels = benchmark.train.labels.clone()
    labels[:3] = (labels[:3] + 1) % benchmark.num_classes
    labels[-2:] = -1
    return labels


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- written and read ---------------------------------------------------------------------------------------


def test_the_table_of_images_is_the_original_with_other_labels_and_without_junk(table, samples, tmp_path, caplog):
    own = samples / "csv/train.csv"
    assert table_of_images(own, table, table.train.labels) == own.read_bytes()
    labels = changed(table)
    path = written(tmp_path / "mended.csv", table_of_images(own, table, labels))
    with caplog.at_level("INFO"):
        assert (read_labels(table, path) == labels).all()
    assert "replaces 3 of the 60 labels of csv, and leaves out 2 samples, which are not trained on." in caplog.text
    before, after = (list(csv.DictReader(file.read_text("utf-8").splitlines())) for file in (own, path))
    assert [row["path"] for row in after] == [row["path"] for row in before[:-2]]
    assert [row["clean_label"] for row in after] == [row["clean_label"] for row in before[:-2]]
    assert [row["label"] for row in after[3:]] == [row["label"] for row in before[3:-2]]
    assert [row["label"] for row in after[:3]] == [table.classes[label] for label in labels[:3]]


def test_a_table_keeps_its_columns_delimiter_and_hidden_rows_and_is_read_in_any_order(samples, tmp_path):
    images = [f"images/train_{i:03d}.png" for i in range(4)]
    own = tmp_path / "own.csv"
    rows = ["index;label;path;remark", f'7;fox;{images[0]};"a; b"', "8;fox;.hidden.png;", f"9;owl;{images[1]};"]
    rows += [f"9;fox;{images[0]};again", f"1;owl;{images[2]};", r"2;bat;images\train_003.png;"]
    own.write_bytes("\r\n".join([*rows, ""]).encode())
    test = written(tmp_path / "test.csv", f"path,label\n{images[3].replace('train_003', 'test_000')},fox\n")
    benchmark = csv_files(own, test, root=samples / "csv", image_size=8)
    owl, fox = benchmark.classes.index("owl"), benchmark.classes.index("fox")
    labels = benchmark.train.labels.clone()
    labels[0], labels[1], labels[3] = owl, -1, fox
    content = table_of_images(own, benchmark, labels)
    expected = [rows[0], f'7;owl;{images[0]};"a; b"', *rows[2:3], *rows[4:5], f"1;fox;{images[2]};", rows[6]]
    assert content.decode() == "\r\n".join([*expected, ""])
    assert (read_labels(benchmark, written(tmp_path / "a.csv", content)) == labels).all()
    turned = "\n".join([expected[0], *expected[:0:-1]])  # the image that is there twice gets its labels in this order
    labels[[0, 2]] = labels[[2, 0]]
    assert (read_labels(benchmark, written(tmp_path / "b.csv", "\ufeff" + turned)) == labels).all()


def test_moves_of_images_in_folders_are_read_as_they_were_written(folder, tmp_path):
    labels = changed(folder)
    content = json.loads(moves(folder, labels))
    paths = folder.train.inputs.paths()
    first = {"path": paths[0], "from": paths[0].split("/")[0], "to": folder.classes[labels[0]]}
    assert content["version"] == 1
    assert (content["moves"][0], len(content["moves"]), content["junk"]) == (first, 3, paths[-2:])
    assert (read_labels(folder, written(tmp_path / "a.json", moves(folder, labels))) == labels).all()
    nothing = json.loads(moves(folder, folder.train.labels))
    assert nothing == {"version": 1, "moves": [], "junk": []}


def test_an_array_has_a_label_of_each_row_and_the_same_bytes_each_time(rows, tmp_path):
    labels = changed(rows)
    path = written(tmp_path / "mended.npz", array(labels))
    with np.load(path) as archive:
        assert archive["label"].dtype == np.int64
        assert archive["label"].tolist() == labels.tolist()
    assert (read_labels(rows, path) == labels).all()
    assert array(labels) == path.read_bytes()


@pytest.mark.parametrize("name", ["folder", "table", "rows"])
def test_a_table_of_places_is_read_by_every_data_set(request, name, tmp_path):
    benchmark = request.getfixturevalue(name)
    labels = changed(benchmark)
    kept = (labels >= 0).nonzero().squeeze(1).tolist()
    content = table_of_places(kept, labels[kept].tolist(), benchmark.classes)
    assert content.decode().splitlines()[:2] == ["index,label", f"0,{benchmark.classes[labels[0]]}"]
    assert (read_labels(benchmark, written(tmp_path / "a.csv", content)) == labels).all()
    as_excel = b"\xef\xbb\xbf" + content.replace(b",", b";")
    assert (read_labels(benchmark, written(tmp_path / "b.csv", as_excel)) == labels).all()


def test_a_table_of_places_has_paths_where_they_are_known_and_they_are_compared(folder, tmp_path):
    labels, paths = folder.train.labels, folder.train.inputs.paths()
    content = table_of_places(range(len(labels)), labels.tolist(), folder.classes, paths).decode()
    assert (read_labels(folder, written(tmp_path / "a.csv", content)) == labels).all()
    lines = content.splitlines()
    lines[1], lines[2] = lines[1].replace(paths[0], paths[1]), lines[2].replace(paths[1], paths[0])
    with pytest.raises(
        DataFileError, match=rf"line 2, has the path {paths[1]} for the index 0, which in image_folder is"
    ):
        read_labels(folder, written(tmp_path / "a.csv", "\n".join(lines)))


def test_names_that_are_alike_are_refused():
    for other in ("é", "é ", "e\u0301"):
        with pytest.raises(ValueError, match="Two classes have the name 'é'"):
            table_of_places([0], [0], ["é", "b", other])


def test_classes_whose_names_are_alike_are_neither_written_nor_read_by_name(folder, tmp_path):
    alike = replace(folder, classes=("a/b", r"a\b", *folder.classes[2:]))
    path = written(tmp_path / "a.json", moves(folder, changed(folder)))
    for write in (lambda: moves(alike, changed(alike)), lambda: read_labels(alike, path)):
        with pytest.raises(ValueError, match="Two classes have the name 'a/b', so that labels cannot be told by names"):
            write()


# ---- refused ------------------------------------------------------------------------------------------------

MOVE = {"path": "dog/0001.jpg", "from": "dog", "to": "fox"}


def of_moves(*made, junk=(), **other):
    return json.dumps({"version": 1, "moves": list(made), "junk": list(junk), **other})


@pytest.mark.parametrize(
    ("of", "name", "content", "expected"),
    [
        (
            "rows",
            "a.csv",
            "index,label\n0,dog\n60,dog\n",
            "line 3, has the index '60', but arrays has the samples 0 to 59",
        ),
        ("rows", "a.csv", "index,label\n-1,dog\n", "line 2, has the index '-1'"),
        ("rows", "a.csv", "index,label\n0,dog\n0,fox\n", "line 3, has the index 0 for the second time"),
        ("rows", "a.csv", "index,label\n0,elk\n", "line 2, has the label 'elk', but arrays has the classes"),
        ("rows", "a.csv", "index,label\n0\n", "line 2, has the label ''"),
        ("rows", "a.csv", "label,index\ndog\n", "line 2, has the index ''"),
        ("rows", "a.csv", "index,name\n0,dog\n", "a.csv has no column label, but index and label are expected"),
        ("rows", "a.csv", "path,label\na.png,dog\n", "a.csv has no column index"),
        ("rows", "a.csv", "", "a.csv has no column index"),
        ("rows", "a.csv", "index,label\n0,b\xe9".encode("latin-1"), "not a CSV file in UTF-8: line 2, column 4"),
        (
            "table",
            "a.csv",
            "path,label\nimages/test_000.png,dog\n",
            "line 2, has the path images/test_000.png, which",
        ),
        ("table", "a.csv", "path,label\nimages/train_000.png,elk\n", "line 2, has the label 'elk'"),
        (
            "table",
            "a.csv",
            "path,label\n" + 2 * "images/train_000.png,dog\n",
            "line 3, has the path .* once more than",
        ),
        (
            "table",
            "a.csv",
            "path,label\nimages/train_000.png,dog\nimages\\train_000.png,fox\n",
            "line 3, has the path .* once more than",
        ),
        ("rows", "a.json", of_moves(MOVE), "move 1, has the path dog/0001.jpg, which is not among"),
        ("folder", "a.json", "{", "a.json is no JSON"),
        ("folder", "a.json", "[]", "a.json has the version None, but 1 is expected"),
        ("folder", "a.json", of_moves(version=2), "a.json has the version 2"),
        (
            "folder",
            "a.json",
            of_moves(junk="").replace('"junk": []', '"junk": 3'),
            "a.json has no lists moves and junk",
        ),
        (
            "folder",
            "a.json",
            of_moves({"path": "a"}),
            "move 1, is {'path': 'a'}, but a path with from and to is expected",
        ),
        ("folder", "a.json", of_moves(3), "move 1, is 3"),
        ("folder", "a.json", of_moves(junk=[3]), "junk 1, is 3, but a path is expected"),
        (
            "folder",
            "a.json",
            of_moves({**MOVE, "path": "dog/gone.jpg"}),
            "move 1, has the path dog/gone.jpg, which is not",
        ),
        (
            "folder",
            "a.json",
            of_moves({**MOVE, "from": "cat"}),
            "move 1, takes dog/0001.jpg from cat, but image_folder has",
        ),
        ("folder", "a.json", of_moves({**MOVE, "to": "elk"}), "move 1, has the label 'elk'"),
        (
            "folder",
            "a.json",
            of_moves(MOVE, junk=[MOVE["path"]]),
            "junk 1, has the path dog/0001.jpg for the second time",
        ),
        ("folder", "a.txt", "", "a.txt is given, but a .csv, .json or .npz file of mended labels is expected"),
        ("rows", "a.npz", array(torch.zeros(59).long()), r"label of \S+a.npz is int64\[59\], but whole numbers \[60\]"),
        ("rows", "a.npz", array(torch.zeros(60)), r"is float32\[60\], but whole numbers"),
        ("rows", "a.npz", array(torch.tensor([-2] * 60)), "has the label -2 in row 0, but a class from 0 to 2, or -1"),
        ("rows", "a.npz", array(torch.tensor([0, 3] * 30)), "has the label 3 in row 1"),
        ("rows", "a.npz", b"PK", "a.npz is not a whole .npz file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_place(request, tmp_path, of, name, content, expected):
    benchmark = request.getfixturevalue(of)
    path = written(tmp_path / name, content)
    with pytest.raises(DataFileError, match=expected) as error:
        read_labels(benchmark, path)
    assert str(path) in str(error.value)


def test_a_file_that_is_missing_is_refused(rows, tmp_path):
    with pytest.raises(DataFileError, match=r"labels=\S+gone.csv is missing, but a .csv, .json or .npz file"):
        read_labels(rows, tmp_path / "gone.csv")


# ---- trained on ---------------------------------------------------------------------------------------------


def test_they_are_trained_on_and_the_truth_stays_known():
    benchmark = digits()
    before = NoisyData(benchmark, Symmetric(0.4), reference_share=0.05, seed=3)
    mended = torch.full((len(benchmark.train),), -1)  # as a table of places has it: nothing of the reference
    mended[before.train_index] = before.labels
    mended[before.train_index[:10]] = before.clean_labels[:10]
    mended[before.train_index[20:25]] = -1
    data = NoisyData(benchmark, Given(), reference_share=0.05, mended=mended, seed=3)
    stays = torch.cat([torch.arange(20), torch.arange(25, len(before.labels))])
    assert (data.train_index == before.train_index[stays]).all()
    assert (data.labels == mended[data.train_index]).all()
    assert (data.clean_labels == benchmark.clean_labels[data.train_index]).all()
    assert (data.noise_mask == (data.labels != data.clean_labels)).all()
    assert 0.2 < data.noise_mask.float().mean() < before.noise_mask.float().mean()
    assert not data.noise_mask[:10].any()
    assert (data.reference_index == before.reference_index).all()
    reference = torch.stack([label for _, label in data.reference_set])
    assert (reference == benchmark.clean_labels[data.reference_index]).all()
    trained = torch.stack([label for _, label in data.train_set])
    assert (trained == data.labels).all()


def test_where_the_truth_is_unknown_the_reference_is_labelled_by_them_and_has_no_junk():
    benchmark = replace(digits(), clean_labels=None)
    mended = torch.arange(len(benchmark.train)) % 10
    mended[::2] = -1
    data = NoisyData(benchmark, Given(), reference_share=0.3, mended=mended)
    both = torch.cat([data.train_index, data.reference_index])
    assert sorted(both.tolist()) == list(range(1, len(mended), 2))
    reference = torch.stack([label for _, label in data.reference_set])
    assert (reference == mended[data.reference_index]).all()
    assert data.noise_mask is None


@pytest.mark.parametrize("truth", ["known", "unknown"])
@pytest.mark.parametrize(
    "settings",
    [{"train_size": 300}, {"imbalance": 3.0}, {"in_memory": True}, {"reference_share": None}, {"train_size": 250}],
)
def test_no_setting_trains_on_what_is_left_out(truth, settings):
    benchmark = replace(digits(), **({} if truth == "known" else {"clean_labels": None}))
    mended = torch.where(torch.arange(len(benchmark.train)) % 3 == 0, -1, benchmark.train.labels)
    whole = NoisyData(benchmark, Given(), **{"reference_share": 0.1, **settings})
    data = NoisyData(benchmark, Given(), mended=mended, **{"reference_share": 0.1, **settings})
    assert (mended[data.train_index] >= 0).all()
    assert (data.labels == mended[data.train_index]).all()
    # The same are drawn, and of these some are left out.
    assert data.train_index.tolist() == [at for at in whole.train_index.tolist() if mended[at] >= 0]
    if data.reference_index is not None:
        assert not set(data.reference_index.tolist()) & set(data.train_index.tolist())
    batch = next(iter(data.train_dataloader()))
    assert len(data.train_set) == len(data.labels)
    assert batch is not None


def test_the_correct_ones_alone_are_those_that_were_mended_too():
    benchmark = digits()
    mended = (benchmark.train.labels + 1) % 10
    mended[:50] = benchmark.train.labels[:50]
    data = NoisyData(benchmark, Given(), reference_share=None, mended=mended, correct_only=True)
    assert data.train_index.tolist() == list(range(50))
    assert not data.noise_mask.any()


def test_a_checkpoint_of_other_images_with_the_same_labels_is_refused(samples, tmp_path):
    shutil.copytree(samples / "image_folder", tmp_path / "photos")
    folder = image_folder(tmp_path / "photos", image_size=8)
    state = NoisyData(folder, Given(), reference_share=None).state_dict()
    NoisyData(image_folder(tmp_path / "photos", image_size=8), Given(), reference_share=None).load_state_dict(state)
    first = tmp_path / "photos/train" / folder.train.inputs.paths()[0]
    first.rename(first.with_stem("zz"))  # all other images of its class move up by one
    other = NoisyData(image_folder(tmp_path / "photos", image_size=8), Given(), reference_share=None)
    with pytest.raises(ValueError, match="The checkpoint is of a run on other training samples or labels"):
        other.load_state_dict(state)


def test_a_checkpoint_of_the_labels_as_they_were_is_refused():
    benchmark = digits()
    mended = benchmark.train.labels.clone()
    state = NoisyData(benchmark, Given(), reference_share=None).state_dict()
    NoisyData(benchmark, Given(), reference_share=None, mended=mended).load_state_dict(state)  # they are the same
    for other in ((mended + 1) % 10, torch.cat([mended[:-1], torch.tensor([-1])])):
        with pytest.raises(ValueError, match="The checkpoint is of a run on other training samples or labels"):
            NoisyData(benchmark, Given(), reference_share=None, mended=other).load_state_dict(state)


@pytest.mark.parametrize(
    ("mended", "noise", "expected"),
    [
        (torch.zeros(1437).long(), Symmetric(0.4), r"Mended labels and the noise Symmetric\(ratio=0.4"),
        (torch.zeros(1436).long(), Given(), r"int64\[1436\] are given, but int64\[1437\] from -1 to 9 is expected"),
        (torch.zeros(1437), Given(), r"float32\[1437\] are given"),
        (torch.full((1437,), 10), Given(), r"from -1 to 9 is expected"),
        (torch.full((1437,), -1), Given(), r"The mended labels have none of the 1437 samples of digits"),
    ],
)
def test_what_does_not_fit_is_refused(mended, noise, expected):
    with pytest.raises(ValueError, match=expected):
        NoisyData(digits(), noise, reference_share=None, mended=mended)
