"""The data sets of the training script; a user of the callback needs none of them."""

from alignprune_pl.data.array_rows import ArrayRows
from alignprune_pl.data.arrays import arrays
from alignprune_pl.data.cifar import cifar10, cifar10n, cifar100, cifar100n
from alignprune_pl.data.clothing1m import clothing1m
from alignprune_pl.data.datamodule import NoisyData
from alignprune_pl.data.dataset import MemoryDataset, ViewedDataset
from alignprune_pl.data.digits import digits
from alignprune_pl.data.fashion_mnist import fashion_mnist
from alignprune_pl.data.files import DataFileError, ImageFiles
from alignprune_pl.data.imagenet import imagenet, tiny_imagenet
from alignprune_pl.data.mended import read_labels
from alignprune_pl.data.own import csv_files, image_folder
from alignprune_pl.data.sets import Benchmark, Part
from alignprune_pl.data.splits import pseudo_clean, reference_split
from alignprune_pl.data.views import Columns, CropFlip, Views
from alignprune_pl.data.webvision import webvision

__all__ = [
    "ArrayRows",
    "Benchmark",
    "Columns",
    "CropFlip",
    "DataFileError",
    "ImageFiles",
    "MemoryDataset",
    "NoisyData",
    "Part",
    "ViewedDataset",
    "Views",
    "arrays",
    "cifar10",
    "cifar10n",
    "cifar100",
    "cifar100n",
    "clothing1m",
    "csv_files",
    "digits",
    "fashion_mnist",
    "image_folder",
    "imagenet",
    "pseudo_clean",
    "read_labels",
    "reference_split",
    "tiny_imagenet",
    "webvision",
]
