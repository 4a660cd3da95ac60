"""The callback in the YAML of LightningCLI: every argument can be written there, under both names of Lightning."""

from __future__ import annotations

import importlib
import inspect
import sys

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch.utils.data import DataLoader, Dataset, IterableDataset

from alignprune_pl import AlignPrune, InfoBatch, LossScore, SeTa
from alignprune_pl.policies import POLICIES
from alignprune_pl.scores import SCORES

pytest.importorskip("jsonargparse", reason="jsonargparse is not installed (pip install '.[dev]')")

HERE = __name__


class Samples(Dataset):
    """As a file of the user's has them."""

    def __init__(self, n: int = 40, seed: int = 0) -> None:
        self.x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
        self.y = self.x[:, :3].argmax(dim=1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


class Stream(IterableDataset):
    """The same without places, which a batch is asked for in the same way."""

    def __iter__(self):
        yield from ({"id": i, 0: x, 1: y} for i, (x, y) in enumerate(Samples()))


def key_of(sample):
    return sample["id"] + 100


class CleanLoader(DataLoader):
    """A loader of the user's own."""

    def __init__(self, dataset: Dataset, batch_size: int = 1, **kwargs) -> None:
        super().__init__(dataset, batch_size, **kwargs)


def clean_loader(n: int = 20) -> DataLoader:
    return DataLoader(Samples(n), batch_size=10)


def losses(module, batch):
    return F.cross_entropy(module.net(batch[0]), batch[1], reduction="none")


class Losses:
    """A function with a setting."""

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = smoothing

    def __call__(self, module, batch):
        return F.cross_entropy(module.net(batch[0]), batch[1], reduction="none", label_smoothing=self.smoothing)


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def package(request):
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed (pip install '.[dev]')")


@pytest.fixture
def run(package, monkeypatch):
    """Runs LightningCLI on a file, and gives the callback that has been fitted."""

    class Net(package.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Linear(4, 3)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def train_dataloader(self):
            keys = [callback.keeps.key for callback in self.trainer.callbacks if isinstance(callback, AlignPrune)]
            return DataLoader(Samples(), 10, shuffle=True) if keys == [None] else DataLoader(Stream(), 10)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def ran(file, *words):
        monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own use of it
        monkeypatch.setattr(sys, "argv", ["cli.py", "fit", "--config", str(file), *words])
        cli = importlib.import_module(f"{package.__name__}.cli")
        made = cli.LightningCLI(Net, save_config_callback=None, seed_everything_default=False)
        (prune,) = (callback for callback in made.trainer.callbacks if isinstance(callback, AlignPrune))
        assert len(prune.history) == 2
        return prune

    return ran


def file_with(folder, **arguments):
    """A file of LightningCLI with the callback and these of its arguments."""
    callback = {"class_path": "alignprune_pl.AlignPrune", "init_args": arguments}
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = {"max_epochs": 2, "accelerator": "cpu", **dict.fromkeys(off, False), "callbacks": [callback]}
    (folder / "config.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    return folder / "config.yaml"


def of(name, **arguments):
    """A class or function, here or in the package, as the file has it."""
    return {"class_path": name if "." in name else f"{HERE}.{name}", "init_args": arguments}


# Of each argument what may be written, and what then becomes of it.
WRITTEN = {
    "reference": [
        (of("Samples", n=20), lambda prune: prune.reference.num_samples == 20),
        (
            of("CleanLoader", dataset=of("Samples", n=20), batch_size=10),
            lambda prune: prune.reference.num_samples == 20,
        ),
        (of("clean_loader", n=15), lambda prune: prune.reference.num_samples == 15),
    ],
    "policy": [
        ("seta", lambda prune: isinstance(prune.policy, SeTa)),
        (of("alignprune_pl.InfoBatch", ratio=0.3), lambda prune: repr(prune.policy) == repr(InfoBatch(ratio=0.3))),
    ],
    "score": [
        ("loss", lambda prune: isinstance(prune.score, LossScore)),
        (of("alignprune_pl.EmaLossScore", alpha=0.3), lambda prune: prune.score.alpha == 0.3),
    ],
    "window": [(4, lambda prune: prune.store.window == 4)],
    "loss_fn": [
        (f"{HERE}.losses", lambda prune: prune.loss_fn is losses),
        (of("Losses", smoothing=0.1), lambda prune: prune.loss_fn.smoothing == 0.1),
    ],
    "capture_mode": [("auto", lambda prune: prune.capture_mode == "auto")],
    "rescale_schedules": [(False, lambda prune: prune.rescale_schedules is False)],
    "seed": [(5, lambda prune: prune.seed == 5)],
    "noise_mask": [([True, False] * 20, lambda prune: prune.noise_mask.tolist() == [True, False] * 20)],
    "probe_data": [(of("Samples", n=40), lambda prune: isinstance(prune.probe_data, Samples))],
    "key": [
        ("id", lambda prune: prune.keys.tolist() == list(range(40))),
        (f"{HERE}.key_of", lambda prune: prune.keys.tolist() == list(range(100, 140))),
    ],
    "merge_batches": [(True, lambda prune: prune.merge_batches is True)],
    "storage_dtype": [("float32", lambda prune: prune.store.dtype == torch.float32)],
    "sharded": [(True, lambda prune: prune.store.shard.size == 40)],
}


def test_every_argument_of_the_callback_is_tried():
    assert list(WRITTEN) == list(inspect.signature(AlignPrune).parameters)


@pytest.mark.parametrize(
    ("argument", "number"), [(name, number) for name, ways in WRITTEN.items() for number in range(len(ways))]
)
def test_each_argument_can_be_written_in_yaml_and_the_run_prunes_by_it(run, tmp_path, argument, number):
    written, holds = WRITTEN[argument][number]
    assert holds(run(file_with(tmp_path, **{"score": "loss", argument: written})))


@pytest.mark.parametrize(("registry", "argument"), [(POLICIES, "policy"), (SCORES, "score")])
def test_every_policy_and_score_of_ours_can_be_written_as_an_object(run, tmp_path, registry, argument):
    for name in registry.names():
        cls = registry.get(name)
        if cls.__module__.startswith("alignprune_pl"):
            written = {"reference": of("Samples", n=20), argument: of(f"{cls.__module__}.{cls.__name__}")}
            prune = run(file_with(tmp_path, **written))
            assert type(getattr(prune, argument)) is cls


@pytest.mark.parametrize(
    "arguments",
    [
        {"score": "loss"},
        {
            "reference": of("CleanLoader", dataset=of("Samples", n=20), batch_size=10),
            "policy": of("alignprune_pl.Calibrated", host=of("alignprune_pl.SeTa", ratio=0.2), line=0.5),
            "score": of("alignprune_pl.RivalScore", decay=0.7),
            "loss_fn": f"{HERE}.losses",
            "noise_mask": [True, False] * 20,
            "probe_data": of("Samples"),
            "storage_dtype": "float32",
        },
        {"reference": of("Samples"), "score": of("alignprune_pl.AlignmentScore", missing="mask", warm_up=3)},
    ],
    ids=["defaults", "objects", "words"],
)
def test_a_printed_configuration_can_be_read_back_and_selects_the_same(run, arguments, capsys, tmp_path):
    file = file_with(tmp_path, **arguments)
    expected = run(file)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(file, "--print_config")
    assert ended.value.code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert yaml.safe_load(printed.read_text())["trainer"]["callbacks"][0]["init_args"].keys() == WRITTEN.keys()
    prune = run(printed)
    assert (repr(prune.policy), repr(prune.score)) == (repr(expected.policy), repr(expected.score))
    assert prune.storage_dtype == expected.storage_dtype
    assert str(prune.history) == str(expected.history)
