"""Which networks a search-space file can name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from eed_search.core.errors import ModelError
from eed_search.models.architecture import place
from eed_search.models.mobilenet import MobileNetV2
from eed_search.models.resnet import ResNet18
from eed_search.models.small_cnn import SmallCNN
from eed_search.models.vgg import VGG16BN

MODELS: dict[str, Callable[[int, int, int, tuple[float, ...], tuple[float, ...]], nn.Module]] = {
    "small_cnn": SmallCNN,
    "resnet18": ResNet18,
    "vgg16_bn": VGG16BN,
    "mobilenet_v2": MobileNetV2,
}


def build(
    name: str,
    *,
    width: int,
    num_classes: int,
    in_channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int = 0,
) -> nn.Module:
    """Make a network with fresh weights.

    Args:
        name: One of `MODELS`.
        width: Channels of the first stage.
        num_classes: Size of the output.
        in_channels: Channels of an image.
        mean: Per channel, for the normalisation inside.
        std: Per channel.
        seed: Of the initial weights; the global generator is left as it was.

    Returns:
        The network in training mode, on the CPU, its convolutions in channels-last order (faster on
        CPUs and GPUs alike, equal numbers).

    Raises:
        ModelError: If the name is unknown.
    """
    if name not in MODELS:
        raise ModelError(f"model.name: {name!r} is not one of {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name](width, num_classes, in_channels, mean, std)
    return place(model)
