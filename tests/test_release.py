"""What is released works outside the repository."""

from __future__ import annotations

import json
import re
import zipfile

import pytest
import yaml
from packaging.version import Version

from helpers import ROOT, run_code


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an installation of the wheel; nothing else of ours is found from there."""
    folder = tmp_path_factory.mktemp("wheel")
    # The hook that pyproject.toml names, as every front end calls it: in the project's folder.
    code = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    done = run_code(code, str(folder), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(code, *arguments, installed, cwd):
    """In a process that has forgotten the working copy and finds the installation first."""
    before = (
        "import sys; sys.path.insert(0, {!r})\n"
        "for name in [name for name in sys.modules if name.split('.')[0] == 'alignprune_pl']: del sys.modules[name]\n"
    )
    return run_code(before.format(str(installed)) + code, *arguments, cwd=cwd)


def test_the_command_of_the_wheel_trains_in_an_empty_folder(installed, tmp_path):
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "alignprune-train = alignprune_pl.cli:alignprune_train" in entry.read_text()
    code = "import alignprune_pl.cli as cli; print(cli.__file__); cli.alignprune_train()"
    settings = ("noise=sym20", "model.hidden=[8]", "trainer.max_epochs=1", "trainer.accelerator=cpu", "report=false")
    done = run(code, *settings, "hydra.run.dir=run", installed=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout.splitlines()[0]
    assert json.loads((tmp_path / "run/summary.json").read_text())["options"]["noise"] == "sym20"


def test_the_command_reads_the_configuration_that_the_wheel_carries(installed, tmp_path):
    (installed / "alignprune_pl/configs/dataset/digits.yaml").rename(tmp_path / "digits.yaml")
    try:
        code = "from alignprune_pl.cli import alignprune_train; alignprune_train()"
        done = run(code, "dataset=digits", installed=installed, cwd=tmp_path)
    finally:
        (tmp_path / "digits.yaml").rename(installed / "alignprune_pl/configs/dataset/digits.yaml")
    assert done.returncode == 1
    assert "Could not find 'dataset/digits'" in done.stderr
    assert len(list(installed.glob("alignprune_pl/configs/**/*.yaml"))) == len(list((ROOT / "configs").rglob("*.yaml")))


def test_the_wheel_has_every_file_of_the_package_those_that_are_no_code_too(installed):
    package = ROOT / "src" / "alignprune_pl"
    files = {path.relative_to(package) for path in package.rglob("*.*") if path.suffix != ".pyc"}
    assert {path.name for path in files if path.suffix != ".py"} >= {"py.typed", "page.html"}
    assert [file for file in files if not (installed / "alignprune_pl" / file).exists()] == []


def test_without_the_extra_the_command_says_what_to_install(installed, tmp_path):
    code = (
        "import sys; sys.modules['hydra'] = None\n"  # what an import of it then says
        "from alignprune_pl.cli import alignprune_train; alignprune_train()"
    )
    done = run(code, installed=installed, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: hydra")
    assert "pip install '.[train]'" in done.stderr


def test_the_lowest_versions_that_are_tried_are_those_that_are_allowed():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = dict(re.match(r"([\w-]+)>=([\d.]+)", each).groups() for each in project["dependencies"])
    tried = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests/lowest.txt").read_text(), flags=re.MULTILINE))
    assert {name: Version(version) for name, version in tried.items()} == {
        name: Version(version) for name, version in allowed.items()
    }


def test_every_command_of_the_wheel_has_its_function(installed):
    import alignprune_pl.cli

    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    commands = re.findall(r"^(alignprune-\w+) = alignprune_pl\.cli:(\w+)$", entry.read_text(), flags=re.MULTILINE)
    assert [name for name, _ in commands] == ["alignprune-audit", "alignprune-report", "alignprune-train"]
    assert all(callable(getattr(alignprune_pl.cli, function)) for _, function in commands)


def test_the_version_stands_in_one_place_and_is_cited():
    import alignprune_pl

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == alignprune_pl.__version__
    assert cited["references"][0]["url"] == "https://arxiv.org/abs/2604.07306"
    assert f"## {alignprune_pl.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_badges_are_true():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (lightning,) = (line for line in project["dependencies"] if line.startswith("lightning>="))
    said = {
        "python": f"python: {project['requires-python'].removeprefix('>=')} or newer",
        "lightning": f"lightning: {lightning.removeprefix('lightning>=').partition(',')[0]} or newer",
        "license": f"license: {project['license']}",
    }
    shown = re.findall(r"docs/images/badge-(\w+)\.svg", (ROOT / "README.md").read_text())
    assert set(shown) == set(said)
    for name, words in said.items():
        assert f'aria-label="{words}"' in (ROOT / f"docs/images/badge-{name}.svg").read_text()
