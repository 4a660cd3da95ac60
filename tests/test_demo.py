"""The demo trains three times, and shows what calibrated pruning is for."""

from __future__ import annotations

import re

from helpers import run_script


def test_the_demo_ends_with_a_table_in_which_calibrated_wins_and_a_page(tmp_path):
    done = run_script("demo.py", "trainer.max_epochs=12", "trainer.accelerator=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [re.sub(r"[│┃]", "|", line).strip("| ") for line in done.stdout.splitlines() if line.startswith(("│", "┃"))]
    head, *body = [[cell.strip() for cell in line.split("|")] for line in lines]
    figures = {name: [float(cell.rstrip(" %")) for cell in cells] for name, *cells in body}
    assert head == ["accuracy", "saved", "wrong labels kept"]
    (plain, of_paper, calibrated) = figures.values()
    assert plain[1:] == [0.0, 40.0]
    assert calibrated[0] > max(plain[0], of_paper[0]) + 10
    assert calibrated[2] < 20 < of_paper[2]
    assert all(len(line) <= 120 for line in done.stdout.splitlines())
    page = tmp_path / re.search(r"Open (\S+\.html)", done.stdout)[1]
    assert "pruning=calibrated" in page.read_text()
