"""What a pruned run of two processes holds with sharded=True, and without.

python scripts/measure_sharded_run.py [--samples 2000000] [--sharded]

A linear model is trained for three epochs on samples that are made from their indices, so that what grows with their number
is the callback's and the loader's. Each process says how far its memory has grown in the run, at its peak.
"""

from __future__ import annotations

import argparse
import resource
import sys
import warnings

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignprune_pl import AlignPrune


class Made(Dataset[tuple[Tensor, Tensor]]):
    """Features and a label of each sample by its index."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __getitems__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        """A batch at once, as the loader asks where it can."""
        at = torch.tensor(index)[:, None]
        x = torch.sin(at * torch.tensor([1.3, 7.1, 0.9, 3.7]))
        return x, (x[:, 0] > 0.3).long()


class Linear(pl.LightningModule):
    """The smallest network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, 2)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.5)


def peak() -> float:
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def whole(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The batch, which is one already."""
    return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("--sharded", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def fit(num_samples: int) -> AlignPrune:
        prune = AlignPrune(policy="infobatch", score="loss", seed=0, sharded=given.sharded)
        off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = pl.Trainer(max_epochs=3, accelerator="cpu", devices=2, strategy="ddp", callbacks=[prune], **off)
        torch.manual_seed(0)
        batch = max(2, num_samples // 250)
        trainer.fit(Linear(), DataLoader(Made(num_samples), batch_size=batch, shuffle=True, collate_fn=whole))
        return prune

    fit(1000)  # loads what every run needs
    before = peak()
    prune = fit(given.samples)
    kept = ", ".join(f"{row['kept']:,.0f}" for row in prune.history)
    rank = torch.distributed.get_rank()
    grown = f"{peak() - before:,.0f} MB more at the peak, libraries {before:,.0f} MB"
    sys.stdout.write(f"rank {rank}: {grown}; kept {kept}\n")  # at once, as the other process writes there too
    sys.stdout.flush()


if __name__ == "__main__":
    main()
