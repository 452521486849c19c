import pytest
import torch
from torch import nn

from eed_search.compression.scores import ScoreBatch
from eed_search.config.spec import TrainingAttack
from eed_search.models import build


def lively(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics, scale and shift that a mistake would show with."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = (module.num_features,)
            module.running_mean = torch.rand(size, generator=generator) - 0.5
            module.running_var = torch.rand(size, generator=generator) * 1.5 + 0.5
            module.weight.data = torch.rand(size, generator=generator) * 3 - 1
            module.bias.data = torch.rand(size, generator=generator) - 0.5
    return model.eval()


@pytest.fixture
def cnn():
    return lively(build("small_cnn", width=8, num_classes=10, in_channels=1, mean=(0.5,), std=(0.25,)))


@pytest.fixture
def resnet():
    return lively(build("resnet18", width=8, num_classes=10, in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3))


@pytest.fixture
def vgg():
    return lively(build("vgg16_bn", width=4, num_classes=10, in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3))


@pytest.fixture
def mobilenet():
    return lively(build("mobilenet_v2", width=4, num_classes=10, in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3))


@pytest.fixture
def digits_batch():
    return batch_of((1, 8, 8))


@pytest.fixture
def colour_batch():
    return batch_of((3, 16, 16))


def batch_of(shape, count=6):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((count, *shape), generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ScoreBatch(images, labels, 0.05, TrainingAttack(steps=2), 0)
