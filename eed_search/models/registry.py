"""Which networks a search-space file can name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from eed_search.config import names, registry
from eed_search.config.image_sizes import too_small
from eed_search.config.torchvision_names import TORCHVISION
from eed_search.core.errors import ModelError
from eed_search.models.architecture import place
from eed_search.models.torchvision_network import TorchvisionNetwork

if TYPE_CHECKING:
    from eed_search.config.spec import Model
    from eed_search.data.splits import Splits

Statistics = tuple[float, ...]
Make = Callable[[int, int, int, Statistics, Statistics], nn.Module]


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
        name: A name of the registry, `torchvision:NAME`, or registered by user code.
        width: Channels of the first stage; torchvision's networks have a width of their own.
        num_classes: Size of the output.
        in_channels: Channels of an image.
        mean: Per channel, for the normalisation inside.
        std: Per channel.
        seed: Seed for the initial weights; the global generator is left as it was.

    Returns:
        The network in training mode, on the CPU, its convolutions in channels-last order (faster on
        CPUs and GPUs alike, equal numbers).

    Raises:
        ModelError: If the name is unknown, or the network cannot be made.
    """
    make = _maker(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(width, num_classes, in_channels, mean, std)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {name} gives {type(model).__name__}; needs a torch.nn.Module")
    return place(model)


def build_for(model: Model, data: Splits, seed: int = 0) -> nn.Module:
    """Make the network that a file names, for the images that it is to see.

    Args:
        model: Section `model` of the file.
        data: Gives the channels, the classes and the normalisation inside.
        seed: Seed for the initial weights.

    Raises:
        ModelError: If the name is unknown, or the network cannot be made.
    """
    return build(
        model.name,
        width=model.width,
        num_classes=data.num_classes,
        in_channels=data.image_shape[0],
        mean=data.mean,
        std=data.std,
        seed=seed,
    )


def _maker(name: str) -> Make:
    if name in registry.BUILT_IN["model"]:
        built_in: Make = registry.load("model", name)
        return built_in
    if name.startswith(TORCHVISION):
        return partial(TorchvisionNetwork, name.removeprefix(TORCHVISION))
    if (found := names.find("model", name)) is None:
        raise ModelError(f"model.name: {name!r} is not one of {', '.join(names.known('model'))}")
    return found.make


def check_images(model: nn.Module, name: str, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Refuse a network that cannot take the images, or does not give logits for them.

    Args:
        model: Untrained.
        name: As the file gives it.
        image_shape: Channels, height, width.
        num_classes: Logits that it must give.

    Raises:
        ModelError: If they are smaller than it can learn from, it fails on them or gives anything else.
    """
    channels, height, width = image_shape
    if problem := too_small(name, height, width):
        raise ModelError(problem)
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, *image_shape))
    except Exception as error:  # whatever a layer raises
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"model.name: {name} cannot take images of {height}×{width} with {channels} channels ({said}); give larger"
            " images, or take another model"
        ) from error
    finally:
        model.train(training)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, num_classes):
        given = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(f"model.name: {name} gives {given} for 2 images; needs logits [2, {num_classes}]")
