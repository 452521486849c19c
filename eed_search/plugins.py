"""What your own code calls to register an importance score, a way to make a member, a network or a data source.

A search-space file names that code under `plugins:`; docs/plugins.md shows one of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from eed_search.config.names import register
from eed_search.config.registry import Kind

Made = TypeVar("Made", bound=Callable[..., Any])


def score(name: str) -> Callable[[Made], Made]:
    """Register `function(model, batch) -> {"layer.weight": tensor}`, higher for what is worth keeping.

    Every convolution and linear layer (`eed_search.compression.scores.weight_layers`) needs a tensor of its weight's
    shape; `batch` is a `ScoreBatch` of training images.

    Args:
        name: As `search.space.score` names it.

    Raises:
        SpecError: If the name is taken, or the function cannot be called so.
    """
    return _register("score", name)


def compressor(name: str) -> Callable[[Made], Made]:
    """Register `function(base, target, work) -> Member`, as `eed_search.compression.contract.Compress` says.

    Args:
        name: As `search.space.method` names it.

    Raises:
        SpecError: If the name is taken, or the function cannot be called so.
    """
    return _register("method", name)


def model(name: str) -> Callable[[Made], Made]:
    """Register `function(width, num_classes, in_channels, mean, std) -> torch.nn.Module`, or such a class.

    It maps images in [0, 1] to logits and normalises inside.

    Args:
        name: As `model.name` names it.

    Raises:
        SpecError: If the name is taken, or the function cannot be called so.
    """
    return _register("model", name)


def source(name: str) -> Callable[[Made], Made]:
    """Register `function(data) -> Images`, or `-> (Images, Images)` for training and test images.

    `data` is section `data` of the file (`data.path`, …); `Images` is `eed_search.data.images.Images`.

    Args:
        name: As `data.source` names it.

    Raises:
        SpecError: If the name is taken, or the function cannot be called so.
    """
    return _register("source", name)


def _register(kind: Kind, name: str) -> Callable[[Made], Made]:
    def decorate(make: Made) -> Made:
        register(kind, name, make)
        return make

    return decorate
