"""The tables of the results page are those of the runs that lie beside it."""

from __future__ import annotations

import importlib
import re
import shutil
import tarfile

import pytest

from helpers import ROOT

ARCHIVES = sorted((ROOT / "docs" / "runs").glob("*.tar.xz"))


def lines_of(page):
    """All lines but the one with the machine that has written the tables, and the day."""
    return [line for line in page.read_text().splitlines() if not re.match(r"\d+ of \d+ runs, seeds", line)]


def test_there_are_runs():
    assert ARCHIVES


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_the_tables_of_the_results_page_are_those_of_the_runs_beside_it(archive, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    benchmark = importlib.import_module("benchmark")
    name = archive.name.removesuffix(".tar.xz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    folder, suite = tmp_path / name, benchmark.read_suite(name)
    suite["models"] = {model: of for model, of in suite["models"].items() if (folder / model).exists()}
    cells = benchmark.cells(suite)
    places = [(cell.model, cell.row, cell.column, folder / cell.path) for cell in cells]
    # A few of them, as composing all settings takes long.
    for cell in [cell for cell in cells if (folder / cell.path).exists()][::20]:
        assert benchmark.is_finished(folder, cell), cell.path
    page = tmp_path / "results.md"
    shutil.copyfile(ROOT / "docs" / "results.md", page)
    importlib.import_module("benchmark_report").write_report(suite, places, len(cells), folder, page)
    assert lines_of(page) == lines_of(ROOT / "docs" / "results.md")
    shown = re.findall(r"!\[.*?\]\((images/.*?)\)", page.read_text())
    assert len(shown) >= 2
    assert all((ROOT / "docs" / picture).exists() for picture in shown)
