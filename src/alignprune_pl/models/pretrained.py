"""Pretrained weights for torchvision's classifiers, by torchvision's names or from a file."""

from __future__ import annotations

import os
import re
from http.client import HTTPException
from math import isqrt
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

# A Vision Transformer has one learnt vector for each patch of the image, and one for the class token.
POSITIONS = "encoder.pos_embedding"
# torchvision's files for DenseNet still have the names that its layers had once: norm.1 is now norm1.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")  # of Inception and of GoogLeNet


def read_weights(name: str, weights: str) -> dict[str, Tensor]:
    """Return the state dict of torchvision's weights of that name, or of the file at that path.

    Args:
        name: the model in ``torchvision.models``.
        weights: one of the model's weights (``"DEFAULT"``, ``"IMAGENET1K_V1"``), downloaded on first use, or a path.

    Raises:
        ValueError: neither a name nor a path, no internet, a missing or damaged file, or one with more than tensors.
    """
    weights = str(weights)
    known = get_model_weights(name).__members__
    if weights in known:
        try:
            downloaded: dict[str, Tensor] = known[weights].get_state_dict(
                check_hash=True, map_location="cpu", weights_only=True
            )
        except (OSError, HTTPException, RuntimeError, UnpicklingError) as error:  # the last two: another hash, damage
            raise ValueError(
                f"model.weights={weights} for {name} cannot be downloaded here ({_first_line(error)}); download "
                f"{known[weights].url} on a machine with internet and give its path as model.weights=..., or train "
                "from random weights with model.weights=null."
            ) from error
        return downloaded
    path = Path(weights).expanduser()
    if os.sep in weights or path.suffix in (".pt", ".pth") or path.exists():
        return _read_file(path)
    raise ValueError(
        f"model.weights={weights} is neither a file nor weights of {name}; torchvision has {', '.join(known)}, and "
        "model.weights=null stands for random ones."
    )


def load_body(network: nn.Module, state: dict[str, Tensor], name: str, weights: str) -> None:
    """Copy a state dict into all of a network but its last layer, which belongs to the classes.

    The keys of the last layer, and of auxiliary heads, are taken out of ``state``.

    Raises:
        ValueError: the state dict is another model's, or that of a Vision Transformer for images of another size.
    """
    head = last_layer(network)
    # In place, as the versions of the layers travel as an attribute of the state dict.
    for key in list(state):
        if key.rpartition(".")[0] == head or key.startswith(AUXILIARY_HEADS):
            del state[key]
        elif OLD_DENSENET.search(key):
            state[OLD_DENSENET.sub(r"\1\2", key)] = state.pop(key)
    _check_positions(network, state, name, weights)
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[:2][-1].strip().rstrip(".")  # torch puts a heading above its list
        raise ValueError(f"model.weights={weights} is not a state dict of {name}: {first}.") from error
    missing = [key for key in missing if key.rpartition(".")[0] != head]
    if missing or unexpected:
        found = [f"it lacks {key}" for key in missing[:1]] + [f"it has {key}" for key in unexpected[:1]]
        raise ValueError(f"model.weights={weights} is not a state dict of {name}: {' and '.join(found)}.")


def last_layer(network: nn.Module) -> str:
    """Name the layer with the logits: the last linear one or, in SqueezeNet, the last convolution."""
    layers: list[str] = [name for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    return layers[-1]


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"model.weights={path} is not a file; give the path of a state dict saved by torch.save.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can raise nearly anything
        raise ValueError(
            f"model.weights={path} is damaged or holds more than tensors, which is not loaded as it could run code "
            f"({_first_line(error)}); give a file with a state dict alone."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"model.weights={path} holds no state dict, a dict from parameters' names to tensors.")
    return state


def _check_positions(network: nn.Module, state: dict[str, Tensor], name: str, weights: str) -> None:
    if POSITIONS not in state or POSITIONS not in (own := network.state_dict()):
        return
    count = state[POSITIONS].shape[1]
    if count != own[POSITIONS].shape[1]:
        side = isqrt(count - 1) * network.get_submodule("conv_proj").kernel_size[0]  # type: ignore[index]
        raise ValueError(
            f"model.weights={weights} of {name} is for images of {side} x {side} pixels, as each of their patches has "
            f"an embedding of its own; set dataset.image_size={side}."
        )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
