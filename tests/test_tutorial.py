"""The tutorial's notebook runs from top to bottom, and shows what running it prints."""

from __future__ import annotations

import json
import re
import statistics

import pytest

from helpers import ROOT, load_script, run_code

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
run_notebook = load_script("run_notebook")
KEPT = run_notebook.code_cells(run_notebook.read(NOTEBOOK))


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Its cells of code after all of them have run, in order."""
    folder = tmp_path_factory.mktemp("tutorial")
    code = (
        f"import json, sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT / 'scripts')!r})\nimport run_notebook\n"
        f"notebook = run_notebook.read(Path({str(NOTEBOOK)!r}))\nrun_notebook.run(notebook)\n"
        "Path('ran.json').write_text(json.dumps(notebook))\n"
    )
    done = run_code(code, cwd=folder, env={"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return run_notebook.code_cells(json.loads((folder / "ran.json").read_text()))


def printed(cell):
    return "".join("".join(one["text"]) for one in cell["outputs"] if one.get("name") == "stdout")


def words(text):
    """What is printed, whatever its figures: they differ a little from one processor to another."""
    return re.sub(r"\d+(\.\d+)?", "#", text).split()


def test_it_runs_from_top_to_bottom_and_prints_what_it_shows(cells):
    assert [words(printed(cell)) for cell in cells] == [words(printed(cell)) for cell in KEPT]
    assert sum(bool(printed(cell)) for cell in cells) >= 7


def test_what_it_shows_is_of_one_run_and_names_no_place_on_a_machine():
    assert [cell["execution_count"] for cell in KEPT] == list(range(1, len(KEPT) + 1))
    shown = [out for cell in KEPT for out in cell["outputs"]]
    assert any("image/png" in out.get("data", {}) for out in shown)
    assert not re.search(
        r"site-packages|Traceback|/home|/tmp|\.py:", json.dumps([out.get("text", "") for out in shown])
    )


def test_pruned_and_mended_training_end_above_full_training(cells):
    percents = [[float(n) for n in re.findall(r"([\d.]+)%", line)] for line in printed(cells[-1]).splitlines()[1:]]
    full, pruned, mended, estimated = (statistics.mean(column) for column in zip(*percents, strict=True))
    assert pruned > full
    assert mended > full
    assert estimated == pytest.approx(32, abs=12)


def test_most_labels_of_the_audit_are_wrong(cells):
    (text,) = [printed(cell) for cell in cells if "labels are listed" in printed(cell)]
    right, found = (float(n) for n in re.findall(r"([\d.]+)%", text))
    assert right > 90
    assert found > 70


def test_a_notebook_is_a_page_with_what_its_cells_show():
    page = run_notebook.markdown(run_notebook.read(NOTEBOOK))
    for cell in KEPT:
        assert "".join(cell["source"]) in page
        assert printed(cell).rstrip() in page
    assert page.startswith("# Tutorial")
    assert '<img alt="The sixteen' in page
