"""A CSV file is read as it is meant, however a spreadsheet saves it, or one sentence says where it cannot be."""

from __future__ import annotations

import re
import unicodedata

import pytest
from PIL import Image

from alignprune_pl.data import DataFileError, csv_files
from alignprune_pl.data.tables import read_table


@pytest.fixture
def written(tmp_path):
    """Writes a table and says where it is."""

    def write(content):
        path = tmp_path / "train.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def cells(path):
    return [(row.path, row.label, row.clean) for row in read_table(path)]


PLAIN = "path,label\na.png,cat\nb.png,dog\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.rstrip(),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace(",", ", "),
        PLAIN.replace(",", " , "),
        PLAIN.replace("cat", '"cat"').replace("a.png", '"a.png"'),
        PLAIN.replace(",", ', "').replace("\n", '"\n'),
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace("\n", "\n,\n\n  \n ,\n"),
        "\n" + PLAIN,
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
        PLAIN.encode("utf-32"),
        "label,path\ncat,a.png\ndog,b.png\n",
        'id,path,note,label\n1,a.png,"two\nlines",cat\n2,b.png,,dog\n',
        "path,label,,\na.png,cat,,\nb.png,dog\n",
    ],
    ids=[
        "plain",
        "no last line end",
        "CRLF",
        "CR",
        "semicolons",
        "tabs",
        "bars",
        "spaces before",
        "spaces around",
        "quotes",
        "quotes after spaces",
        "a comma behind",
        "empty rows",
        "an empty line first",
        "BOM",
        "UTF-16",
        "UTF-16 big",
        "Excel's Unicode text",
        "UTF-32",
        "columns in another order",
        "other columns",
        "columns without a name",
    ],
)
def test_a_table_is_read_however_it_is_saved(written, content):
    assert cells(written(content)) == [("a.png", "cat", None), ("b.png", "dog", None)]


def test_a_cell_may_have_the_delimiter_and_quotes(written):
    assert cells(written('path,label\n"a,b.png","the ""big"" cat, grey"\n')) == [
        ("a,b.png", 'the "big" cat, grey', None)
    ]
    assert cells(written('path;label\na,b.png;5" disk\n')) == [("a,b.png", '5" disk', None)]


def test_names_of_classes_stay_what_they_are(written):
    names = ["nan", "NA", "None", "null", "01", "1", "1.0", "True", "1e3", "-"]
    content = "path,label\n" + "".join(f"{i}.png,{name}\n" for i, name in enumerate(names))
    assert [row.label for row in read_table(written(content))] == names


def test_a_label_is_one_however_its_accents_are_written(written):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    rows = read_table(written(f"path,label,clean_label\na.png,{names[0]},{names[1]}\nb.png,{names[1]},{names[0]}\n"))
    assert {name for row in rows for name in (row.label, row.clean)} == {names[0]}


def test_a_row_is_known_by_the_line_that_it_begins_in(written):
    rows = read_table(written('path,note,label\n\na.png,"x\ny",cat\n,,\nb.png,x,dog\n'))
    assert [row.number for row in rows] == [3, 6]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "has the columns (none), but path and label, separated by commas, semicolons, tabs or bars, are expected"),
        ("a.png,cat\n", "has the columns a.png, cat, but path and label"),
        ("Path,Label\na.png,cat\n", "has the columns Path, Label, but path and label"),
        ('"a\nb",label\n', "has the columns a b, label, but path and label"),
        ("path:label\na.png:cat\n", "has the columns path:label, but path and label"),
        ("path,label,label\na.png,cat,dog\n", "has 2 columns label, but one is expected; remove the others."),
        ("path,label,path\na.png,cat,b.png\n", "has 2 columns path, but one is expected"),
        (
            PLAIN + "x.png,crane, bird\n",
            "line 4, has 'bird' behind its last column, but 2 cells are expected, as in the header; put",
        ),
        ("path;label\na.png;crane;bird\n", "line 2, has 'bird' behind its last column, but 2 cells are expected"),
        (PLAIN + "c.png\n", "line 4, has no label; give it, or leave the column out of the whole file."),
        (PLAIN + ",cat\n", "line 4, has no path"),
        ("path,label\n", "has no rows, but one for each image is expected."),
        ("path,label\n,\n", "has no rows, but one for each image is expected."),
        ('path,label\n"a.png,cat\n' + "b.png,dog\n" * 35, "line 2, column 1, has a quote that is not closed"),
        ('path,label\na.png,"cat\n' + 'b.png,"dog"\n' * 35, "line 2, column 7, has a quote that is not closed"),
        ('path,label\n"a.png",cat\n"b.png","dog\n', "line 3, column 9, has a quote that is not closed"),
        ('path,label\n"a.png"x,cat\n', "line 2, column 1, has a quote that is not closed, or not where its cell ends"),
        ('path,label\n"a.png\nb.png",cat\n', "line 2, has a path that goes on over 2 lines; close the quote"),
        ('path,label\na.png,"cat\r\nb.png,dog"\n', "line 2, has a label that goes on over 2 lines; close the quote"),
        (PLAIN.replace("dog", "café").encode("latin-1"), "line 3, column 10, is the byte 0xe9 ('é' in Latin-1)"),
        (PLAIN + "ä\n" + "x" * 9 + "\0", "line 5, column 10, is the character U+0000"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00", "line 1, column 6, is the character U+0000"),
        ('path,label\n"' + "a" * 200_000 + '",cat\n', "line 2, column 1, has a quote that is not closed"),
        ("a" * 200_000, "has a quote that is not closed"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(written, content, sentence):
    path = written(content)
    with pytest.raises(DataFileError, match=re.escape(sentence)) as raised:
        read_table(path)
    text = str(raised.value)
    assert text.startswith(str(path))
    assert text.endswith(".")
    assert len(text) < 400


def test_a_folder_in_place_of_a_table_is_told(tmp_path):
    with pytest.raises(DataFileError, match="is a folder; a CSV file with the columns path and label is expected"):
        read_table(tmp_path)


# ---- where the images are -----------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    for name in ("train/ant/0.png", unicodedata.normalize("NFD", "é/ü.png"), "x.png", "._x.png", "test.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "test.csv").write_text("path,label\ntest.png,cat\n")
    return tmp_path


def read(folder, *paths):
    (folder / "train.csv").write_text("path,label\n" + "".join(f"{path},cat\n" for path in paths))
    return csv_files(folder / "train.csv", folder / "test.csv").train.inputs


@pytest.mark.parametrize("listed", [r"train\ant\0.png", r".\train\ant\0.png", r"{root}\train/ant/0.png"])
def test_backslashes_lead_to_the_file_that_they_mean(images, caplog, listed):
    caplog.set_level("INFO")
    listed = listed.format(root=images)
    files = read(images, "x.png", listed)
    assert files.path(1).resolve() == images / "train" / "ant" / "0.png"
    assert files[1].shape == (3, 4, 4)
    assert (
        f"train.csv: 1 of 2 paths are spelled otherwise on disk (slashes or accents), such as {listed!r} as"
        in caplog.text
    )


def test_a_file_whose_name_has_a_backslash_is_itself(images, caplog):
    Image.new("RGB", (9, 9)).save(images / r"train\ant\0.png", "PNG")
    assert read(images, r"train\ant\0.png")[0].shape == (3, 9, 9)
    assert caplog.text == ""


def test_accents_lead_to_the_file_that_they_mean(images):
    composed, apart = (unicodedata.normalize(form, "é/ü.png") for form in ("NFC", "NFD"))
    files = read(images, composed, apart)
    assert files.paths() == [apart, apart]
    assert files[0].shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("listed", "sentence"),
    [
        (r"train\ant\9.png", r"train\ant\9.png is missing, with 0 more of the 1 files that"),
        (r"C:\data\x.png", r"C:\data\x.png is missing"),
        ("train/ant", "train/ant is a folder, with 0 more"),
        ("gone.png", "gone.png is missing"),
        ("x" * 300, "is missing"),
        ("a/" * 3000, "is missing"),
        ("._x.png", "train.csv lists hidden files alone, such as ._x.png, but images are expected"),
    ],
)
def test_a_path_that_leads_to_no_file_is_told(images, listed, sentence):
    (images / "gone.png").symlink_to(images / "nowhere.png")
    with pytest.raises(DataFileError, match=re.escape(sentence)):
        read(images, listed)


def test_hidden_files_are_left_out_of_a_table_as_of_a_folder(images, caplog):
    caplog.set_level("INFO")
    files = read(images, "x.png", "._x.png", "__MACOSX/._x.png", "train/.ipynb_checkpoints/0.png", "Thumbs.db")
    assert files.paths() == ["x.png"]
    assert "train.csv: 4 of 5 rows are left out: hidden or of a system (such as ._x.png)." in caplog.text
