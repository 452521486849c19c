"""Layers of low rank: one convolution or linear layer as two or three in a row, with nothing between them."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

Layer = nn.Conv2d | nn.Linear


class Factored(nn.Sequential):
    """A layer's factors, named `into`, `core` (K×K convolutions only) and `out`.

    A K×K convolution I→O becomes 1×1 I→r2, K×K r2→r1 (with the layer's stride, padding, dilation) and
    1×1 r1→O (with the layer's bias): Tucker-2. A 1×1 convolution or a linear layer becomes two: a product of matrices.

    Source:
        Kim et al. 2016, arXiv 1511.06530 (Tucker-2 for convolutions).
    """


def can_be_factored(layer: nn.Module) -> bool:
    """Whether a layer has such a form: linear layers, and convolutions without groups (1×1: without padding)."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and (tuple(layer.kernel_size) != (1, 1) or is_pointwise(layer))
    return isinstance(layer, nn.Linear)


def is_pointwise(layer: Layer) -> bool:
    """Whether a layer is one matrix: linear, or a 1×1 convolution without padding."""
    return isinstance(layer, nn.Linear) or (tuple(layer.kernel_size) == (1, 1) and tuple(layer.padding) == (0, 0))


def factored_like(layer: Layer, rank_out: int, rank_in: int) -> Factored:
    """Make the factored form of a layer, with fresh weights.

    Args:
        layer: Where stride, padding, dilation and bias come from.
        rank_out: r1, of the output side; a matrix has one rank, this one.
        rank_in: r2, of the input side.
    """
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return Factored(
            OrderedDict(
                into=nn.Linear(layer.in_features, rank_out, bias=False),
                out=nn.Linear(rank_out, layer.out_features, bias=bias),
            )
        )
    out = nn.Conv2d(rank_out, layer.out_channels, 1, bias=bias)
    if is_pointwise(layer):
        into = nn.Conv2d(layer.in_channels, rank_out, 1, stride=_pair(layer.stride), bias=False)
        return Factored(OrderedDict(into=into, out=out))
    core = nn.Conv2d(
        rank_in,
        rank_out,
        _pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
        dilation=_pair(layer.dilation),
        padding_mode=layer.padding_mode,
        bias=False,
    )
    return Factored(OrderedDict(into=nn.Conv2d(layer.in_channels, rank_in, 1, bias=False), core=core, out=out))


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    """Height and width, which torch types as any number of numbers."""
    height, width = values
    return height, width


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in another's place, by its dotted name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
