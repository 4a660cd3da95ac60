"""What a person decided of labels: read, checked, kept in the run's folder and put together."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from alignprune_pl.report import read_run
from alignprune_pl.report.decisions import Decision, dataset_key, keep_decisions, kept_files, mended, read_decisions
from deciding import HEAD, as_csv, as_json, decided

# Names that a page, a spreadsheet and a table each write in their own way.
NAMES = ["cat, big", 'a "dog"', "鳥", "01", "NA", " x", "</script>", "مرحبا", "8", "a\nb"]


@pytest.fixture
def run(run_dir, tmp_path):
    """A copy of a run, whose classes have such names."""
    shutil.copytree(run_dir, tmp_path / "run")
    with np.load(tmp_path / "run/record.npz") as record:
        known = {**record, "classes": np.array(NAMES)}
    np.savez(tmp_path / "run/record.npz", **known)
    return read_run(tmp_path / "run")


@pytest.fixture
def entries(run):
    """Five decisions, of which one is another label and one is not made."""
    a, b, c, d, e = sorted(run.labels["train_index"][[3, 1, 4, 50, 9]].tolist())
    return decided(run, {a: 7, b: "keep", c: "junk", d: "undecided", e: 0})


def written(path, content):
    path.write_bytes(content)
    return path


def test_csv_and_json_and_what_excel_saves_are_read_alike(run, entries, tmp_path):
    found = read_decisions(written(tmp_path / "a.csv", as_csv(entries)), run)
    assert [(one.index, one.word, one.label) for one in found] == [
        (entry["index"], entry["decision"], entry["label"] if entry["decision"] == "relabel" else None)
        for entry in entries
    ]
    assert {one.decided_at for one in found} == {"2026-01-02T03:04:05Z"}
    for name, content in (
        ("bom.csv", b"\xef\xbb\xbf" + as_csv(entries)),
        ("semicolons.csv", b"\xef\xbb\xbf" + as_csv(entries, ";") + b";;;;;;;;\r\n"),
        ("turned.csv", as_csv(entries[::-1])),
        ("a.json", as_json(entries)),
        ("a.JSON", as_json(entries)),
    ):
        assert read_decisions(written(tmp_path / name, content), run) == found, name


WRONG = [
    ({"version": 2}, r"line 2, has the version '2', but 1 is expected"),
    ({"version": ""}, r"line 2, has the version '', but 1 is expected"),
    (
        {"dataset": "0123456789abcdef"},
        r"line 2, is of the data set 0123456789abcdef, but \S+ is of {key}; give the run",
    ),
    ({"index": 100_000}, r"line 2, has the index 100000, which \S+ did not train on"),
    ({"index": "-1"}, r"line 2, has the index '-1', but a whole number is expected"),
    ({"index": "1.5"}, r"line 2, has the index '1.5', but a whole number is expected"),
    ({"given_label": "99"}, r"line 2, has the given_label '99', but in \S+ it is \d"),
    ({"decision": "Relabel"}, r"line 2, has the decision 'Relabel', but one of relabel, keep, junk, undecided is"),
    ({"decision": ""}, r"line 2, has the decision '', but one of"),
    ({"label": 10}, r"line 2, has the label '10', but a class from 0 to 9 is expected"),
    ({"label": ""}, r"line 2, has the label '', but a class from 0 to 9 is expected"),
    ({"label": "cat"}, r"line 2, has the label 'cat', but a class from 0 to 9"),
    ({"label_name": "01"}, r"line 2, has the label 7, which is مرحبا, but the label_name 01; mend"),
    ({"decided_at": ""}, r"line 2, has the decided_at '', but a time such as 2026-01-31T12:00:00Z is expected"),
    ({"decided_at": "2026-01-02T03:0"}, r"line 2, has the decided_at '2026-01-02T03:0', but a time"),
    ({"decided_at": "2026-01-02T03:04:05"}, r"line 2, has the decided_at"),
    ({"decision": "keep"}, r"line 2, has the label '7', but keep has none"),
]


@pytest.mark.parametrize(("change", "expected"), WRONG, ids=lambda value: str(value)[:40])
def test_an_entry_that_does_not_fit_the_run_is_refused_with_its_line(run, entries, tmp_path, change, expected):
    path = written(tmp_path / "a.csv", as_csv([{**entries[0], **change}, *entries[1:]]))
    with pytest.raises(ValueError, match=expected.format(key=dataset_key(run))) as error:
        read_decisions(path, run)
    assert str(error.value).startswith(f"{path}, line 2,")
    assert str(error.value).count(". ") == 0  # one sentence
    path = written(tmp_path / "a.json", as_json([{**entries[0], **change}, *entries[1:]]))
    with pytest.raises(ValueError, match="decision 1, "):
        read_decisions(path, run)


@pytest.mark.parametrize("name", HEAD)
def test_a_missing_column_is_refused_by_name(run, entries, tmp_path, name):
    less = [{key: value for key, value in entry.items() if key != name} for entry in entries]
    with pytest.raises(ValueError, match=rf"line 2, has no {name}, but it is expected"):
        read_decisions(written(tmp_path / "a.csv", as_csv(less)), run)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "version,dataset\n1,é".encode("latin-1"), r"a.csv is not UTF-8 \(byte 19\)"),
        ("a.csv", "version,dataset\n".encode("utf-16"), "a.csv is not UTF-8"),
        ("a.csv", b"", "a.csv has no decisions"),
        ("a.csv", ",".join(HEAD).encode(), "a.csv has no decisions"),
        ("a.csv", b'version,dataset\n1,"x', "line 2, is no CSV"),
        ("a.csv", b"version,dataset\n1,2,3", "line 2, has 3 cells, but the header has 2"),
        ("a.json", b"{", "a.json is no JSON"),
        ("a.json", b"[]", "a.json has no list of decisions"),
        ("a.json", b'{"version": 1, "dataset": "x", "decisions": [3]}', "a.json has no list of decisions"),
        ("a.json", b'{"decisions": [{}]}', "decision 1, has no version"),
        ("a.json", b'{"version": true, "dataset": "x", "decisions": [{}]}', "has the version True"),
    ],
)
def test_what_is_no_such_file_is_refused(run, tmp_path, name, content, expected):
    with pytest.raises(ValueError, match=expected):
        read_decisions(written(tmp_path / name, content), run)


def test_a_sample_that_is_there_twice_is_refused(run, entries, tmp_path):
    path = written(tmp_path / "a.csv", as_csv([*entries, entries[1]]))  # in which a name goes over two lines
    with pytest.raises(ValueError, match=rf"line 8, has the index {entries[1]['index']} for the second time"):
        read_decisions(path, run)


def test_other_labels_samples_or_names_are_another_data_set(run):
    key = dataset_key(run)
    for of, name in ((run.labels, "label"), (run.labels, "train_index"), (run.record, "classes")):
        before = of[name]
        of[name] = before[::-1].copy()
        assert dataset_key(run) != key, name
        of[name] = before
    run.summary["dataset"] += "2"
    assert dataset_key(run) != key
    run.summary["dataset"] = run.summary["dataset"][:-1]
    run.labels["clean_label"] = (run.labels["label"] + 1) % 10
    assert dataset_key(run) != key
    paths = {name: np.array([f"{name}/{at}".encode() for at in range(len(run.labels["label"]))]) for name in "ab"}
    keys = {dataset_key(replace(run, record={**run.record, "paths": paths[name]})) for name in "ab"}
    assert len(keys) == 2


def test_a_file_is_compared_with_the_runs_samples_once_however_many_decisions_it_has(
    run, entries, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr("alignprune_pl.report.decisions.dataset_key", lambda run: asked.append(1) or dataset_key(run))
    assert len(read_decisions(written(tmp_path / "a.csv", as_csv(entries)), run)) == 5
    assert asked == [1]


def test_files_are_kept_in_their_order_and_each_once(run, entries, tmp_path):
    first = read_decisions(written(tmp_path / "a.csv", as_csv(entries)), run)
    again = read_decisions(written(tmp_path / "a.json", as_json(entries)), run)
    folder = run.folder / "decisions"
    assert keep_decisions(run, first) == keep_decisions(run, again) == folder / "001.csv"
    assert keep_decisions(run, first[1:]) == folder / "002.csv"
    assert keep_decisions(run, first) == folder / "001.csv"
    (folder / "010.csv").write_bytes((folder / "002.csv").read_bytes())
    (folder / "notes.csv").write_text("mine")
    assert keep_decisions(run, first[2:]) == folder / "011.csv"
    assert kept_files(run) == [folder / f"{number:03d}.csv" for number in (1, 2, 10, 11)]
    assert read_decisions(folder / "001.csv", run) == first
    with (folder / "001.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: str(value) for name, value in entry.items()} for entry in entries]


def test_a_newer_decision_replaces_an_older_one_and_undecided_takes_it_back(run):
    index, given = run.labels["train_index"], run.labels["label"]
    other = (given + 1) % 10

    def keep(*words, hour=10):
        made = [(int(index[at]), word) for at, word in enumerate(words) if word]
        keep_decisions(
            run,
            [
                Decision(i, word, int(other[at]) if word == "relabel" else None, f"2026-01-02T{hour}:00:00Z")
                for at, (i, word) in zip([at for at, word in enumerate(words) if word], made, strict=True)
            ],
        )

    nothing = mended(run)
    assert (nothing.labels == given).all()
    assert (nothing.changed, nothing.kept, nothing.is_left_out.sum(), nothing.files) == (0, 0, 0, 0)
    keep("relabel", "junk", "keep", "relabel", "junk", "keep")
    keep("undecided", "undecided", "junk", "junk", "relabel", "relabel", "relabel")
    after = mended(run)
    assert np.flatnonzero(after.labels != given).tolist() == [4, 5, 6]
    assert (after.labels[4:7] == other[4:7]).all()
    assert np.flatnonzero(after.is_left_out).tolist() == [2, 3]
    assert (after.changed, after.kept, after.files) == (3, 0, 2)
    keep("keep")
    assert mended(run).kept == 1
    keep(*[""] * 7, "relabel")
    assert (mended(run).changed, mended(run).files) == (4, 4)
    keep("junk", *[""] * 6, "keep", hour=11)
    assert (mended(run).changed, mended(run).is_left_out[0]) == (3, True)
    keep("relabel", *[""] * 6, "relabel", hour="09")  # an older export that is given late
    assert (mended(run).changed, mended(run).is_left_out[0], mended(run).files) == (3, True, 6)


def test_a_kept_file_that_was_damaged_is_refused_by_name(run, entries, tmp_path):
    kept = keep_decisions(run, read_decisions(written(tmp_path / "a.csv", as_csv(entries)), run))
    kept.write_bytes(kept.read_bytes().replace(b"relabel", b"other"))
    with pytest.raises(ValueError, match=r"decisions/001.csv, line 2, has the decision 'other'"):
        mended(run)


def test_json_of_the_documented_form_is_read_word_by_word(run, tmp_path):
    at = int(run.labels["train_index"][0])
    label = int(run.labels["label"][0])
    one = {"index": at, "given_label": label, "given_name": "x", "decision": "relabel", "label": 3, "label_name": "y"}
    content = {"version": 1, "dataset": dataset_key(run), "decisions": [{**one, "decided_at": "2026-01-01T00:00:00Z"}]}
    path = written(tmp_path / "a.json", json.dumps(content).encode())
    assert read_decisions(path, run) == [Decision(at, "relabel", 3, "2026-01-01T00:00:00Z")]
