"""The callbacks with nothing but what they need: pruned and calibrated runs, one that resumes, and what a run leaves.

python tests/smoke.py
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path

import lightning
import lightning.pytorch as pl
import torch
import torch.nn.functional as F
import torchmetrics
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from alignprune_pl import AlignPrune, InfoBatch, RunFolder
from alignprune_pl.report import read_run

warnings.simplefilter("ignore")
N = 1000


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layers = [torch.nn.Linear(8, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 3)]
        self.net = torch.nn.Sequential(*layers)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data() -> tuple[TensorDataset, TensorDataset, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N + 150, 8, generator=generator)
    y = (x @ torch.randn(8, 3, generator=generator)).argmax(dim=1)
    wrong = torch.rand(N, generator=generator) < 0.3
    noisy = torch.where(wrong, (y[:N] + 1) % 3, y[:N])
    return TensorDataset(x[:N], noisy), TensorDataset(x[N:], y[N:]), wrong


def fit(
    prune: AlignPrune, epochs: int, folder: str, ckpt: str | None = None, files: list = (), stream: bool = False
) -> AlignPrune:
    loader = DataLoader(Stream(), 32) if stream else DataLoader(data()[0], batch_size=32, shuffle=True)
    torch.manual_seed(1)
    saving = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[prune, *files, saving], **quiet)
    trainer.fit(Net(), loader, ckpt_path=ckpt)
    return prune


class Stream(IterableDataset):
    """The training set without places; a sample is known by its features."""

    def __iter__(self):
        yield from data()[0]


def check(claim: bool, words: str) -> None:
    if not claim:
        raise SystemExit(f"failed: {words}")
    print(f"  {words}")


def main() -> None:
    for name in ("hydra", "matplotlib", "sklearn", "torchvision", "jinja2", "PIL"):
        print(f"{name} is {'there' if importlib.util.find_spec(name) else 'not there'}")
    print(f"Lightning {lightning.__version__}, torch {torch.__version__}, torchmetrics {torchmetrics.__version__}")
    _, reference, wrong = data()
    with tempfile.TemporaryDirectory() as folder:
        whole = fit(AlignPrune(reference, InfoBatch(0.5), seed=0), 13, folder)
        kept = [row["kept"] for row in whole.history]
        check(kept[0] == N and min(kept) < 0.9 * N and kept[-1] == N, f"InfoBatch with DAS keeps {kept}")
        (at,) = Path(folder).glob("epoch=4.ckpt")
        again = fit(AlignPrune(reference, InfoBatch(0.5), seed=0), 13, f"{folder}/again", str(at))
        check(again.plan.digest() == whole.plan.digest(), "a resumed run plans what the uninterrupted one does")
        stream = {"policy": InfoBatch(0.5), "key": lambda sample: sample[0].numpy().tobytes(), "seed": 0}
        read = fit(AlignPrune(reference, **stream), 13, f"{folder}/stream", stream=True)
        kept = [row["kept"] for row in read.history]
        check(kept[0] == N and min(kept) < 0.9 * N and kept[-1] == N, f"of a stream it keeps {kept}")
        (at,) = Path(folder, "stream").glob("epoch=4.ckpt")
        again = fit(AlignPrune(reference, **stream), 13, f"{folder}/stream again", str(at), stream=True)
        check(again.plan.digest() == read.plan.digest(), "a resumed run over it plans what the uninterrupted one does")
        files = RunFolder(f"{folder}/run", images=torch.zeros(N, 3, 8, 8, dtype=torch.uint8))
        calibrated = fit(AlignPrune(reference, "calibrated", seed=0), 12, f"{folder}/calibrated", files=[files])
        suspects = calibrated.suspects()
        rate = suspects.noise_rate
        check(0.15 < rate < 0.5, f"calibrated pruning estimates {rate:.1%} wrong labels of 30 %")
        hits = int(wrong[suspects.index[:100]].sum())
        check(hits > 90, f"{hits} of its hundred most suspect labels are wrong")
        run = read_run(Path(folder, "run"))
        given = torch.from_numpy(run.labels["label"])
        check(torch.equal(given, data()[0].tensors[1]), "the labels in a run's folder are learnt from its loss")
        hits, count = int(wrong[run.issues].sum()), len(run.issues)
        check(hits > 0.7 * count > 150, f"{hits} of the {count} labels that its audit would list are wrong")


if __name__ == "__main__":
    main()
