"""The data sets of the training script; a user of the callback needs none of them."""

from alignprune_pl.data.cifar import cifar10, cifar100
from alignprune_pl.data.datamodule import NoisyImages
from alignprune_pl.data.digits import digits
from alignprune_pl.data.fashion_mnist import fashion_mnist
from alignprune_pl.data.reference import reference_split
from alignprune_pl.data.sets import ImageDataset, ImageSets

__all__ = [
    "ImageDataset",
    "ImageSets",
    "NoisyImages",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "reference_split",
]
