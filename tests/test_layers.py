"""Imports point downward only: each folder imports those that its rule names, whatever is loaded when."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from source_tree import ROOT, Tree, package_tree

US = "alignprune_pl"
TREE = package_tree()
TENSORS = {"core", "scores", "policies"}
BELOW_CALLBACK = {*TENSORS, "fit"}
# Of each folder and each file at the root, what of ours it imports besides itself; None for anything.
RULES: dict[str, set[str] | None] = {
    "core": set(),
    "scores": {"core"},
    "policies": {"core"},
    "noise": {"core"},
    "data": {"core", "noise"},
    "models": set(),
    "report": set(),
    "fit": TENSORS,
    "functional": TENSORS,
    "callback": BELOW_CALLBACK,
    "training": {*BELOW_CALLBACK, "callback", "data", "models", "noise", "report"},
    "cli": None,
    "__init__": None,
}
LIGHTNING = {"lightning", "pytorch_lightning"}
HYDRA = {"hydra", "omegaconf"}
# Of each folder, what of others it does not import.
STRANGERS: dict[str, set[str]] = {
    **dict.fromkeys(RULES, HYDRA),
    **dict.fromkeys(("core", "scores", "policies", "noise", "functional"), LIGHTNING | HYDRA),
    "report": {"torch", "torchvision", "torchmetrics"} | LIGHTNING | HYDRA,
    "cli": set(),
}


def part_of(path: str) -> str:
    """The folder that a file is in, or its own name at the root."""
    return path.split("/")[0].removesuffix(".py")


def imports_of(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports anywhere, in functions and for type checkers too."""
    package = [US, *path.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def wrong_imports(tree: Tree) -> list[str]:
    """Every import that a rule forbids, and every part that has no rule."""
    parts = {part_of(path) for path in tree} | set(RULES)
    found = [f"{part} has no rule" for part in sorted(parts - set(RULES))]
    for path, source in tree.items():
        part = part_of(path)
        allowed, strangers = RULES.get(part, set()), STRANGERS.get(part, set())
        for line, name in imports_of(path, source):
            top, *rest = name.split(".")
            # A public name of the package's own is loaded by what is above all others.
            target = (rest[0] if rest and rest[0] in parts else "__init__") if top == US else None
            is_wrong = target not in (None, part) and allowed is not None and target not in allowed
            if is_wrong or top in strangers:
                found.append(f"{path}:{line} imports {name}")
    return found


def at_the_root(tree: Tree) -> list[str]:
    return [path for path in tree if "/" not in path]


def folders(tree: Tree) -> set[str]:
    return {path.split("/")[0] for path in tree if "/" in path}


def test_every_import_points_downward():
    assert wrong_imports(TREE) == []


WRONG = {
    "core/plan.py": "from alignprune_pl.scores import Score",
    "core/a.py": "import lightning.pytorch as pl",
    "core/deep/er.py": "from ...fit import loop",
    "scores/a.py": "from alignprune_pl.policies.subsets import indices",
    "scores/b.py": "from ..policies import UCB",
    "policies/a.py": "import alignprune_pl.fit.loop",
    "policies/b.py": "from alignprune_pl import callback",
    "policies/c.py": "from .. import fit",
    "policies/d.py": "from alignprune_pl import AlignPrune",
    "policies/e.py": "import alignprune_pl",
    "policies/f.py": "import os, pytorch_lightning",
    "noise/a.py": "def f():\n    from alignprune_pl.data import Part",
    "noise/b.py": "def f():\n    import hydra",
    "data/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from alignprune_pl.fit.run import Run",
    "data/b.py": "from omegaconf import DictConfig",
    "models/a.py": "from alignprune_pl.core.plan import EpochPlan",
    "report/a.py": "from alignprune_pl.core.plan import EpochPlan",
    "report/b.py": "class A:\n    def f(self):\n        import torch.nn as nn",
    "fit/a.py": "from alignprune_pl.callback import AlignPrune",
    "fit/b.py": "import importlib\nimportlib.import_module('alignprune_pl.noise')",
    "fit/c.py": "__import__('alignprune_pl.data.splits')",
    "functional.py": "from alignprune_pl.noise import Symmetric",
    "callback.py": "from alignprune_pl.training.classifier import Classifier",
    "training/a.py": "from alignprune_pl.cli.train import train",
    "training/b.py": "from hydra.utils import instantiate",
}


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_import_is_found_wherever_it_stands(path):
    found = wrong_imports({path: WRONG[path]})
    assert len(found) == 1
    assert found[0].startswith(f"{path}:{len(WRONG[path].splitlines())} imports ")


def test_a_folder_without_a_rule_is_found():
    assert wrong_imports({"misc/a.py": ""}) == ["misc has no rule"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/plan.py", "import torch\nfrom alignprune_pl.core import checking\nfrom . import registry"),
        ("policies/a.py", "from alignprune_pl import core\nfrom ..core.plan import EpochPlan"),
        ("fit/a.py", "import lightning\nfrom alignprune_pl.policies import Policy"),
        ("report/a.py", "from .page import Page\nimport numpy"),
        ("callback.py", "from alignprune_pl.fit import loop"),
        ("training/a.py", "from alignprune_pl.callback import AlignPrune\nimport alignprune_pl.report.page"),
        ("cli/a.py", "import hydra, torch\nfrom alignprune_pl import AlignPrune"),
        ("__init__.py", "from alignprune_pl.cli import train"),
    ],
)
def test_a_right_import_is_let_through(path, source):
    assert wrong_imports({path: source}) == []


def test_the_packages_root_holds_four_files_at_most():
    assert len(at_the_root(TREE)) <= 4
    assert at_the_root({"a.py": "", "core/plan.py": "", "core/deep/er.py": ""}) == ["a.py"]


def test_the_page_on_the_architecture_names_every_folder_and_no_file_that_is_not_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert {folder for folder in folders(TREE) if f"{folder}/" not in page} == set()
    there = {path.split("/")[-1] for path in TREE} | {path.name for path in (ROOT / "tests").rglob("*.py")}
    assert set(re.findall(r"\b\w+\.py\b", page)) - there == set()


# ---- what is loaded in a process ----------------------------------------------------------------------------


def loading(unwanted: set[str], modules: list[str]) -> list[str]:
    """The modules after whose import, one after the other in one process, another of the unwanted packages is loaded."""
    code = (
        "import importlib, sys\n"
        f"left = {unwanted!r}\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(f'alignprune_pl.{name}')\n"
        "    if left & set(sys.modules): print(name)\n"
        "    left -= set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def modules(*parts: str) -> list[str]:
    """All modules of these parts."""
    return [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in TREE if part_of(path) in parts
    ]


def test_the_core_loads_neither_lightning_nor_hydra():
    core = modules("core", "scores", "policies", "noise", "functional")
    assert len(core) > 30
    assert loading({"lightning", "pytorch_lightning", "hydra"}, [*core, "callback"]) == ["callback"]


def test_reports_are_drawn_without_torch():
    assert loading({"torch", "lightning", "hydra"}, [*modules("report"), "core.plan"]) == ["core.plan"]


def test_the_commands_alone_need_hydra():
    above = modules("callback", "fit", "training", "data", "models", "report")
    assert loading({"hydra"}, [*above, "cli.train"]) == ["cli.train"]


def test_every_public_name_loads():
    import alignprune_pl

    assert all(getattr(alignprune_pl, name) is not None for name in alignprune_pl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = alignprune_pl.Nothing


# What may import by a name that is made up while it runs: the lazy ones.
BY_NAME = {"__init__.py", "cli/__init__.py", "report/__init__.py"}


def imported_by_name(tree: Tree) -> list[str]:
    """Where a module could be imported past the rule, by a name that a walk of imports cannot read."""
    means = ("importlib.import_module", "importlib.util", "importlib.machinery", "pkgutil", "runpy", "imp")
    return [
        f"{path}:{line}"
        for path, source in tree.items()
        if path not in BY_NAME
        for line, name in [*imports_of(path, source), *calls_of_import(source)]
        if name == "importlib" or any(name == way or name.startswith(f"{way}.") for way in means)
    ]


def calls_of_import(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id == "__import__":
            yield node.lineno, "importlib"


def private_of_lightning(tree: Tree) -> list[str]:
    """Where a private name is imported out of Lightning."""
    return [
        f"{path}:{line}"
        for path, source in tree.items()
        if path != "fit/loop.py"
        for line, name in imports_of(path, source)
        if name.split(".")[0] in LIGHTNING and any(part.startswith("_") for part in name.split("."))
    ]


def test_nothing_is_imported_by_a_name_that_the_rule_cannot_read():
    assert imported_by_name(TREE) == []


def test_private_names_of_lightning_are_imported_by_one_file():
    assert private_of_lightning(TREE) == []
    assert private_of_lightning({"fit/other.py": TREE["fit/loop.py"]}) != []


@pytest.mark.parametrize(
    "source",
    [
        "import importlib",
        "from importlib import import_module as im",
        "import importlib.util",
        "from pkgutil import resolve_name",
        "import runpy",
        "__import__('alignprune_pl.fit.loop')",
    ],
)
def test_an_import_by_name_is_found_however_it_is_made(source):
    assert imported_by_name({"core/made_up.py": source}) == ["core/made_up.py:1"]
    assert imported_by_name({"core/made_up.py": "from importlib.metadata import version"}) == []
