"""Tables as CSV are read as they were written, by ours and by what others read them with, nothing set."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignprune_pl.report import read_table, run_files
from alignprune_pl.report.audit import write_table
from alignprune_pl.report.csv_table import csv_of

PLAIN = ["cat", "crane, bird", 'a "b" c', "Zürich", "日本", "#a", "1,5", "2020-01-01", "=1+1", "n01440764/x.JPEG", "-"]
# What pandas or polars takes for a number, nothing or a truth value, or does not read as it is.
TAKEN = ["NA", "None", "nan", "NaN", "null", "N/A", "<NA>", "#N/A", "1.#IND", "01", "7", "1e5", "-3.", "inf"]
TAKEN += [
    "Infinity",
    "true",
    "False",
    "TRUE",
    "",
    " lead",
    "tail ",
    '"quoted"',
    "two\nlines",
    "a\r\nb",
    "\0",
    "na\udcffme",
    "٣",
]
SCORES = [0.1, math.nan, 1 / 3, 5e-324, 1.0, float(np.float32(0.3)), -1e300, math.inf]


def of_polars(path):
    polars = pytest.importorskip("polars")
    return {column.name: column.to_list() for column in polars.read_csv(path).iter_columns()}


def of_pandas(path):
    return {name: column.tolist() for name, column in pandas.read_csv(path).items()}


def of_ours(path):
    return {name: column.tolist() for name, column in read_table(path).items()}


@pytest.fixture(params=[of_ours, of_pandas, of_polars], ids=lambda read: read.__name__)
def read(request):
    return request.param


def written(path, names):
    """A table of these names beside numbers of all kinds."""
    some = [SCORES[at % len(SCORES)] for at in range(len(names))]
    table = {"index": np.arange(len(names)), "name": np.array(names, dtype=object), "score": np.array(some)}
    write_table(path, {**table, "is_issue": np.arange(len(names)) % 2 == 0})
    return path


@pytest.mark.parametrize("names", [PLAIN, TAKEN, PLAIN + TAKEN, ["01"], ["NA"] * 3, ["true", "false"], [""]], ids=repr)
def test_numbers_and_truth_values_are_the_same_whoever_reads_and_so_are_names_that_are_words(tmp_path, read, names):
    table = read(written(tmp_path / "table.csv", names))
    assert table["index"] == list(range(len(names)))
    assert np.array_equal(table["score"], [SCORES[at % len(SCORES)] for at in range(len(names))], equal_nan=True)
    assert table["is_issue"] == [at % 2 == 0 for at in range(len(names))]
    for name, cell in zip(names, table["name"], strict=True):
        if read is of_ours or name in PLAIN:
            assert cell == name
        else:  # in quotes, of which none is lost
            assert cell[0] == cell[-1] == '"'
            assert len(set(table["name"])) == len(set(names))


ODD = st.text("0123456789eE+-.naNAfilstrue\"' _<>#/\n", max_size=6)


@given(st.lists(st.text(st.characters(codec=None)) | ODD, min_size=1))
def test_any_name_comes_back_and_no_reader_takes_two_for_one(tmp_path_factory, names):
    path = written(tmp_path_factory.getbasetemp() / "any.csv", names)
    assert of_ours(path)["name"] == names
    cells = of_pandas(path)["name"]
    assert all(isinstance(cell, str) for cell in cells)
    assert len(set(cells)) == len(set(names))


def test_figures_by_epoch_are_numbers_where_the_first_hundred_are_not_known(tmp_path, read):
    rows = [{"epoch": epoch, "train/loss": math.nan if epoch == 1 else 0.1 + epoch} for epoch in range(150)]
    rows[120]["val/acc"] = 0.7
    run_files.write_epochs(tmp_path, rows)
    table = read(tmp_path / "epochs.csv")
    assert table["epoch"] == list(range(150))
    assert np.array_equal(table["train/loss"], [row["train/loss"] for row in rows], equal_nan=True)
    assert np.array_equal(table["val/acc"], [math.nan] * 120 + [0.7] + [math.nan] * 29, equal_nan=True)
    ours = run_files.read_epochs(tmp_path)
    assert all(np.array_equal(ours[name], table[name], equal_nan=True) for name in table)


def test_cells_of_older_files_that_are_empty_are_not_known(tmp_path):
    (tmp_path / "epochs.csv").write_text("epoch,val/acc\r\n0,\r\n1,0.5\r\n")
    assert np.array_equal(run_files.read_epochs(tmp_path)["val/acc"], [math.nan, 0.5], equal_nan=True)


def test_a_row_that_is_cut_is_told(tmp_path):
    (tmp_path / "epochs.csv").write_bytes(csv_of(["epoch", "val/acc"], [(0, 0.5), (1, 0.25)])[:-7])
    with pytest.raises(ValueError, match=r"epochs\.csv is damaged"):
        run_files.read_epochs(tmp_path)
