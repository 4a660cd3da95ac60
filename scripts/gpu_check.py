"""What holds on a CUDA device, checked on it: exact capture, resuming, compiling, overhead, augmentation, each policy.

python scripts/gpu_check.py [--accelerator gpu] [--rounds 9]

Without such a device it says so and ends with 0; ``--accelerator cpu`` tries all of it on the processor, on fewer images.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
import lightning.pytorch as pl
import torch
import torch.nn.functional as F
import torchvision
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from alignprune_pl import AlignmentScore, AlignPrune, EpochPlan, LossScore, Policy
from alignprune_pl.data import Benchmark, CropFlip, NoisyData, Part, Views
from alignprune_pl.noise import Symmetric
from alignprune_pl.policies import POLICIES
from alignprune_pl.training.classifier import Classifier

CLASSES = 10


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Problem:
    """Images of ten templates under noise, 30 % of the training labels wrong; the third entry of a sample is its index."""

    def __init__(self, n: int) -> None:
        g = torch.Generator().manual_seed(0)
        labels = torch.randint(0, CLASSES, (n + 200,), generator=g)
        images = F.interpolate(draw(CLASSES, 3, 4, 4, seed=1)[labels], scale_factor=4) + draw(
            n + 200, 3, 16, 16, seed=2
        )
        self.wrong = torch.rand(n, generator=g) < 0.3
        noisy = torch.where(self.wrong, (labels[:n] + 1) % CLASSES, labels[:n])
        self.train = TensorDataset(images[:n], noisy, torch.arange(n))
        self.clean = TensorDataset(images[n:], labels[n:], torch.arange(200))
        self.weight = draw(n, seed=3).abs()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    losses = cross_entropy(logits, labels)
    return (1 - torch.exp(-losses)) ** 2 * losses


class Net(pl.LightningModule):
    """A small network, which weighs its losses itself if it is given weights, and notes what it computed."""

    def __init__(
        self, losses: Callable[[Tensor, Tensor], Tensor] = cross_entropy, weight: Tensor | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        parts = [nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten()]
        self.net = nn.Sequential(*parts, nn.Linear(256, CLASSES))
        self.losses, self.weight = losses, weight
        self.computed: dict[int, float] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Train on the mean of the losses."""
        found = self.losses(self.net(batch[0]).float(), batch[1])
        if self.training:
            self.computed.update(zip(batch[2].tolist(), found.detach().tolist(), strict=True))
        return (found if self.weight is None else found * self.weight.to(found.device)[batch[2]]).mean()

    def configure_optimizers(self) -> Any:
        """SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Quiet(Net):
    """Notes nothing, so that it can be compiled."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Train on cross-entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])


class Weighs(Policy):
    """Keeps all samples in order, each with a weight of its own."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def plan(self, scores: Any, ask: Any) -> EpochPlan:
        """Keep all."""
        return EpochPlan(torch.arange(len(self.weight)), self.weight)


class Checks:
    """Each method is a check and returns what it saw, or fails an assertion."""

    def __init__(self, accelerator: str, rounds: int) -> None:
        self.accelerator, self.rounds = accelerator, rounds
        self.is_gpu = accelerator == "gpu"
        self.problem = Problem(2000 if self.is_gpu else 400)

    def trainer(self, *callbacks: Any, epochs: int, precision: Any = "32-true") -> pl.Trainer:
        """A Trainer that says nothing."""
        return pl.Trainer(
            accelerator=self.accelerator,
            devices=1,
            max_epochs=epochs,
            precision=precision,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def fit(
        self,
        module: Any,
        *callbacks: Any,
        epochs: int,
        shuffle: bool = True,
        ckpt: Any = None,
        precision: Any = "32-true",
    ) -> Any:
        """Train a module on the problem."""
        loader = DataLoader(self.problem.train, 128, shuffle=shuffle)
        self.trainer(*callbacks, epochs=epochs, precision=precision).fit(module, loader, ckpt_path=ckpt)
        return module

    def exact(self, precision: str, losses: Callable[[Tensor, Tensor], Tensor]) -> str:
        """The recorded losses are those computed, and the run is that of a step which weighs its losses itself."""
        weight = self.problem.weight
        prune = AlignPrune(policy=Weighs(weight), score=LossScore(), storage_dtype="float32", seed=0)
        ours = self.fit(Net(losses), prune, epochs=1, shuffle=False, precision=precision)
        meant = self.fit(Net(losses, weight), epochs=1, shuffle=False, precision=precision)
        seen = torch.tensor([ours.computed[i] for i in range(len(weight))])
        apart = ((prune.store.last_loss().cpu() - seen).abs() / seen.clamp(min=0.05)).max().item()
        start = Net(losses)
        moved, off = 0.0, 0.0
        for now, then, first in zip(ours.parameters(), meant.parameters(), start.parameters(), strict=True):
            off += float((now.cpu() - then.cpu()).square().sum())
            moved += float((then.cpu() - first).square().sum())
        error = (off / moved) ** 0.5
        assert apart < (1e-4 if precision == "32-true" else 2e-2), f"recorded losses differ by {apart:.2g}"
        assert error < (1e-4 if precision == "32-true" else 2e-2), f"parameters differ by {error:.2g}"
        return f"losses within {apart:.1e}, parameters within {error:.1e} of their way"

    def resumed(self) -> str:
        """A run resumed from the middle plans as the uninterrupted one, with deterministic algorithms."""
        torch.use_deterministic_algorithms(True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                whole, half = (AlignPrune(self.problem.clean, policy="calibrated", seed=0) for _ in range(2))
                save = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
                self.fit(Net(), whole, save, epochs=8)
                self.fit(Net(), half, epochs=8, ckpt=f"{folder}/epoch=3.ckpt")
        finally:
            torch.use_deterministic_algorithms(False)
        assert whole.plan.digest() == half.plan.digest(), "another plan"
        same = torch.equal(whole.store.losses().nan_to_num(-1), half.store.losses().nan_to_num(-1))
        return "the plan of the end" + (", and all trajectories bit by bit" if same else "")

    def compiled(self, whole: bool) -> str:
        """A compiled module, or a compiled network in one, trains and prunes."""
        module: Any = Quiet()
        if whole:
            module = torch.compile(module)
        else:
            module.net = torch.compile(module.net)
        prune = AlignPrune(self.problem.clean, score=AlignmentScore(warm_up=2), window=4, seed=0)
        self.fit(module, prune, epochs=4)
        kept = [int(row["kept"]) for row in prune.history]
        assert min(kept) < kept[0], f"kept {kept}"
        return f"kept {kept}"

    def policy(self, name: str) -> str:
        """A policy runs to its end."""
        score = None if name == "calibrated" else AlignmentScore(warm_up=3)
        prune = AlignPrune(self.problem.clean, name, score, seed=0, noise_mask=self.problem.wrong, window=4)
        self.fit(Net(), prune, epochs=6, precision="bf16-mixed")
        figures = prune.summary()
        return f"saved {figures['saved']:.1%}, AUROC {prune.history[-1]['auroc']:.3f}"

    def augmented(self) -> str:
        """Images held in memory, augmented, with 40 % of their labels wrong, in the command's own module."""
        images = (self.problem.train.tensors[0][:, :1] * 40 + 128).clamp(0, 255).to(torch.uint8)
        labels = self.problem.train.tensors[1]
        test = {"test": Part(images[:64], labels[:64])}
        views = Views((0.5,), (0.3,), CropFlip(16, 2))
        benchmark = Benchmark("templates", tuple("0123456789"), views, Part(images, labels), test, labels)
        data = NoisyData(benchmark, Symmetric(0.4), in_memory=True)
        network = nn.Sequential(nn.Flatten(), nn.Linear(256, CLASSES))
        module = Classifier(network, CLASSES, partial(torch.optim.SGD, lr=0.01))
        prune = AlignPrune(data.reference_dataloader(), "calibrated", seed=0, noise_mask=data.noise_mask)
        self.trainer(prune, epochs=4).fit(module, datamodule=data)
        assert bool(prune.store.last_loss().isfinite().any())
        return f"AUROC {prune.history[-1]['auroc']:.3f}"

    def overhead(self) -> str:
        """`NoPruning` against no callback in turn, ResNet-18 at 32 x 32."""
        n, size = (51_200, 512) if self.is_gpu else (256, 64)
        device = torch.device("cuda" if self.is_gpu else "cpu")
        data = Held(torch.randn(n, 3, 32, 32, device=device), torch.randint(0, CLASSES, (n,), device=device))

        def seconds(pruned: bool) -> float:
            callbacks = [AlignPrune(policy="none", score="loss")] if pruned else []
            precision = "bf16-mixed" if self.is_gpu else "32-true"
            trainer = self.trainer(*callbacks, epochs=4 if self.is_gpu else 1, precision=precision)
            module = Resnet()
            start = time.perf_counter()
            trainer.fit(module, DataLoader(data, size, shuffle=True, collate_fn=lambda batch: batch))
            if self.is_gpu:
                torch.cuda.synchronize()
            return time.perf_counter() - start

        seconds(True)
        pairs = [(seconds(False), seconds(True)) for _ in range(self.rounds)]
        ratios = [ours / bare for bare, ours in pairs]
        steps = (4 if self.is_gpu else 1) * (n // size)
        bare = statistics.median(bare for bare, _ in pairs) / steps * 1000
        return f"median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); a bare step {bare:.1f} ms"

    def all(self) -> dict[str, Callable[[], str]]:
        """The checks by what they say."""
        precisions = ("32-true", "bf16-mixed", "16-mixed") if self.is_gpu else ("32-true", "bf16-mixed")
        found: dict[str, Callable[[], str]] = {}
        for precision in precisions:
            for losses in (cross_entropy, focal):
                found[f"exact: {losses.__name__}, {precision}"] = partial(self.exact, precision, losses)
        found["resumed"] = self.resumed
        found["a compiled network"] = partial(self.compiled, whole=False)
        found["a compiled module"] = partial(self.compiled, whole=True)
        found["augmented in memory"] = self.augmented
        found.update({f"policy {name}": partial(self.policy, name) for name in POLICIES.names()})
        found["overhead, ResNet-18"] = self.overhead
        return found


class Held(Dataset[Any]):
    """Images on the device, fetched a batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.labels[index]

    def __getitems__(self, index: list[int]) -> Any:
        at = torch.as_tensor(index, device=self.labels.device)
        return self.images[at], self.labels[at]


class Resnet(pl.LightningModule):
    """ResNet-18 for small images."""

    def __init__(self) -> None:
        super().__init__()
        net = torchvision.models.resnet18(num_classes=CLASSES)
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        self.net = net.to(memory_format=torch.channels_last)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Train on cross-entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument("--rounds", type=int, default=9, help="of the overhead")
    arguments = parser.parse_args()
    if arguments.accelerator == "gpu" and not torch.cuda.is_available():
        print("There is no CUDA device here, so that nothing was checked.")
        return
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_utilities.core.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    device = torch.cuda.get_device_name() if arguments.accelerator == "gpu" else "CPU"
    title = f"{device}, torch {torch.__version__}, lightning {lightning.__version__}, Python {sys.version.split()[0]}"
    table = Table("", "", "seconds", title=title)
    failed = 0
    for name, check in Checks(arguments.accelerator, arguments.rounds).all().items():
        start = time.perf_counter()
        try:
            said = check()
        except Exception as error:  # the others are to be seen too
            failed += 1
            said = f"FAILED: {type(error).__name__}: {error}"
        print(f"{name}: {said}", flush=True)
        table.add_row(name, said, f"{time.perf_counter() - start:.0f}")
    Console(width=140).print(table)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
