"""The callback's overhead: the same training with `NoPruning` and without the callback, in turn.

python scripts/bench_overhead.py [--model small_cnn] [--rounds 5]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from functools import partial

import lightning.pytorch as pl
import torch

from alignprune_pl import AlignPrune, NoPruning, models
from alignprune_pl.data import Benchmark, NoisyData, Part, Views
from alignprune_pl.noise import Symmetric
from alignprune_pl.training.classifier import Classifier


def random_images(n: int) -> Benchmark:
    """Images of Fashion-MNIST's form; their content does not matter for the time."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=g)
    labels = torch.randint(0, 10, (n,), generator=g)
    test = {"test": Part(images[:128], labels[:128])}
    return Benchmark("random", tuple("0123456789"), Views((0.3,), (0.3,)), Part(images, labels), test, labels)


def seconds(data: NoisyData, model: str, epochs: int, pruned: bool) -> float:
    """Wall time of one ``fit``, the reference evaluation included."""
    pl.seed_everything(0, verbose=False)
    network = getattr(models, model)(data.input_shape, data.num_classes)
    module = Classifier(network, data.num_classes, partial(torch.optim.SGD, lr=0.01))
    callbacks: list[pl.Callback] = [AlignPrune(data.reference_dataloader(), NoPruning())] if pruned else []
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    start = time.perf_counter()
    trainer.fit(module, data.train_dataloader())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small_cnn", choices=models.__all__)
    parser.add_argument("--samples", type=int, default=12_800)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning_utilities.core.rank_zero").setLevel(logging.ERROR)
    data = NoisyData(random_images(arguments.samples), Symmetric(0.4))
    seconds(data, arguments.model, 1, pruned=True)  # warm up
    ratios = []
    for number in range(arguments.rounds):
        bare, pruned = (seconds(data, arguments.model, arguments.epochs, pruned=p) for p in (False, True))
        ratios.append(pruned / bare)
        print(f"round {number}: bare {bare:.2f} s, with NoPruning {pruned:.2f} s, ratio {ratios[-1]:.3f}")
    print(
        f"{arguments.model}, {torch.get_num_threads()} threads: median ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
