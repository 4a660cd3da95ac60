"""Any of torchvision's image classifiers, with random weights or pretrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from alignprune_pl.models.networks import channels_of
from alignprune_pl.models.pretrained import load_body, read_weights


def torchvision_classifier(
    image_shape: Sequence[int], num_classes: int, name: str = "resnet50", weights: str | None = None
) -> nn.Module:
    """Build the torchvision classifier of that name for these images and classes.

    Pretrained weights fill the body alone: the last layer is always a new one, as it belongs to the classes. Auxiliary
    heads (Inception, GoogLeNet) are left out. Initial weights are drawn from torch's global generator.

    Args:
        image_shape: channels, height and width of an image. The one channel of grey images is shown to the network
            three times.
        num_classes: the number of logits.
        name: a model of ``torchvision.models``; its page there names the paper.
        weights: ``None`` for random ones, a name that torchvision knows for the model (``"DEFAULT"``,
            ``"IMAGENET1K_V1"``), or the path of a file with a state dict, whatever its number of classes.

    Returns:
        A module that maps ``float[n, channels, height, width]`` to logits, ``float[n, num_classes]``.

    Raises:
        ValueError: the name is not that of an image classifier; the model cannot take the images' channels or size; or the
            weights cannot be had, cannot be read or are another model's.

    Example:
        >>> network = torchvision_classifier((1, 28, 28), 10, "shufflenet_v2_x0_5")
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    _check_name(name)
    channels = channels_of(name, image_shape)
    _, height, width = image_shape
    if channels not in (1, 3):
        raise ValueError(
            f"{name} takes images with 3 channels, or 1 channel that is repeated, but these have {channels}; "
            "choose another model, such as model=small_cnn, which takes any number."
        )
    try:
        network: nn.Module = models.get_model(
            name, num_classes=num_classes, **_arguments(name, height, width, pretrained=weights is not None)
        )
        _pass_one_image(network, height, width)
    except (AssertionError, RuntimeError, ValueError) as error:  # what torchvision and torch raise on sizes
        cause = str(error).partition("\n")[0].rstrip(".!")
        raise ValueError(
            f"{name} cannot take images of {height} x {width} pixels ({cause}); choose another model, or another "
            "dataset.image_size: 224 suits every classifier of torchvision."
        ) from error
    if weights is not None:
        load_body(network, read_weights(name, weights), name, weights)
    return network if channels == 3 else GreyAsColour(network)


class GreyAsColour(nn.Module):
    """Shows grey images, ``float[n, 1, height, width]``, to a network for images with three channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Repeat the channel and return the network's logits, ``float[n, classes]``."""
        logits: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return logits


def _check_name(name: str) -> None:
    """Refuse what is not an image classifier; the other tasks have modules of their own in torchvision."""
    classifiers = models.list_models(module=models)
    if name in classifiers:
        return
    listing = 'python -c "from torchvision import models; print(models.list_models(module=models))" lists them.'
    if name in models.list_models():
        raise ValueError(
            f"model.name={name} is a model of torchvision, but not one of its classifiers of images; {listing}"
        )
    close = get_close_matches(str(name).lower(), classifiers)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(f"model.name={name} is not one of torchvision's classifiers of images; {hint}{listing}")


def _arguments(name: str, height: int, width: int, pretrained: bool) -> dict[str, Any]:
    """What single families want to be told."""
    if name.startswith("vit_"):
        return {"image_size": height}  # square ones only; others fail on the first image
    if name.startswith("maxvit_"):
        return {"input_size": (height, width)}
    if name in ("googlenet", "inception_v3"):
        # Their pretrained weights expect inputs scaled in another way than those of all other models.
        return {"aux_logits": False, "init_weights": True, "transform_input": pretrained}
    return {}


def _pass_one_image(network: nn.Module, height: int, width: int) -> None:
    """Fail now where the first batch would; in evaluation mode no statistics change and nothing is drawn."""
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, 3, height, width))
    network.train()
