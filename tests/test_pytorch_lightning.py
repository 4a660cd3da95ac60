"""``pytorch_lightning`` is Lightning by another name: all holds with its Trainer, modules and callbacks."""

from __future__ import annotations

import ast
import json
import pickle
from typing import Any, ClassVar

import lightning
import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from alignprune_pl import AlignPrune, RunFolder
from alignprune_pl.fit.progress import shown
from alignprune_pl.training.atomic_checkpoint import AtomicCheckpointIO
from helpers import CLASSES, Fixed, make_data, make_loader, run_code
from source_tree import package_tree

other = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed (pip install '.[dev]')")

BOTH = pytest.mark.parametrize("package", [pl, other], ids=["lightning", "pytorch_lightning"])
DATA, CLEAN, MASK = make_data()
OFF = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
QUIET = {"max_epochs": 5, **dict.fromkeys(OFF, False)}


def net(package):
    """A module of that package, whose learning rate is stepped with every batch."""

    class Net(package.LightningModule):
        stages: ClassVar[list[Any]] = []  # of the class: what a module has itself is put back after a reference

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Linear(4, CLASSES)
            self.batches, self.rates = [], []

        def training_step(self, batch, batch_idx):
            x, y = batch
            if self.training:
                self.batches.append((self.trainer.current_epoch, x[:, 0].long().tolist()))
                self.rates.append(self.lr_schedulers().get_last_lr())
            else:
                self.stages.append(self.trainer.state.stage)
            return F.cross_entropy(self.net(x[:, 1:]), y)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            steps = self.trainer.estimated_stepping_batches
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=int(steps))
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return Net()


def trainer_of(package, *callbacks, **kwargs):
    return package.Trainer(callbacks=list(callbacks), accelerator="cpu", **{**QUIET, **kwargs})


def fit(package, prune, *callbacks, ckpt_path=None, **kwargs):
    module = net(package)
    torch.manual_seed(1)
    trainer_of(package, prune, *callbacks, **kwargs).fit(module, make_loader(DATA), ckpt_path=ckpt_path)
    return module


def pruned():
    """A callback that evaluates a reference, and probes."""
    return AlignPrune(CLEAN, "calibrated", window=3, seed=0, noise_mask=MASK)


def check_same(module, prune, expected, expected_prune):
    assert prune.history == expected_prune.history
    assert module.rates[-1] == expected.rates[-1]
    losses, others = prune.store.losses(carry=True), expected_prune.store.losses(carry=True)
    assert torch.equal(losses, others)
    assert all(map(torch.equal, module.parameters(), expected.parameters()))


def test_a_run_selects_records_schedules_and_learns_the_same_under_both_names():
    prunes = [pruned(), pruned()]
    first, second = (fit(package, prune) for package, prune in zip((pl, other), prunes, strict=True))
    assert min(row["kept"] for row in prunes[0].history) < len(DATA)
    assert second.batches == first.batches
    assert second.rates == first.rates
    check_same(second, prunes[1], first, prunes[0])


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
@pytest.mark.parametrize("when", [{"every_n_train_steps": 17}, {"every_n_epochs": 2}], ids=["within", "end"])
def test_a_resumed_run_of_pytorch_lightning_goes_on_as_the_uninterrupted_one(when, tmp_path):
    whole, prune = pruned(), pruned()
    save, again = (other.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, **when) for _ in range(2))
    expected = fit(other, whole, save, enable_checkpointing=True)
    path = min(tmp_path.iterdir(), key=lambda file: int(file.stem.partition("step=")[2]))
    module = fit(other, prune, again, enable_checkpointing=True, ckpt_path=path)
    assert module.batches == expected.batches[-len(module.batches) :]
    assert len(module.batches) < len(expected.batches)
    check_same(module, prune, expected, whole)


def test_a_schedule_that_pytorch_lightnings_accumulation_makes_uneven_is_left_alone(caplog):
    fit(other, fixed(), other.callbacks.GradientAccumulationScheduler({0: 1, 2: 2}))
    assert "AlignPrune leaves OneCycleLR alone" in caplog.text


def fixed():
    return AlignPrune(policy=Fixed([150, 100]), score="loss")


def refused_by_us(package):
    trainer_of(package, fixed(), overfit_batches=1).fit(net(package), make_loader(DATA))


class Closed(DataLoader):
    """One that cannot be made again with another sampler."""

    def __init__(self):
        super().__init__(DATA, 16)


def refused_by_lightning(package):
    class Users(package.Trainer):
        pass

    Users(callbacks=[fixed()], accelerator="cpu", **QUIET).fit(net(package), Closed())


@pytest.mark.parametrize("refused", [refused_by_us, refused_by_lightning])
def test_a_refusal_is_caught_by_the_name_of_pytorch_lightning(refused):
    with pytest.raises(other.utilities.exceptions.MisconfigurationException):
        refused(other)


@BOTH
def test_a_refusal_of_ours_is_caught_by_either_name_and_can_be_sent_to_another_process(package):
    with pytest.raises(MisconfigurationException, match="overfit_batches") as caught:
        refused_by_us(package)
    assert isinstance(caught.value, other.utilities.exceptions.MisconfigurationException)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_reference_that_pytorch_lightning_cannot_load_is_refused_by_either_name():
    with pytest.raises(
        other.utilities.exceptions.MisconfigurationException,
        match=r"could not make the loader Closed again .*\(Trying to inject",
    ):
        fit(other, AlignPrune(Closed(), score="loss"))


def test_no_refusal_has_lightnings_name_alone():
    raising = {
        path
        for path, source in package_tree().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module == "lightning.fabric.utilities.exceptions"
    }
    catching = {"cli/train.py"}  # it runs under one name
    assert raising == catching


def test_while_the_reference_is_evaluated_the_trainer_says_by_its_own_word_that_it_validates():
    stages = fit(other, pruned(), max_epochs=1).stages
    assert stages
    assert all(stage is other.trainer.states.RunningStage.VALIDATING for stage in stages)


def test_a_run_that_pytorch_lightning_terminates_is_not_taken_for_one_that_fails():
    class Terminating(other.Callback):
        def __init__(self, exception):
            self.exception = exception

        def on_train_batch_end(self, *_):
            raise self.exception

    terminated, failed = fixed(), fixed()
    with pytest.raises(SystemExit):
        fit(other, terminated, Terminating(other.utilities.exceptions.SIGTERMException()))
    with pytest.raises(KeyError):
        fit(other, failed, Terminating(KeyError()))
    # By this the ranks know whether they can add up their losses.
    assert (terminated._has_failed, failed._has_failed) == (False, True)


def test_a_run_of_pytorch_lightning_leaves_its_folder_and_says_which_version_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(other, "__version__", "0.0.1")
    fit(other, pruned(), RunFolder(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {"labels.npz", "epochs.csv", "record.npz", "summary.json"}
    assert json.loads((tmp_path / "summary.json").read_text())["lightning"] == "0.0.1"
    fit(pl, pruned(), RunFolder(tmp_path))
    assert json.loads((tmp_path / "summary.json").read_text())["lightning"] == lightning.__version__


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_long_evaluations_have_a_bar_below_that_of_pytorch_lightning(bar):
    class Watching(other.Callback):
        def on_train_start(self, trainer, pl_module):
            batches = range(3)
            self.bar = shown(trainer, batches, "reference", 3)
            self.is_plain = self.bar is batches

    watching = Watching()
    progress = getattr(other.callbacks, bar)()
    fit(other, fixed(), progress, watching, enable_progress_bar=True, max_epochs=1)
    assert not watching.is_plain


def test_a_trainer_of_pytorch_lightning_takes_the_callback_alone_and_our_checkpoints_as_a_plugin(tmp_path):
    prune = fixed()
    trainer = trainer_of(other, max_epochs=1, plugins=[AtomicCheckpointIO()])
    trainer.callbacks = other.Trainer(callbacks=prune, accelerator="cpu", logger=False).callbacks
    assert prune in trainer.callbacks
    trainer.fit(net(other), make_loader(DATA))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=False)["callbacks"]["AlignPrune"]


def test_pytorch_lightning_is_not_imported_but_known_once_the_user_has(tmp_path):
    code = (
        "import sys\n"
        "from alignprune_pl import AlignPrune\n"
        "AlignPrune(score='loss')\n"
        "print('pytorch_lightning' in sys.modules, 'lightning_fabric' in sys.modules)\n"
        "import pytorch_lightning\n"
        "import alignprune_pl\n"
        "print(issubclass(alignprune_pl.AlignPrune, pytorch_lightning.Callback))"
    )
    done = run_code(code, cwd=tmp_path)
    assert done.stdout.split() == ["False", "False", "True"], done.stderr
