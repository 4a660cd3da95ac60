"""The networks of the training script; a user of the callback needs none of them."""

from alignprune_pl.models.from_torchvision import torchvision_classifier
from alignprune_pl.models.networks import mlp, resnet18_cifar, resnet34_cifar, small_cnn

__all__ = ["mlp", "resnet18_cifar", "resnet34_cifar", "small_cnn", "torchvision_classifier"]
