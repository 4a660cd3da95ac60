"""The paper's benchmarks as experiments: the protocol holds, and the command line wins over it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from alignprune_pl.cli.command_line import add_ratios
from alignprune_pl.policies import InfoBatch, NoPruning, SeTa
from alignprune_pl.scores import AlignmentScore, LossScore

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "configs" / "experiment"
CIFAR = {"noise": "Human", "model": "resnet18_cifar", "epochs": 200, "batch": 128, "smoothing": 0.1, "rate": 0.2}
LARGE = {"model": "torchvision_classifier", "smoothing": 0.0}
BENCHMARKS = {
    "cifar10n": {**CIFAR, "dataset": "cifar10n", "decay": 5e-4},
    "cifar100n": {**CIFAR, "dataset": "cifar100n", "decay": 5e-4},
    "webvision": {
        **LARGE,
        **{"dataset": "webvision_mini", "noise": "Given", "epochs": 100, "batch": 128, "rate": 0.05, "decay": 5e-4},
    },
    "clothing1m": {
        **LARGE,
        **{"dataset": "clothing1m", "noise": "Given", "epochs": 40, "batch": 64, "rate": 0.002, "decay": 1e-3},
    },
    "imagenet": {
        **LARGE,
        **{"dataset": "imagenet", "noise": "Clean", "epochs": 90, "batch": 256, "rate": 0.1, "decay": 1e-4},
    },
}
METHODS = {
    "none": (NoPruning, LossScore),
    "infobatch_loss": (InfoBatch, LossScore),
    "infobatch_das": (InfoBatch, AlignmentScore),
    "seta_loss": (SeTa, LossScore),
    "seta_das": (SeTa, AlignmentScore),
}
EVERY = [f"{benchmark}_{method}" for benchmark in BENCHMARKS for method in METHODS]
# What an experiment may set itself, as every option has it. All else would outlive another option's choice.
OWN_VALUES = {"data.batch_size", "trainer.max_epochs", "label_smoothing", "callback.window"}


@lru_cache  # nothing here changes what it returns
def composed(*overrides: str) -> DictConfig:
    add_ratios(list(overrides))
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


def class_name(node: DictConfig) -> str:
    return node["_target_"].rpartition(".")[2]


def rates(cfg: DictConfig, epochs: int, steps: int = 10) -> list[float]:
    """The learning rate in the first batch of each epoch, and at the end."""
    parts = instantiate(cfg.optimizer)
    optimizer = parts["optimizer"]([torch.nn.Parameter(torch.zeros(1))])
    by_step = parts.get("interval") == "step"
    schedule = parts["scheduler"](optimizer, **({"total_steps": epochs * steps} if by_step else {}))
    found = []
    for _ in range(epochs):
        found.append(schedule.get_last_lr()[0])
        for _ in range(steps):
            optimizer.step()
            if by_step and schedule.last_epoch + 1 < epochs * steps:
                schedule.step()
        if not by_step:
            schedule.step()
    return [*found, schedule.get_last_lr()[0]]


def test_the_experiments_are_every_benchmark_with_every_method():
    assert {path.stem for path in EXPERIMENTS.glob("*.yaml")} == {*EVERY, *BENCHMARKS}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_protocol_and_the_method_hold(benchmark, method):
    cfg, protocol = composed(f"experiment={benchmark}_{method}"), BENCHMARKS[benchmark]
    assert cfg.hydra.runtime.choices["dataset"] == protocol["dataset"]
    assert (cfg.callback.window, cfg.reference.share) == (10, 0.01)
    assert class_name(cfg.noise) == protocol["noise"]
    assert class_name(cfg.model) == protocol["model"]
    assert cfg.trainer.max_epochs == protocol["epochs"]
    assert cfg.data.batch_size == protocol["batch"]
    assert cfg.label_smoothing == protocol["smoothing"]
    assert cfg.optimizer.optimizer["_target_"] == "torch.optim.SGD"
    assert (cfg.optimizer.optimizer.lr, cfg.optimizer.optimizer.momentum) == (protocol["rate"], 0.9)
    assert cfg.optimizer.optimizer.weight_decay == protocol["decay"]
    policy, score = instantiate(cfg.pruning), instantiate(cfg.score)
    assert (type(policy), type(score)) == METHODS[method]
    if not isinstance(policy, NoPruning):
        assert policy.delta == 0.875
    if isinstance(policy, InfoBatch):
        assert (policy.ratio, policy.rescale, policy.prunes) == (0.5, True, "low")
    if isinstance(policy, SeTa):
        groups = 5 if benchmark.startswith("cifar") else 10
        assert (policy.ratio, policy.groups, policy.window_scale, policy.slides_from) == (0.1, groups, 0.9, "low")
    if isinstance(score, AlignmentScore):
        assert (score.missing, score.correlation, cfg.score.warm_up) == ("carry", "pearson", 10)
        # Between the warm-up and the annealing, the score decides in most of the epochs.
        assert (0.875 * cfg.trainer.max_epochs - cfg.score.warm_up) / cfg.trainer.max_epochs > 0.5


def test_cifar_10n_has_its_worst_annotation_and_cifar_100n_its_only_one():
    assert instantiate(composed("experiment=cifar10n_seta_das").noise).annotation == "worst"
    assert instantiate(composed("experiment=cifar100n_seta_das").noise).annotation == "noisy_fine"


def test_only_clothing1m_starts_from_pretrained_weights():
    found = {name: composed(f"experiment={name}").model.get("weights") for name in BENCHMARKS}
    assert found == dict.fromkeys(BENCHMARKS) | {"clothing1m": "IMAGENET1K_V1"}
    assert {composed(f"experiment={name}").model.name for name in ("webvision", "clothing1m", "imagenet")} == {
        "resnet50"
    }


def test_a_benchmark_alone_leaves_host_and_score_to_the_command_line():
    default = composed()
    for name in BENCHMARKS:
        cfg = composed(f"experiment={name}")
        assert (cfg.pruning, cfg.score) == (default.pruning, default.score)
        cfg = composed(f"experiment={name}", "pruning=small_loss", "score=mean_loss")
        assert (class_name(cfg.pruning), class_name(cfg.score)) == ("SmallLoss", "MeanLossScore")


def test_the_rate_on_cifar_is_one_cycle():
    for name in ("cifar10n", "cifar100n"):
        cfg = composed(f"experiment={name}_none")
        found = rates(cfg, cfg.trainer.max_epochs)
        peak = max(found)
        assert found.index(peak) == pytest.approx(0.3 * cfg.trainer.max_epochs, abs=1)
        assert peak == pytest.approx(0.2, rel=1e-3)
        assert (found[0], found[-1]) == (pytest.approx(0.2 / 25), pytest.approx(0.2 / 25 / 1e4, rel=1e-3))


def test_the_rate_on_imagenet_falls_to_a_tenth_after_every_30_epochs():
    cfg = composed("experiment=imagenet_none")
    assert rates(cfg, 90)[:90] == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)


@pytest.mark.parametrize("name", ["webvision", "clothing1m"])
@pytest.mark.parametrize("epochs", [None, 12])
def test_the_rate_falls_by_a_cosine_to_zero_whatever_the_number_of_epochs(name, epochs):
    cfg = composed(f"experiment={name}_none", *([] if epochs is None else [f"trainer.max_epochs={epochs}"]))
    found = rates(cfg, cfg.trainer.max_epochs)
    assert found == sorted(found, reverse=True)
    assert found[0] == BENCHMARKS[name]["rate"]
    assert found[cfg.trainer.max_epochs // 2] == pytest.approx(found[0] / 2)
    assert found[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_groups_on_the_command_line_win(name):
    overrides = ("noise=asym20", "dataset=tiny_imagenet", "model=mlp", "pruning=ucb", "score=margin", "optimizer=sgd")
    cfg, plain = composed(f"experiment={name}", *overrides), composed(*overrides)
    for group in ("noise", "model", "pruning", "score"):
        assert cfg[group] == plain[group], group  # nothing of the experiment's own option is left
    assert cfg.optimizer == OmegaConf.merge(plain.optimizer, {"scheduler": {"T_max": cfg.trainer.max_epochs}})
    batch = {"batch_size": BENCHMARKS[name.partition("_")[0]]["batch"]}
    assert cfg.data == OmegaConf.merge(plain.data, batch)
    assert cfg.dataset == plain.dataset
    instantiate(cfg.noise), instantiate(cfg.pruning), instantiate(cfg.score)
    instantiate(cfg.model, (3, 4, 4), 2)


@pytest.mark.parametrize(
    "name", ["cifar10n_seta_das", "webvision_seta_das", "clothing1m_none", "imagenet_infobatch_das"]
)
def test_single_values_on_the_command_line_win(name):
    overrides = ("callback.window=12", "trainer.max_epochs=7", "data.batch_size=9", "label_smoothing=0.2")
    cfg = composed(f"experiment={name}", *overrides, "optimizer.optimizer.lr=0.3")
    assert (cfg.callback.window, cfg.trainer.max_epochs, cfg.data.batch_size, cfg.label_smoothing) == (12, 7, 9, 0.2)
    assert cfg.optimizer.optimizer.lr == 0.3


@pytest.mark.parametrize("name", ["cifar10n", "cifar100n"])
@pytest.mark.parametrize(
    ("column", "noise", "ratio"),
    [
        ("clean", "Clean", None),
        ("human", "Human", None),
        ("sym50", "Symmetric", 0.5),
        ("sym80", "Symmetric", 0.8),
        ("asym40", "Asymmetric", 0.4),
    ],
)
def test_noise_chooses_a_column_of_the_papers_table(name, column, noise, ratio):
    cfg = composed(f"experiment={name}_infobatch_das", f"noise={column}")
    assert (class_name(cfg.noise), cfg.noise.get("ratio")) == (noise, ratio)
    assert cfg.hydra.runtime.choices["noise"] == column
    assert cfg.noise == composed(f"dataset={name}", f"noise={column}").noise
    assert cfg.trainer.max_epochs == 200


def test_the_whole_of_webvision_is_one_override_away():
    cfg = composed("experiment=webvision_infobatch_das", "dataset=webvision")
    assert (cfg.dataset.num_classes, class_name(cfg.noise), cfg.model.name) == (1000, "Given", "resnet50")
    assert composed("experiment=webvision_infobatch_das").dataset.num_classes == 50


def values(node: DictConfig, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in node.items():
        found |= values(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else {f"{prefix}{key}"}
    return found


def test_an_experiment_sets_only_values_that_every_option_has():
    paths = [*EXPERIMENTS.rglob("*.yaml")]
    shared = [path for path in paths if path.read_text().startswith("# @package _global_")]
    assert {path.name for path in set(paths) - set(shared)} <= {"seta_k10.yaml", "resnet50_pretrained.yaml"}
    for path in shared:
        cfg = OmegaConf.load(path)
        cfg.pop("defaults")
        assert values(cfg) <= OWN_VALUES, path.name  # above all nothing in noise
    arguments = set(composed().data)
    for path in (ROOT / "configs" / "dataset").glob("*.yaml"):
        assert set(composed(f"dataset={path.stem}", "noise=sym", "model=mlp").data) == arguments, path.name


def test_the_docs_have_every_benchmark_with_its_epochs_and_batch():
    page = (ROOT / "docs" / "experiments.md").read_text()
    rows = {
        row.split("`")[1]: [cell.strip() for cell in row.split("|")] for row in page.splitlines() if row[:3] == "| `"
    }
    for name, protocol in BENCHMARKS.items():
        assert [str(protocol["epochs"]), str(protocol["batch"])] == rows[name][5:7]
    assert {"none", "infobatch_loss", "seta_loss"} <= set(rows)
    assert all(method in page for method in METHODS)
