"""A reference that is picked out of the noisy training data themselves, by a first short training."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl
import torch

from alignprune_pl.callback import AlignPrune
from alignprune_pl.core.checking import check_count
from alignprune_pl.core.contracts import Ask, Scores
from alignprune_pl.core.streams import stream
from alignprune_pl.data import NoisyData, pseudo_clean
from alignprune_pl.data.splits import check_shares
from alignprune_pl.policies import NoPruning


class Listening(NoPruning):
    """Trains on all samples and keeps their scores."""

    def __init__(self) -> None:
        self.scores = torch.empty(0)

    def epoch_ended(self, scores: Scores, ask: Ask) -> None:
        """Keep them."""
        self.scores = scores.values


def pick_reference(
    data: NoisyData,
    make_module: Callable[[], pl.LightningModule],
    make_trainer: Callable[..., pl.Trainer],
    epochs: int,
    share: float,
    among: float,
    seed: int,
) -> int:
    """Make the training samples the reference that a network fits in its first epochs.

    Args:
        data: Gets the reference, and trains on the others from then on.
        make_module: The network that picks, with a schedule of ``epochs``, so that it picks the same samples however long
            the run is that follows.
        make_trainer: A Trainer with the further arguments that it is called with.
        epochs: Of the network that picks, at least 1.
        share: Of the training samples, to become the reference.
        among: The share of each class, those with the lowest losses, from which they are drawn.
        seed: Of the plans and of what is drawn.

    Returns:
        How many samples were trained, a sample that was trained in two epochs counting twice.

    Raises:
        ValueError: If ``epochs`` or a share is out of range.
    """
    check_count("reference.epochs", epochs, 1, "a number of epochs", "a network picks in them")
    check_shares(share, among)
    listening, samples = Listening(), len(data.train_set)
    trainer = make_trainer(
        max_epochs=epochs,
        callbacks=[AlignPrune(policy=listening, score="mean_loss", seed=seed)],
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    trainer.fit(make_module(), datamodule=data)
    chosen = pseudo_clean(listening.scores, data.labels, share, among, data.num_classes, stream(seed, "pseudo_clean"))
    data.take_reference(
        chosen,
        f"{share:.2%} of the training data with their given labels, out of the {among:.0%} of each class that a network "
        f"fits in {epochs} epochs",
    )
    return epochs * samples
