"""The tables of the results pages are those of the runs that lie beside them, and what is said of scores is in a table."""

from __future__ import annotations

import importlib
import re
import shutil
import tarfile

import pytest

from helpers import ROOT

PAGES = ["results-tables.md", "results.md"]
FINDING = "finding-wrong-labels"
ARCHIVES = sorted((ROOT / "docs" / "runs").glob("*.tar.xz"))


def lines_of(page):
    """All lines, without what runs do not note of how they were made: their machine, and in which zone a day is."""
    counted = re.compile(r"(\d+ of \d+ runs, seeds .* in percent\. ).*?(torch .*); [\d-]+\.")
    return [counted.sub(r"\1\2", line) for line in page.read_text().splitlines()]


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
    pages = [tmp_path / page for page in PAGES]
    for page in pages:
        shutil.copyfile(ROOT / "docs" / page.name, page)
    importlib.import_module("benchmark_report").write_report(suite, places, len(cells), folder, pages)
    for page in pages:
        assert lines_of(page) == lines_of(ROOT / "docs" / page.name)
    shown = re.findall(r"!\[.*?\]\((images/.*?)\)", pages[0].read_text())
    assert len(shown) >= 2
    assert all((ROOT / "docs" / picture).exists() for picture in shown)


def tables(text, columns):
    """Cells by the names of row and column, of each table whose last columns have these names."""
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        head, _, *lines = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines())
        if head[1:] == columns:
            yield {line[0].strip("`"): dict(zip(head[1:], line[1:], strict=True)) for line in lines}


@pytest.mark.parametrize("number", [0, 1], ids=["none", "calibrated"])
def test_the_page_on_finding_wrong_labels_shows_figures_of_the_tables_beside_it(number):
    """Average precision after the last epoch."""
    short, long = ((ROOT / "docs" / page).read_text() for page in (f"{FINDING}.md", f"{FINDING}-tables.md"))
    noises = ["20 % at random", "50 % at random", "40 % pair flip", "40 % by the image"]
    shown = list(tables(short, noises))[number]
    policy = long[long.index("## Calibrated pruning" if number else "## Without pruning") :]
    each = list(tables(policy, ["3", "5", "10", "20", "30"]))[1 : 2 * len(noises) : 2]  # the others are AUROC
    assert shown == {
        score: {noise: table[score]["30"] for noise, table in zip(noises, each, strict=True)} for score in shown
    }
    assert len(shown) >= 5
