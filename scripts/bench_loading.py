"""What an epoch's loading costs: torchvision's transforms image by image, and whole batches out of memory.

python scripts/bench_loading.py [--images 50000] [--size 32] [--rounds 5] [--threads 1] [--accelerator cpu]

Both serve the same random images of the given size through the training script's data module, augmented by crop and
flip and normalised, with no worker processes, and move them to the device. The rounds alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from lightning.fabric.utilities import move_data_to_device
from rich.console import Console
from rich.table import Table

from alignprune_pl.data import Benchmark, CropFlip, NoisyData, Part, Views
from alignprune_pl.noise import Clean


def data_module(images: int, size: int, batch_size: int, in_memory: bool) -> NoisyData:
    """A data set of random images of CIFAR's kind."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(images) % 10
    part = Part(pixels, labels)
    views = Views((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), train=CropFlip(size, padding=size // 8))
    classes = tuple("abcdefghij")
    benchmark = Benchmark("random images", classes, views, part, {"test": part}, clean_labels=labels)
    return NoisyData(benchmark, Clean(), batch_size=batch_size, in_memory=in_memory)


def epoch(data: NoisyData, device: torch.device) -> float:
    """Seconds that one epoch's batches take until they are on the device, ready for the network."""
    start = time.perf_counter()
    for batch in data.train_dataloader():
        data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=32, help="the side of an image, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.accelerator)
    modules = {
        "image by image": data_module(arguments.images, arguments.size, arguments.batch_size, in_memory=False),
        "data.in_memory=true": data_module(arguments.images, arguments.size, arguments.batch_size, in_memory=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(arguments.rounds):
        for name, data in modules.items():
            seconds[name].append(epoch(data, device))
    one_by_one = seconds["image by image"]
    table = Table(
        title=f"{arguments.images:,} images of {arguments.size} x {arguments.size}, {arguments.rounds} rounds"
    )
    for column in ("loading", "µs an image", "median of the rounds' ratios", "least", "most"):
        table.add_column(column, justify="left" if column == "loading" else "right")
    for name, taken in seconds.items():
        ratios = [slow / fast for slow, fast in zip(one_by_one, taken, strict=True)]
        figures = (statistics.median(ratios), min(ratios), max(ratios))
        each = 1e6 * statistics.median(taken) / arguments.images
        table.add_row(name, f"{each:.1f}", *(f"{ratio:.1f}" for ratio in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
