"""A reference that is picked out of the noisy training data themselves, by a first short training."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from alignprune_pl import AlignPrune, Ask, NoPruning, Scores
from alignprune_pl.core.streams import stream
from alignprune_pl.data import NoisyImages, pseudo_clean
from alignprune_pl.data.splits import check_shares
from alignprune_pl.training.classifier import Classifier


def classifier(cfg: DictConfig, data: NoisyImages) -> Classifier:
    """The network with its optimiser."""
    return Classifier(
        instantiate(cfg.model, data.image_shape, data.num_classes),
        data.num_classes,
        label_smoothing=cfg.label_smoothing,
        evaluated=list(data.evaluated_sets),
        **instantiate(cfg.optimizer),
    )


class Listening(NoPruning):
    """Trains on all samples and keeps their scores."""

    def __init__(self) -> None:
        self.scores = torch.empty(0)

    def epoch_ended(self, scores: Scores, ask: Ask) -> None:
        """Keep them."""
        self.scores = scores.values


def pick_reference(cfg: DictConfig, data: NoisyImages) -> None:
    """Make the training samples the reference that a network fits in its first epochs."""
    epochs, among, share = cfg.reference.epochs, cfg.reference.among, cfg.reference.share
    if not (isinstance(epochs, int) and epochs >= 1):
        raise ValueError(
            f"reference.epochs={epochs} is given, but at least 1 epoch is expected, in which a network picks."
        )
    check_shares(share, among)
    # With a schedule of its own, so that it picks the same samples however long the run is that follows.
    shorter: Any = OmegaConf.merge(cfg, {"trainer": {"max_epochs": epochs}})
    listening = Listening()
    trainer = instantiate(
        shorter.trainer,
        callbacks=[AlignPrune(policy=listening, score="mean_loss", seed=cfg.seed)],
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    trainer.fit(classifier(shorter, data), datamodule=data)
    chosen = pseudo_clean(
        listening.scores, data.labels, share, among, data.num_classes, stream(cfg.seed, "pseudo_clean")
    )
    data.take_reference(
        chosen,
        f"{share:.2%} of the training data with their given labels, out of the {among:.0%} of each class that a network "
        f"fits in {epochs} epochs",
    )


def with_cost_of_picking(summary: dict[str, float], cfg: DictConfig, data: NoisyImages) -> dict[str, float]:
    """The run's figures, with the epochs that picked the reference counted as trained, on all samples there were."""
    if "epochs" in cfg.reference and data.reference_set is not None:
        samples = len(data.train_set) + len(data.reference_set)
        summary["saved"] -= cfg.reference.epochs * samples / (max(1, summary["epochs"]) * len(data.train_set))
    return summary
