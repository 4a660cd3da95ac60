"""The networks of the training script."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn
from torchvision.models import resnet18, resnet34


def mlp(input_shape: Sequence[int], num_classes: int, hidden: Sequence[int] = (512, 256)) -> nn.Module:
    """Fully connected layers with batch norm and ReLU, on the flattened input; without hidden ones a linear classifier."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = prod(input_shape)
    for size in hidden:
        layers += [nn.Linear(width, size, bias=False), nn.BatchNorm1d(size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def small_cnn(image_shape: Sequence[int], num_classes: int, width: int = 32) -> nn.Module:
    """Three 3x3 convolutions with batch norm, two of them followed by pooling, then a global average."""
    layers: list[nn.Module] = []
    channels = channels_of("small_cnn", image_shape)
    for size, pool in ((width, True), (2 * width, True), (4 * width, False)):
        # Pooled first: a quarter of the pixels are left to the batch norm.
        layers += [nn.Conv2d(channels, size, 3, padding=1, bias=False), *([nn.MaxPool2d(2)] if pool else [])]
        layers += [nn.BatchNorm2d(size), nn.ReLU()]
        channels = size
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    return network.to(memory_format=torch.channels_last)


def resnet18_cifar(image_shape: Sequence[int], num_classes: int) -> nn.Module:
    """ResNet-18 (arXiv 1512.03385) with a stem for small images; 11.2 M parameters."""
    return _with_small_image_stem(resnet18(num_classes=num_classes), channels_of("resnet18_cifar", image_shape))


def resnet34_cifar(image_shape: Sequence[int], num_classes: int) -> nn.Module:
    """ResNet-34 (arXiv 1512.03385) with a stem for small images; 21.3 M parameters with 100 classes."""
    return _with_small_image_stem(resnet34(num_classes=num_classes), channels_of("resnet34_cifar", image_shape))


def channels_of(name: str, image_shape: Sequence[int]) -> int:
    """How many channels the images have.

    Args:
        name: The network's, for the sentence.
        image_shape: Channels, height and width.

    Raises:
        ValueError: If the inputs are no images.
    """
    if len(image_shape) != 3:
        raise ValueError(
            f"{name} takes images [channels, height, width], but the inputs are {list(image_shape)}; take another "
            "network, such as model=mlp."
        )
    return image_shape[0]


def _with_small_image_stem(network: nn.Module, channels: int) -> nn.Module:
    """The stem of the CIFAR papers, 3x3 at stride 1 and no max-pooling, in place of the one for 224 x 224 images."""
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
