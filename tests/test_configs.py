"""Every policy and score has an option on the command line, with its defaults, and a place in the docs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from alignprune_pl import AlignPrune
from alignprune_pl.cli.command_line import add_ratios
from alignprune_pl.data import NoisyData
from alignprune_pl.policies import POLICIES
from alignprune_pl.scores import SCORES

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "hosts"
BOTH = [("pruning", name) for name in POLICIES.names()] + [("score", name) for name in SCORES.names()]


def class_of(group: str, name: str) -> type:
    cls = POLICIES.get(name) if group == "pruning" else SCORES.get(name)
    cls()  # by which Python gives a class that derives from a protocol its own signature
    return cls


@pytest.mark.parametrize(("group", "name"), BOTH)
def test_the_option_has_every_parameter_with_its_default(group, name):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        option = OmegaConf.to_container(compose("train", [f"{group}={name}"])[group])
    assert get_class(option.pop("_target_")) is class_of(group, name)
    parameters = inspect.signature(class_of(group, name)).parameters.values()
    if host := option.pop("host", None):
        assert repr(instantiate(host)) == repr(class_of(group, name)().host)
    assert option == {p.name: p.default for p in parameters if p.name != "host"}


# What the command passes: parts that groups of their own choose, what the data have, and the labels of a file.
GIVEN = {"reference", "policy", "score", "noise_mask", "probe_data", "benchmark", "noise", "mended"}
# What it has no use for: its data sets are no streams, and the folder of a run names all samples.
GIVEN |= {"key", "sharded"}
# What stands in one place for several: the run's seed, and the share of the reference.
SHARED = {"seed": 0, "reference_share": 0.01}


@pytest.mark.parametrize(("node", "cls"), [("callback", AlignPrune), ("data", NoisyData)])
def test_every_argument_of_callback_and_data_module_can_be_set(node, cls):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        option = OmegaConf.to_container(compose("train", ["dataset=fashion_mnist"])[node], resolve=True)
    assert get_class(option.pop("_target_")) is cls
    defaults = {p.name: p.default for p in inspect.signature(cls).parameters.values() if p.name not in GIVEN}
    if "storage_dtype" in defaults:
        assert str(defaults["storage_dtype"]) == f"torch.{option['storage_dtype']}"
        defaults["storage_dtype"] = option["storage_dtype"]
    assert option == {**defaults, **{name: SHARED[name] for name in SHARED if name in defaults}}


@pytest.mark.parametrize("node", ["callback", "data"])
def test_every_argument_has_a_comment(node):
    lines = (ROOT / "configs" / node / "default.yaml").read_text().splitlines()
    assert all(" # " in line for line in lines if re.match(r"\w+: ", line) and not line.startswith("_target_"))


@pytest.mark.parametrize("name", POLICIES.names())
def test_every_host_has_a_page_with_its_rule_source_parameters_and_use(name):
    page = (PAGES / f"{name}.md").read_text()
    cls = class_of("pruning", name)
    assert cls.__name__ in page
    for words in ("## The rule", "**Source**", "When to use it", "How to run it", "Which end of the score"):
        assert words in page, words
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, flags=re.MULTILINE))
    expected = {p.name: p.default for p in inspect.signature(cls).parameters.values()}
    assert {key: value.strip('"') for key, value in rows.items()} == {k: str(v) for k, v in expected.items()}
    assert f"[`{name}`]({name}.md)" in (PAGES / "index.md").read_text()


@pytest.mark.parametrize("name", SCORES.names())
def test_the_docs_state_of_every_score_what_low_means_and_what_it_needs(name):
    score = SCORES.get(name)()
    (row,) = re.findall(rf"^\| `{name}` .*$", (ROOT / "docs" / "scores.md").read_text(), flags=re.MULTILINE)
    cells = [cell.strip().strip("`") for cell in row.split("|")[1:-1]]
    needs = "yes" if score.needs_reference else "no"
    assert cells[1] == type(score).__name__
    assert cells[3:6] == [score.low_is, needs, score.observes]


def snippets() -> list[tuple[str, str]]:
    pages = [*PAGES.glob("*.md"), ROOT / "docs" / "scores.md"]
    found = [
        (p.stem, s) for p in sorted(pages) for s in re.findall(r"```python\n(.*?)```", p.read_text(), flags=re.DOTALL)
    ]
    assert len(found) >= len(POLICIES.names())
    return found


@pytest.mark.parametrize(("page", "snippet"), snippets())
def test_the_code_on_the_pages_runs(page, snippet):
    import torch
    from torch.utils.data import TensorDataset

    names = {"clean_loader": TensorDataset(torch.zeros(2, 3), torch.zeros(2))}
    exec(snippet, names)
    assert isinstance(names["prune"], AlignPrune)


@pytest.mark.parametrize(
    ("noise", "ratio"), [("sym40", 0.4), ("asym5", 0.05), ("pairflip45", 0.45), ("instance0", 0.0)]
)
def test_a_ratio_behind_a_noise_models_name_is_in_percent(noise, ratio):
    add_ratios([f"noise={noise}"])
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        assert compose("train", [f"noise={noise}"]).noise.ratio == ratio
