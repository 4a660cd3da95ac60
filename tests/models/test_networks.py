import pytest
import torch
from torch import nn

from alignprune_pl.models import mlp, resnet18_cifar, resnet34_cifar, small_cnn


@pytest.mark.parametrize("make", [mlp, small_cnn, resnet18_cifar, resnet34_cifar])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_a_batch_of_images_becomes_a_batch_of_logits(make, shape):
    assert make(shape, 7)(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(("make", "millions"), [(resnet18_cifar, 11.2), (resnet34_cifar, 21.3)])
def test_the_residual_networks_have_the_papers_size(make, millions):
    count = sum(p.numel() for p in make((3, 32, 32), 100).parameters())
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("make", [resnet18_cifar, resnet34_cifar])
def test_the_stem_for_small_images_keeps_their_size(make):
    network = make((3, 32, 32), 10)
    assert network.maxpool(network.conv1(torch.rand(1, 3, 32, 32))).shape == (1, 64, 32, 32)


def test_the_initial_weights_of_a_seed_are_those_behind_the_published_figures():
    torch.manual_seed(0)
    fully_connected, convolutional = mlp((1, 28, 28), 10), small_cnn((1, 28, 28), 10)
    torch.manual_seed(0)
    expected = [
        *(nn.Linear(784, 512, bias=False), nn.BatchNorm1d(512), nn.Linear(512, 256, bias=False), nn.BatchNorm1d(256)),
        nn.Linear(256, 10),
        *(nn.Conv2d(1, 32, 3, bias=False), nn.BatchNorm2d(32), nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64)),
        *(nn.Conv2d(64, 128, 3, bias=False), nn.BatchNorm2d(128), nn.Linear(128, 10)),
    ]
    drawn = [*fully_connected.parameters(), *convolutional.parameters()]
    for found, parameter in zip(drawn, nn.ModuleList(expected).parameters(), strict=True):
        assert torch.equal(found, parameter)
