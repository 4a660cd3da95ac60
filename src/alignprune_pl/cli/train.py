"""Train a classifier on data with wrong labels, pruned each epoch: ``alignprune-train``, ``python scripts/train.py``."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import hydra
import lightning
import lightning.pytorch as pl
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignprune_pl import AlignPrune, __version__
from alignprune_pl.cli.command_line import CONFIGS, add_ratios, check_overrides
from alignprune_pl.data import DataFileError, NoisyImages
from alignprune_pl.noise import Noise
from alignprune_pl.report import write_report
from alignprune_pl.training.atomic_checkpoint import AtomicCheckpointIO
from alignprune_pl.training.classifier import Classifier
from alignprune_pl.training.epoch_table import EpochTable
from alignprune_pl.training.labels import save_labels, save_record
from alignprune_pl.training.pseudo_clean import classifier, pick_reference, with_cost_of_picking
from alignprune_pl.training.record import RunRecord


def train(cfg: DictConfig, run_dir: Path, options: dict[str, str]) -> dict[str, Any]:
    """Run one configuration; the run folder gets its config, ``labels.npz``, ``epochs.csv`` and ``summary.json``.

    ``options`` names the option that was chosen of each config group.
    """
    pl.seed_everything(cfg.seed)
    noise = instantiate(cfg.noise)
    data = data_of(cfg, noise)
    policy, score = instantiate(cfg.pruning), instantiate(cfg.score)  # refused, if wrong, before anything is trained
    if "epochs" in cfg.reference:
        pick_reference(cfg, data)
        pl.seed_everything(cfg.seed)  # as if nothing had been trained before
    module = classifier(cfg, data)
    prune = AlignPrune(
        reference=data.reference_dataloader(),
        policy=policy,
        score=score,
        window=cfg.window,
        seed=cfg.seed,
        noise_mask=data.noise_mask,
        probe_data=data.probe_set,
    )
    record = RunRecord(prune, seed=cfg.seed)
    table = EpochTable(run_dir / "epochs.csv")
    # A run in the folder of another leaves its own last checkpoint there, and no other's.
    checkpoint = ModelCheckpoint(
        run_dir / "checkpoints", filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    logger = instantiate(cfg.logger) if cfg.logger.get("_target_") else False
    trainer = instantiate(
        cfg.trainer,
        callbacks=[prune, record, table, checkpoint],
        plugins=[AtomicCheckpointIO()],
        logger=logger,
        default_root_dir=str(run_dir),
    )
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    if trainer.is_global_zero:
        save_labels(run_dir / "labels.npz", data)
        print(description(data, repr(noise)))
    trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt_path)
    parts = trainer.test(module, datamodule=data, verbose=False)
    tested = {name.replace("/", "_"): figure for part in parts for name, figure in part.items()}
    summary = {
        **tested,
        "best_acc": max((row["val/acc"] for row in table.rows if "val/acc" in row), default=None),
        **with_cost_of_picking(prune.summary(), cfg, data),
        "dataset": data.benchmark.name,
        "train_samples": len(data.train_set),
        "reference_samples": 0 if data.reference_set is None else len(data.reference_set),
        "reference_from": data.reference_from,
        "noise": repr(noise),
        "noise_known": data.clean_labels is not None,
        "policy": repr(prune.policy),
        "score": repr(prune.score),
        "observes": prune.score.observes,
        "options": options,
        "seed": cfg.seed,
        "alignprune_pl": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
    if trainer.is_global_zero:
        (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        show(summary, run_dir)
    if cfg.report and table.rows:  # of no epoch there is nothing to show
        report(trainer, module, data, record, run_dir)
    if trainer.is_global_zero and any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        wandb.finish()  # a sweep's next run would go on in this one
    return summary


def data_of(cfg: DictConfig, noise: Noise) -> NoisyImages:
    """The data set with its noise and its reference; one that is picked is not picked yet."""
    return NoisyImages(
        instantiate(cfg.dataset.benchmark),
        noise,
        reference_share=None if "epochs" in cfg.reference else cfg.reference.share,
        batch_size=cfg.dataset.batch_size,
        num_workers=cfg.dataset.num_workers,
        in_memory=cfg.dataset.in_memory,
        train_size=cfg.train_size,
        imbalance=cfg.imbalance,
        reference_wrong=cfg.reference.wrong,
        reference_pixel_noise=cfg.reference.pixel_noise,
        correct_only=cfg.correct_only,
        seed=cfg.seed,
    )


def report(trainer: pl.Trainer, module: Classifier, data: NoisyImages, record: RunRecord, run_dir: Path) -> None:
    """Keep what the finished network says of each training sample, and draw the run's report."""
    trainer.predict(module, datamodule=data, return_predictions=False)
    if trainer.is_global_zero:
        save_record(run_dir / "record.npz", record, data)
        page, *pictures = write_report(run_dir)
        log_pictures(trainer, [path for path in pictures if not path.stem.endswith("-dark")])
        print(f"{os.path.relpath(page)}, and {len(pictures)} pictures in {os.path.relpath(pictures[0].parent)}")


def log_pictures(trainer: pl.Trainer, pictures: list[Path]) -> None:
    """Show the report's figures in the loggers that take images."""
    for logger in trainer.loggers:
        for path in pictures:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"report/{path.stem}", [str(path)])
            elif isinstance(logger, TensorBoardLogger):
                image = np.asarray(Image.open(path).convert("RGB"))
                logger.experiment.add_image(f"report/{path.stem}", image, trainer.global_step, dataformats="HWC")
        logger.finalize("success")  # what is logged after fit would wait in memory


def description(data: NoisyImages, noise: str) -> str:
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


def show(summary: dict[str, Any], run_dir: Path) -> None:
    """The run as a table on the terminal."""
    title = f"{summary['dataset']}, {summary['noise']}: {summary['policy']} with {summary['score']}"
    table = Table(title=escape(title))  # a name may look like markup
    table.add_column("figure")
    table.add_column("value", justify="right")
    wrong = "wrong labels" if summary.get("noise_known", True) else "labels made wrong"
    further = [key for key in summary if key.startswith("test_acc_")]
    for name, key in (
        ("test accuracy", "test_acc"),
        *((f"test accuracy, {key.removeprefix('test_acc_').replace('_', ', ')}", key) for key in further),
        ("samples saved", "saved"),
        ("time spent in pruning", "pruning_time"),
        (f"{wrong} kept", "noise_kept"),
        (f"{wrong} in the data", "noise_rate"),
        ("wrong labels as estimated", "estimated_noise_rate"),
    ):
        if key in summary:  # wrong labels only where they are known
            table.add_row(name, f"{100 * summary[key]:.1f} %")
    Console().print(table)
    print(f"config.yaml, labels.npz, epochs.csv, summary.json: {os.path.relpath(run_dir)}")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def _train(cfg: DictConfig) -> float:
    """Hydra's entry point; returns the test accuracy, for sweepers."""
    try:
        runtime = HydraConfig.get().runtime
        options = {group: option for group, option in runtime.choices.items() if not group.startswith("hydra/")}
        return float(train(cfg, Path(runtime.output_dir), options).get("test_acc", math.nan))
    except InstantiationException as error:
        # The sentence of our own check is in the cause; the rest is how Hydra got there.
        raise SystemExit(f"error: {error.__cause__ or error}") from None
    except MissingMandatoryValue as error:
        raise SystemExit(f"error: {error.full_key} has no value; give it as {error.full_key}=...") from None
    except DataFileError as error:
        # Out of a worker process the sentence comes at the end of a traceback.
        raise SystemExit(f"error: {str(error).split('DataFileError: ')[-1].strip()}") from None
    except (ValueError, FileNotFoundError, MisconfigurationException) as error:
        raise SystemExit(f"error: {error}") from None


def main() -> None:
    """The command ``alignprune-train``."""
    # A _target_ may be in a file of the user's own, in the folder where the command is given.
    sys.path.append(os.getcwd())
    add_ratios(sys.argv[1:])
    given = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    if len(given) == len(sys.argv) - 1:  # a sweep or one of Hydra's own flags is Hydra's to explain
        check_overrides(given)
    _train()
