"""Train a classifier on data with wrong labels, pruned each epoch: ``alignprune-train``, ``python scripts/train.py``."""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from PIL import Image

from alignprune_pl import RunFolder
from alignprune_pl.cli.command_line import CONFIGS, add_ratios, check_arguments
from alignprune_pl.cli.folders import check_folder, held
from alignprune_pl.cli.sentences import for_any_console, sentence, sentences
from alignprune_pl.cli.sweep import note_failure
from alignprune_pl.cli.terminal import command, quieten, reference_note, show
from alignprune_pl.data import DataFileError, NoisyData, read_labels
from alignprune_pl.noise import Noise
from alignprune_pl.report import write_report
from alignprune_pl.report.run_files import SUMMARY, read_summary
from alignprune_pl.training.atomic_checkpoint import AtomicCheckpointIO
from alignprune_pl.training.classifier import Classifier
from alignprune_pl.training.pseudo_clean import pick_reference

_LARGE = 0.1  # of the training data, the share of a reference that is not to be asked for a larger one


def train(
    cfg: DictConfig, run_dir: Path, options: dict[str, str], given: Sequence[str] | None = None
) -> dict[str, Any]:
    """Run one configuration; what a run leaves is in ``run_dir``.

    ``options`` names the option that was chosen of each config group, and ``given`` has the command's arguments.
    """
    pl.seed_everything(cfg.seed)
    noise = instantiate(cfg.noise)
    data = data_of(cfg, noise)
    # Refused, if wrong, before anything is trained.
    policy, score, logger = instantiate(cfg.pruning), instantiate(cfg.score), logger_of(cfg)
    trained_before = 0
    if "epochs" in cfg.reference:
        trained_before = picked(cfg, data)
        pl.seed_everything(cfg.seed)  # as if nothing had been trained before
    module = classifier(cfg, data)
    prune = partial_of("callback", cfg.callback)(
        reference=data.reference_dataloader(),
        policy=policy,
        score=score,
        noise_mask=data.noise_mask,
        probe_data=data.probe_set,
    )
    folder = RunFolder(
        run_dir,
        class_names=data.benchmark.classes,
        labels=data.labels,
        clean_labels=data.clean_labels,
        images=data.images,
        paths=data.paths(),
        config=OmegaConf.to_container(cfg, resolve=True),  # type: ignore[arg-type]
        about={
            "dataset": data.benchmark.name,
            "reference_from": data.reference_from,
            "noise": repr(noise),
            "options": options,
            **({} if given is None else {"given": list(given)}),
            "seed": cfg.seed,
        },
        train_index=data.train_index,
        reference_index=data.reference_index,
        reference_labels=data.reference_labels,
        trained_before=trained_before,
        seed=cfg.seed,
        record=cfg.report,
    )
    # A run in the folder of another leaves its own last checkpoint there, and no other's.
    checkpoint = ModelCheckpoint(
        run_dir / "checkpoints", filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    trainer = instantiate(
        cfg.trainer,
        callbacks=[prune, folder, checkpoint],
        plugins=[TrainersCheckpointIO()],
        logger=logger,
        default_root_dir=str(run_dir),
    )
    if trainer.is_global_zero:
        print(description(data, repr(noise)))
        size = 0 if data.reference_set is None else len(data.reference_set)
        note = reference_note(options.get("pruning", ""), size, is_checked(cfg, data), better_reference(cfg, data))
        if note:
            print(note)
    trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt_path)
    trainer.test(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        show(folder.summary, run_dir, better_reference(cfg, data))
        if cfg.report and folder.rows:  # of no epoch there is nothing to show
            report(trainer, run_dir)
    return folder.summary


class TrainersCheckpointIO(AtomicCheckpointIO):
    """Refuses other files of torch than a Trainer's, of which Lightning would look for parts that are not there."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            OSError: If there is no file that may be read.
            ValueError: If it is damaged, or is no checkpoint of a Trainer.
        """
        checkpoint = super().load_checkpoint(path, *args, **kwargs)
        for name in ("state_dict", "loops", "callbacks"):
            if name not in checkpoint:
                raise ValueError(
                    f"{path} is given, but the checkpoint of a run is expected, and {name} is missing; give another, or "
                    "start anew without it."
                )
        return checkpoint


def data_of(cfg: DictConfig, noise: Noise) -> NoisyData:
    """The data set with its noise and its reference; one that is picked is not picked yet."""
    benchmark, file = instantiate(cfg.dataset.benchmark), cfg.get("labels")
    mended = None if file is None else read_labels(benchmark, Path(str(file)))
    data: NoisyData = partial_of("data", cfg.data)(benchmark, noise, mended=mended)
    return data


def partial_of(group: str, settings: DictConfig) -> Any:
    """What a group's settings make, but for the arguments that are no settings.

    Raises:
        ValueError: If one of the settings is no argument of it.
    """
    part = instantiate(settings, _partial_=True)
    known = inspect.signature(part.func).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in known.values())
    unknown = [name for name in part.keywords if name not in known]
    if unknown and not takes_any:
        others = ", ".join(name for name in part.keywords if name in known)
        raise ValueError(
            f"{group}.{unknown[0]} is given, but {part.func.__name__} has no such argument; leave it out, or give one of "
            f"{others}."
        )
    return part


def logger_of(cfg: DictConfig) -> Any:
    """The logger; False for none.

    Raises:
        ValueError: If its package is not installed.
    """
    try:
        return instantiate(cfg.logger) if cfg.logger.get("_target_") else False
    except InstantiationException as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            name = cfg.logger._target_.rpartition(".")[2]
            raise ValueError(
                f"{name} needs a package that is not installed; install it with pip install '.[loggers]' in the "
                "repository's folder, or leave logger= out."
            ) from None
        raise


def take_no_noise(cfg: DictConfig, given: Sequence[str]) -> None:
    """Train on the labels of a file as they are, whatever noise the data set has by default.

    Raises:
        ValueError: If a noise is given with it.
    """
    named = next((each for each in given if re.match(r"[+~]*noise\b", each) and each != "noise=given"), None)
    if named is not None:
        raise ValueError(
            f"labels={cfg.labels} and {named} are given, but the labels of a file are trained on as they are; leave one of "
            "them out."
        )
    cfg.noise = OmegaConf.load(CONFIGS / "noise" / "given.yaml")


def classifier(cfg: DictConfig, data: NoisyData) -> Classifier:
    """The network with its optimiser."""
    return Classifier(
        instantiate(cfg.model, data.input_shape, data.num_classes),
        data.num_classes,
        label_smoothing=cfg.label_smoothing,
        evaluated=list(data.evaluated_sets),
        **instantiate(cfg.optimizer),
    )


def better_reference(cfg: DictConfig, data: NoisyData) -> str:
    """The setting that gives a reference of clean samples, or a larger one; "" where there is none, or it has its own."""
    if data.benchmark.reference is not None:
        return ""
    if data.benchmark.clean_labels is None:
        return "reference=pseudo_clean"
    return "" if (cfg.reference.get("share") or 0.0) >= _LARGE else f"reference.share={_LARGE}"


def is_checked(cfg: DictConfig, data: NoisyData) -> bool:
    """Whether somebody, or the loss of a first training, has looked at the labels of the reference."""
    is_drawn = data.benchmark.reference is None and data.benchmark.clean_labels is None
    return not is_drawn or "epochs" in cfg.reference or cfg.get("labels") is not None


def picked(cfg: DictConfig, data: NoisyData) -> int:
    """Give the data a reference out of themselves; how many samples were trained for it."""
    epochs, share, among = cfg.reference.epochs, cfg.reference.share, cfg.reference.among
    shorter: Any = OmegaConf.merge(cfg, {"trainer": {"max_epochs": epochs}})
    make_trainer = partial_of("trainer", cfg.trainer)
    return pick_reference(data, lambda: classifier(shorter, data), make_trainer, epochs, share, among, cfg.seed)


def report(trainer: pl.Trainer, run_dir: Path) -> None:
    """Draw the run's report."""
    page, *pictures = write_report(run_dir)
    log_pictures(trainer, pictures)
    print(f"{os.path.relpath(page)}, and {len(pictures)} pictures in {os.path.relpath(pictures[0].parent)}")


def log_pictures(trainer: pl.Trainer, pictures: list[Path]) -> None:
    """Show the report's plots in the loggers that take images."""
    for logger in trainer.loggers:
        for path in pictures:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"report/{path.stem}", [str(path)])
            elif isinstance(logger, TensorBoardLogger):
                image = np.asarray(Image.open(path).convert("RGB"))
                logger.experiment.add_image(f"report/{path.stem}", image, trainer.global_step, dataformats="HWC")
        logger.finalize("success")  # what is logged after fit would wait in memory


def description(data: NoisyData, noise: str) -> str:
    """What is trained on, and where the reference comes from."""
    made = "" if data.noise_mask is None else f"{data.noise_mask.float().mean():.2%} of the labels"
    reference = "none" if data.reference_set is None else f"{len(data.reference_set):,} samples, {data.reference_from}"
    if data.clean_labels is not None:
        wrong = f"{made} are wrong"
    else:
        wrong = f"{made} made wrong, the truth of the others unknown" if made else "which labels are wrong is unknown"
    return (
        f"{data.benchmark.name}, {noise}: {len(data.train_set):,} training samples of {data.num_classes} classes, {wrong}"
        f"\nreference: {reference}"
    )


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def _train(cfg: DictConfig) -> float:
    """Hydra's entry point; returns the test accuracy, for sweepers, and of a sweep's job that has failed NaN."""
    for_any_console()  # a launcher's processes print by themselves
    quieten()
    settings: Any = HydraConfig.get()
    is_job = settings.mode == RunMode.MULTIRUN
    folder = Path(settings.runtime.output_dir)
    try:
        options, given = _options(settings), list(settings.overrides.task)
        with held(folder):
            if cfg.get("labels") is not None:
                take_no_noise(cfg, given)
                options["noise"] = "given"
            resolved: Any = OmegaConf.to_container(cfg, resolve=True)
            check_folder(folder, resolved, "hydra.sweep.dir" if is_job else "hydra.run.dir")
            return float(train(cfg, folder, options, given).get("test_acc", math.nan))
    except Exception as error:
        why = _why(error, folder)
        if not is_job:
            if not why:
                raise
            raise SystemExit(f"error: {why}") from None
        if not why:
            traceback.print_exc()
        why = why or f"{type(error).__name__}: {error}"
        print(f"error: {why}", file=sys.stderr)
        try:
            note_failure(settings, why)
        except OSError:  # without word of it the sweep would seem to be whole: Hydra is to end it
            raise HydraException(f"error: {why}") from None
        return math.nan
    finally:
        _end_wandb()


def _options(settings: Any) -> dict[str, str]:
    """The option that was chosen of each config group."""
    return {group: option for group, option in settings.runtime.choices.items() if not group.startswith("hydra/")}


def _why(error: Exception, folder: Path) -> str:
    """The sentence of a mistake; of an error of ours there is none."""
    if isinstance(error, InstantiationException):
        # The sentence of our own check is in the cause; the rest is how Hydra got there.
        return sentence(error.__cause__ or error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value; give it as {error.full_key}=..."
    if isinstance(error, DataFileError):
        # Out of a worker process the sentence comes at the end of a traceback.
        return str(error).split("DataFileError: ")[-1].strip()
    if isinstance(error, OSError):
        return sentence(error) + _what_is_left(folder)
    return sentence(error) if isinstance(error, ValueError | MisconfigurationException) else ""


def _what_is_left(folder: Path) -> str:
    """How to go on with a run whose files cannot all be written."""
    place = os.path.relpath(folder)
    if (folder / SUMMARY).exists() and "test_acc" in read_summary(folder):
        return f" The run itself is finished; {command('report')} {place} draws its report."
    if (folder / "checkpoints" / "last.ckpt").exists():
        return f" The run goes on by hydra.run.dir={place} ckpt_path={place}/checkpoints/last.ckpt."
    return ""


def _end_wandb() -> None:
    """A sweep's next run would go on in this one's log."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


@sentences()
def main() -> None:
    """The command ``alignprune-train``."""
    # A _target_ may be in a file of the user's own, in the folder where the command is given.
    sys.path.append(os.getcwd())
    add_ratios(sys.argv[1:])
    check_arguments(sys.argv[1:])
    _train()
