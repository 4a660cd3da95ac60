"""The pages under docs/ name tests that exist, and say of each setting what is done about it."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from alignprune_pl.cli.command_line import add_ratios
from alignprune_pl.report import read_run
from alignprune_pl.report.audit import audit, write_table
from helpers import ROOT, run_code

SETTINGS = (ROOT / "docs" / "trainer-settings.md").read_text()


def test_every_test_that_the_docs_name_exists():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^def (test_\w+)", tests, flags=re.MULTILINE))
    arrays = {"test_x", "test_y"}  # of a NumPy file
    named = {name for page in (ROOT / "docs").rglob("*.md") for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named) > 50
    assert named - arrays - there == set()


def test_every_row_of_the_settings_has_a_test_or_says_that_it_has_none():
    rows = [line for line in SETTINGS.splitlines() if line.startswith("| ") and not line.startswith("| setting")]
    assert len(rows) > 60
    for row in rows:
        _, _, done, test, _ = (cell.strip() for cell in row.split("|"))
        assert done
        assert test.startswith("`test_") or done.startswith("untested"), row


# What the page for those who come from elsewhere takes for given, as it says.
GIVEN = """
import lightning.pytorch as pl, torch, torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

x = torch.randn(400, 4)
y = (x[:, 0] > 0).long()
train_set, clean_set = TensorDataset(x[:300], y[:300]), TensorDataset(x[300:], y[300:])
train_loader, clean_loader = DataLoader(train_set, batch_size=64, shuffle=True), DataLoader(clean_set, batch_size=64)
net = torch.nn.Linear(4, 2)


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""
CHECKED = {
    "coming-from 0": "assert 0.1 < prune.summary()['saved'] < 0.5",
    "coming-from 4": "ask = Ask(epoch=3, generator=ask.generator)\n"
    "assert 150 < len(policy.plan(Scores(losses, low_is='easy'), ask).keep) < 300",
}


def blocks():
    """Every block of Python on the pages that have no test of their own for theirs."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        if page.stem in ("scores", "index", "das"):  # tested below, and in test_configs.py
            continue
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)):
            name, given = f"{page.stem} {number}", GIVEN if page.stem == "coming-from" else ""
            yield pytest.param(f"{given}{code}{CHECKED.get(name, '')}", id=name)


@pytest.mark.parametrize("code", list(blocks()))
def test_every_block_of_python_runs_as_it_stands(code, run_dir, tmp_path):
    table = audit(read_run(run_dir), every=True)
    write_table(tmp_path / "label_issues.csv", table)
    features = np.random.default_rng(0).normal(size=(len(table["index"]), 3))
    np.savetxt(tmp_path / "features.csv", features, delimiter=",", header="a,b,c", comments="")
    done = run_code(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_page_on_das_says_what_its_example_prints(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/das.md").read_text(), flags=re.DOTALL)
    said = [float(number) for number in re.findall(r"-?\d\.\d\d", code.partition("print(")[2])]
    done = run_code(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [float(number) for number in re.findall(r"-?\d\.\d+", done.stdout)] == pytest.approx(said, abs=0.006)


def test_the_quick_start_shows_how_many_labels_are_wrong(tmp_path):
    short, code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/index.md").read_text(), flags=re.DOTALL)
    assert {line for line in short.splitlines() if line} <= set(code.splitlines())  # the lines that matter
    done = run_code(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 5 <= int(re.search(r"about (\d+)% of the labels are wrong", done.stdout)[1]) <= 45  # three in ten are


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation as it is built."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_documentation_has_no_broken_link_and_every_public_name(site):
    import alignprune_pl

    reference = "\n".join(page.read_text() for page in (site / "api").rglob("*.html"))
    for name in alignprune_pl.__all__:
        assert re.search(rf'id="alignprune_pl\.[a-z_.]*{name}"', reference), name
    assert ":class:" not in reference


def test_its_pages_ask_no_other_server_for_anything(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        assert not re.findall(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//[^"]*"', text), page
        assert not re.findall(r'<link[^>]* rel="(?:stylesheet|preconnect)"[^>]* href="(?:https?:)?//[^"]*"', text), page


def test_the_tutorials_notebook_is_a_page_with_its_pictures_and_is_there_itself(site):
    page = (site / "tutorial/index.html").read_text()
    assert "labels are listed" in page
    assert 'src="data:image/png;base64,' in page
    assert 'href="../tutorial.ipynb"' in page
    assert (site / "tutorial.ipynb").exists()
    assert 'href="tutorial/"' in (site / "index.html").read_text().partition("Where to go next")[2]


def test_formulas_are_shown_without_a_script(site):
    page = (site / "hosts/calibrated/index.html").read_text()
    assert page.count("<math") == (ROOT / "docs/hosts/calibrated.md").read_text().count("```math") > 0
    assert "\\frac" not in page
    assert "<math" in (site / "hosts/infobatch/index.html").read_text().partition("the score of sample i")[2][:200]


def commands():
    """Every command line of the training script in the documentation and in the heads of the settings' files."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
    for page in sorted(pages):
        text = page.read_text().replace("\\\n", " ")
        for command in re.findall(r"python scripts/train\.py ([^`\n[]*=[^`\n]*)", text):
            yield pytest.param(command, id=f"{page.name}: {command}"[:80])


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_of_the_training_script_that_is_written_somewhere_can_be_composed(command):
    words = [word for word in command.split("#")[0].split() if word != "-m"]
    assert all("=" in word for word in words), words
    overrides = [word.split(",")[0] for word in words]  # of a sweep, the first run
    add_ratios(overrides)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose("train", overrides)


def test_many_commands_are_written():
    assert len(list(commands())) > 30
