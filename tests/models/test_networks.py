import pytest
import torch

from alignprune_pl.models import mlp, resnet18_cifar, small_cnn


@pytest.mark.parametrize("make", [mlp, small_cnn, resnet18_cifar])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_a_batch_of_images_becomes_a_batch_of_logits(make, shape):
    assert make(shape, 7)(torch.rand(2, *shape)).shape == (2, 7)


def test_resnet18_has_the_papers_size():
    count = sum(p.numel() for p in resnet18_cifar((3, 32, 32), 100).parameters())
    assert round(count / 1e6, 1) == 11.2
