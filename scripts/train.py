"""Train a classifier on data with wrong labels, pruned each epoch.

python scripts/train.py
python scripts/train.py dataset=cifar100 noise=sym40 pruning=seta score=loss pruning.ratio=0.3 seed=1
python scripts/train.py pruning=none pruning._target_=my_file.MyPolicy +pruning.my_parameter=3
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from rich.console import Console
from rich.table import Table

from alignprune_pl import AlignPrune, __version__
from alignprune_pl.checkpoint import AtomicCheckpointIO
from alignprune_pl.data import NoisyImages
from alignprune_pl.epoch_table import EpochTable
from alignprune_pl.module import Classifier

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def train(cfg: DictConfig, run_dir: Path, options: dict[str, str]) -> dict[str, Any]:
    """Run one configuration; the run folder gets its config, ``epochs.csv`` and ``summary.json``.

    ``options`` names the option that was chosen of each config group.
    """
    pl.seed_everything(cfg.seed)
    data = NoisyImages(
        instantiate(cfg.dataset.sets),
        instantiate(cfg.noise),
        reference_share=cfg.reference.share,
        batch_size=cfg.dataset.batch_size,
        num_workers=cfg.dataset.num_workers,
        seed=cfg.seed,
    )
    network = instantiate(cfg.model, data.image_shape, data.num_classes)
    module = Classifier(network, data.num_classes, **instantiate(cfg.optimizer))
    prune = AlignPrune(
        reference=data.reference_dataloader(),
        policy=instantiate(cfg.pruning),
        score=instantiate(cfg.score),
        window=cfg.window,
        seed=cfg.seed,
        noise_mask=data.train_set.noise_mask,
    )
    table = EpochTable(run_dir / "epochs.csv")
    checkpoint = ModelCheckpoint(run_dir / "checkpoints", filename="last", save_on_train_epoch_end=True)
    logger = instantiate(cfg.logger) if cfg.logger.get("_target_") else False
    trainer = instantiate(
        cfg.trainer,
        callbacks=[prune, table, checkpoint],
        plugins=[AtomicCheckpointIO()],
        logger=logger,
        default_root_dir=str(run_dir),
    )
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt_path)
    tested = trainer.test(module, datamodule=data, verbose=False)[0]
    summary = {
        "test_acc": tested["test/acc"],
        "best_acc": max((row["val/acc"] for row in table.rows if "val/acc" in row), default=None),
        **prune.summary(),
        "dataset": data.sets.name,
        "train_samples": len(data.train_set),
        "reference_samples": len(data.reference_set),
        "noise": repr(instantiate(cfg.noise)),
        "policy": repr(prune.policy),
        "score": repr(prune.score),
        "options": options,
        "seed": cfg.seed,
        "alignprune_pl": __version__,
        "torch": torch.__version__,
        "lightning": pl.__version__,
    }
    if trainer.is_global_zero:
        (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        show(summary, run_dir)
    return summary


def show(summary: dict[str, Any], run_dir: Path) -> None:
    """The run as a table on the terminal."""
    table = Table(title=f"{summary['dataset']}, {summary['noise']}: {summary['policy']} with {summary['score']}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, key in (
        ("test accuracy", "test_acc"),
        ("samples saved", "saved"),
        ("time spent in pruning", "pruning_time"),
        ("wrong labels kept", "noise_kept"),
        ("wrong labels in the data", "noise_rate"),
    ):
        table.add_row(name, f"{100 * summary[key]:.1f} %")
    Console().print(table)
    print(f"config.yaml, epochs.csv, summary.json: {os.path.relpath(run_dir)}")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> float:
    """Hydra's entry point; returns the test accuracy, for sweepers."""
    try:
        runtime = HydraConfig.get().runtime
        options = {group: option for group, option in runtime.choices.items() if not group.startswith("hydra/")}
        return float(train(cfg, Path(runtime.output_dir), options)["test_acc"])
    except InstantiationException as error:
        # The sentence of our own check is in the cause; the rest is how Hydra got there.
        raise SystemExit(f"error: {error.__cause__ or error}") from None
    except MissingMandatoryValue as error:
        raise SystemExit(f"error: {error.full_key} has no value; give it as {error.full_key}=...") from None
    except (ValueError, FileNotFoundError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise SystemExit(f"error: {error}") from None


def check_overrides(overrides: list[str]) -> None:
    """Say which keys or options there are, where an override names none of them."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            compose("train", overrides)
        except ConfigCompositionException as error:
            text = " ".join(str(part) for part in (error, error.__cause__) if part)
            wrong = re.search(r"Could not override '([^']+)'", text)
            if wrong is None:
                raise SystemExit(f"error: {' '.join(str(error).split())}") from None
            *parents, key = wrong[1].split(".")
            groups = [o for o in overrides if "." not in o.split("=")[0] and (CONFIGS / o.split("=")[0]).is_dir()]
            node = OmegaConf.select(compose("train", groups), ".".join(parents)) if parents else compose("train")
            valid = ", ".join(str(name) for name in node) if isinstance(node, DictConfig) else "none"
            raise SystemExit(
                f"error: {wrong[1]} is given, but {'.'.join(parents) or 'the configuration'} has no {key}; "
                f"valid are: {valid}."
            ) from None


if __name__ == "__main__":
    # A _target_ may be in a file of the user's own, in the folder where the command is given.
    sys.path.append(os.getcwd())
    given = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    if len(given) == len(sys.argv) - 1:  # a sweep or one of Hydra's own flags is Hydra's to explain
        check_overrides(given)
    main()
