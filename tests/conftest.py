"""The fixtures that the tests share. What they import is imported in them: pytest's own process runs no test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest_plugins = ["review_windows"]

# A worker takes a whole file. The longest come first, so that none is left alone with one at the end.
LONGEST = (
    "test_train_every_dataset.py",
    "test_run_folder.py",
    "test_mend.py",
    "test_train_script.py",
    "test_sentences.py",
    "test_elsewhere.py",
    "test_sweep.py",
    "test_lightning_cli.py",
    "test_trainer_settings.py",
    "test_pytorch_lightning.py",
    "test_resume.py",
    "test_benchmark.py",
    "test_sharded_run_ddp.py",
    "test_ddp.py",
    "test_stream_ddp.py",
    "test_stream_resume.py",
    "test_docs.py",
    "test_review_page.py",
    "test_review_files.py",
    "test_review_looks.py",
    "test_terminal.py",
    "test_tutorial.py",
    "test_layers.py",
    "test_kill_and_resume.py",
    "test_results_page.py",
    "test_hosts_in_a_run.py",
    "test_calibrated.py",
    "test_equivalence.py",
    "test_page.py",
    "test_damaged_files.py",
    "test_fuzzed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))  # which keeps the order of the others


def pytest_configure() -> None:
    # For the processes that tests start, which would each take all cores. The tests' own have _one_thread.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_seed_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def files() -> ModuleType:
    """What writes miniature data sets in the original formats."""
    from helpers import load_script

    return load_script("sample_files")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder that all workers read, whichever of them needs it first."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name: str, make: Callable[[Path], object]) -> Path:
        from filelock import FileLock

        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def samples(files: ModuleType, once: Callable[..., Path]) -> Path:
    """All of them, to be read alone."""
    return once("samples", files.write_all)


@pytest.fixture
def copy_of(samples: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of some of them, to be damaged."""

    def copied(*names: str) -> Path:
        for name in names:
            (shutil.copytree if (samples / name).is_dir() else shutil.copy)(samples / name, tmp_path / name)
        return tmp_path

    return copied


@pytest.fixture(scope="session")
def run_dir(once: Callable[..., Path]) -> Path:
    """A run of calibrated pruning with all files that the training script writes, to be read alone."""
    from hydra import compose, initialize_config_dir

    from alignprune_pl.cli.train import train
    from helpers import ROOT

    settings = ("trainer.accelerator=cpu", "model.hidden=[32]", "trainer.max_epochs=4", "pruning=calibrated")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [*settings, "reference.share=0.05"])
    options = {"pruning": "calibrated", "score": "rival", "noise": "sym40", "experiment": None}
    return once("calibrated", lambda folder: train(config, folder, options))


@pytest.fixture
def variant(run_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run with other settings, options or figures."""
    import json

    import yaml

    def make(name: str, settings: Any = (), options: Any = (), **figures: object) -> Path:
        folder = shutil.copytree(run_dir, tmp_path / name)
        summary = json.loads((folder / "summary.json").read_text())
        summary.update(figures)
        summary["options"].update(options)
        (folder / "summary.json").write_text(json.dumps(summary))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config.update(settings)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make
