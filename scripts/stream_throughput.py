"""What an epoch of a stream costs when half of it is left out, in webdataset, litdata and Hugging Face datasets.

python scripts/stream_throughput.py [--libraries webdataset litdata datasets] [--images 4000] [--page docs/streams.md]

The same JPEG images are written in each library's form and read again, so its packages and Pillow must be installed: all
are in the extra "dev". The network looks at one pixel, so that what is measured is reading. Each training has two epochs,
and the second is timed, from the end of the first to its own end, what pruning does between two epochs included:

- plain: without the callback;
- kept: with it, but nothing is left out;
- late: a random half is left out after decoding, before batches are made, which needs no change of the stream;
- early: it is left out before decoding, by a stage of the stream's own. litdata does not even read it.

The ways take turns, and a time is compared with the one of plain in the same turn. With --page the table is put into that
page, between the comments <!-- stream throughput --> and <!-- end of stream throughput -->.
"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import logging
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alignprune_pl import AlignPrune, NoPruning, Random
from alignprune_pl.cli.sentences import sentences
from benchmark_report import NOTED, machine
from page_blocks import block_of, fill_block
from tables import markdown

BLOCK = "stream throughput"
WAYS = ("plain", "kept", "late", "early")
CLASSES = 10
FILES_A_WORKER = 4

Sample = dict[str, Any]
Keeps = Callable[[Sample], bool]


# ---- the images, in each library's form ---------------------------------------------------------------------


def jpeg_images(count: int, size: int) -> list[Sample]:
    """Smooth random patterns, as photographs are neither of one colour nor noise."""
    pixels = np.random.default_rng(0).integers(256, size=(count, 6, 6, 3), dtype=np.uint8)
    return [{"id": f"{i:08d}", "jpg": jpeg(rough, size), "cls": i % CLASSES} for i, rough in enumerate(pixels)]


def jpeg(rough: np.ndarray, size: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def decoded(sample: Sample) -> Sample:
    """A sample with its image, uint8[3, H, W]."""
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(sample["jpg"]))))
    return {**sample, "image": pixels.permute(2, 0, 1)}


def batch_of(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """Images and labels alone: keys stay where the stream is read."""
    return torch.stack([s["image"] for s in samples]), torch.tensor([int(s["cls"]) for s in samples])


def write_webdataset(folder: Path, samples: list[Sample], a_file: int) -> None:
    from webdataset import ShardWriter

    with ShardWriter(str(folder / "%04d.tar"), maxcount=a_file, verbose=0) as sink:
        for sample in samples:
            sink.write({"__key__": sample["id"], "jpg": sample["jpg"], "cls": sample["cls"]})


def read_webdataset(folder: Path, keeps: Keeps | None) -> Any:
    from webdataset import WebDataset

    stream = WebDataset(sorted(map(str, folder.iterdir())), shardshuffle=False)
    return (stream if keeps is None else stream.select(keeps)).map(decoded)


def write_litdata(folder: Path, samples: list[Sample], a_file: int) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_size=a_file)
    for number, sample in enumerate(samples):
        writer[number] = sample
    writer.done()
    writer.merge(1)


def read_litdata(folder: Path, keeps: Keeps | None) -> Any:
    from litdata import StreamingDataset

    return StreamingDataset(str(folder), transform=decoded)


def write_datasets(folder: Path, samples: list[Sample], a_file: int) -> None:
    from pyarrow import Table, parquet

    for first in range(0, len(samples), a_file):
        table = Table.from_pylist(samples[first : first + a_file])
        parquet.write_table(table, folder / f"{first:08d}.parquet")


def read_datasets(folder: Path, keeps: Keeps | None) -> Any:
    from datasets import load_dataset

    files = sorted(map(str, folder.iterdir()))
    # It keeps nothing but its locks there, and not in the user's own cache.
    cache = str(folder.with_name("cache"))
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=cache)
    return (stream if keeps is None else stream.filter(keeps)).map(decoded)


@dataclass(frozen=True)
class Library:
    """How a library writes and reads a stream.

    Attributes:
        write: Writes samples into a folder, so many a file.
        read: The stream of decoded samples; early, of those alone that pass.
        key: What the callback is told of keys.
        late_key: Likewise, where samples are to be left out late.
    """

    write: Callable[[Path, list[Sample], int], None]
    read: Callable[[Path, Keeps | None], Any]
    key: str | None
    late_key: str | None


LIBRARIES = {
    "webdataset": Library(write_webdataset, read_webdataset, None, None),
    # By its index it prunes early by itself; a key that stands in the sample can only be known late.
    "litdata": Library(write_litdata, read_litdata, None, "id"),
    "datasets": Library(write_datasets, read_datasets, "id", "id"),
}


# ---- an epoch -----------------------------------------------------------------------------------------------


class OnePixel(pl.LightningModule):
    """A network that costs next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, CLASSES)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """By one pixel."""
        images, labels = batch
        return F.cross_entropy(self.net(images[:, :, 0, 0] / 255), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Clock(pl.Callback):
    """When each epoch ended, and how many samples it trained; the last of the callbacks, so that it counts the others."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.trained = [0]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self.trained[-1] += len(batch[1])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the clock."""
        self.ends.append(time.perf_counter())
        self.trained.append(0)


class Epoch(NamedTuple):
    """What has been measured of one.

    Attributes:
        trained: Its samples.
        seconds: Its time.
    """

    trained: int
    seconds: float


def second_epoch(library: Library, folder: Path, way: str, batch_size: int, workers: int) -> Epoch:
    """Train two epochs; of the second."""
    prune = AlignPrune(
        policy=Random(0.5) if way in ("late", "early") else NoPruning(),
        key=library.late_key if way == "late" else library.key,
    )
    stream = library.read(folder, prune.keeps if way == "early" else None)
    loader = DataLoader(stream, batch_size, collate_fn=batch_of, num_workers=workers, persistent_workers=workers > 0)
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=2,
        callbacks=[clock] if way == "plain" else [prune, clock],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(OnePixel(), loader)
    return Epoch(clock.trained[1], clock.ends[1] - clock.ends[0])


# ---- the table ----------------------------------------------------------------------------------------------


def row(library: str, way: str, epochs: list[Epoch], plain: list[Epoch]) -> list[str]:
    """A way of a library, beside plain in the same turns."""
    ratios = [epoch.seconds / other.seconds for epoch, other in zip(epochs, plain, strict=True)]
    speed = statistics.median(epoch.trained / epoch.seconds for epoch in epochs)
    trained = statistics.median(epoch.trained for epoch in epochs)
    spread = "" if way == "plain" else f" ({min(ratios):.2f} to {max(ratios):.2f})"
    return [library, way, f"{trained:,.0f}", f"{statistics.median(ratios):.2f}{spread}", f"{speed:,.0f}"]


def measure(arguments: argparse.Namespace) -> list[list[str]]:
    """The body of the table."""
    epochs: dict[tuple[str, str], list[Epoch]] = defaultdict(list)
    samples = jpeg_images(arguments.images, arguments.size)
    a_file = -(-arguments.images // (FILES_A_WORKER * max(1, arguments.workers)))
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch, name) for name in arguments.libraries}
        for name, folder in folders.items():
            folder.mkdir()
            LIBRARIES[name].write(folder, samples, a_file)
        for _, name, way in itertools.product(range(arguments.repeats), folders, WAYS):
            epochs[name, way].append(
                second_epoch(LIBRARIES[name], folders[name], way, arguments.batch_size, arguments.workers)
            )
    return [row(name, way, epochs[name, way], epochs[name, "plain"]) for name in folders for way in WAYS]


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number from ``least``."""

    def number(text: str) -> int:
        if not (text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text} is given, but a whole number of at least {least} is expected.")
        return int(text)

    return number


def check(arguments: argparse.Namespace) -> None:
    """Tell now what would go wrong later.

    Raises:
        SystemExit: If there are too few images, a library is missing, or the page has no place for the table.
    """
    least = 2 * FILES_A_WORKER * max(1, arguments.workers)
    if arguments.images < least:
        raise SystemExit(
            f"error: --images {arguments.images} is given, but at least {least} are expected, so that each file has two; "
            "give more, or fewer --workers."
        )
    for name in arguments.libraries:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SystemExit(
                f"error: {name} is to be measured, but it cannot be imported ({error}); run pip install {name}, which the "
                "extra dev has, or leave it out of --libraries."
            ) from None
    if arguments.page:
        block_of(arguments.page, BLOCK)


@sentences()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--images", type=at_least(1), default=4000)
    parser.add_argument("--size", type=at_least(1), default=96, help="the side of an image, in pixels")
    parser.add_argument("--batch-size", type=at_least(1), default=64)
    parser.add_argument("--workers", type=at_least(0), default=1, help="processes that read the stream")
    parser.add_argument("--repeats", type=at_least(1), default=5)
    parser.add_argument("--page", type=Path, help="a Markdown file to put the table into")
    arguments = parser.parse_args()
    check(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning_utilities.core.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    body = measure(arguments)
    used = {**NOTED, **{name: name for name in arguments.libraries}}
    versions = ", ".join(f"{name} {importlib.import_module(module).__version__}" for name, module in used.items())
    size, repeats = f"{arguments.size} x {arguments.size}", arguments.repeats
    lines = [
        f"{arguments.images:,} images of {size} pixels, batches of {arguments.batch_size}, workers: {arguments.workers}; "
        f"medians of {repeats} repeats, with the smallest and the largest ratio. {machine()}, {versions}.",
        "",
        *markdown(["library", "way", "samples trained", "time, of plain's", "samples a second"], body),
    ]
    print("\n".join(lines))
    if arguments.page:
        fill_block(arguments.page, BLOCK, lines)


if __name__ == "__main__":
    main()
