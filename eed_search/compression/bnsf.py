"""The importance score that reads batch normalisation: the weight as inference sees it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eed_search.compression.scores import ScoreBatch, batch_norm_scale, weight_layers


def bnsf(model: nn.Module, batch: ScoreBatch) -> dict[str, Tensor]:
    """Batch-norm scale factor: |gamma * w / sqrt(var + eps)|, the weight as inference sees it.

    Layers that no batch norm follows take gamma / sigma = 1. Looks at the batch only to find which
    batch norm follows which layer.

    Source:
        EED, arXiv 2504.04747 (whose first form lost the square root).
    """
    scales = _following_scales(model, batch.images[:2])
    scores = {}
    for name, layer in weight_layers(model).items():
        weight = layer.weight.detach()
        scale = scales.get(name)
        factor = 1.0 if scale is None else scale.view(-1, *[1] * (weight.ndim - 1))
        scores[f"{name}.weight"] = (weight * factor).abs()
    return scores


def _following_scales(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Find gamma / sigma of the batch norm that takes a layer's output directly, by layer name."""
    makers: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept so that its id stays its own
    scales: dict[str, Tensor] = {}
    handles = []

    def made(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            makers[id(output)] = (name, output)

        return hook

    def taken(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in makers and isinstance(module, nn.modules.batchnorm._BatchNorm):
            scales[makers[id(inputs[0])][0]] = batch_norm_scale(module)

    for name, layer in weight_layers(model).items():
        handles.append(layer.register_forward_hook(made(name)))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            handles.append(module.register_forward_pre_hook(taken))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(images)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return scales
