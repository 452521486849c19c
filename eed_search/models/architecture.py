"""A network's form: resize it to stored weights, count its work, sign it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from eed_search.core.errors import ModelError
from eed_search.models.factored import can_be_factored, factored_like, replace

_LEAST_CHANNELS = 8
Network = TypeVar("Network", bound=nn.Module)


def place(model: Network, device: torch.device | None = None) -> Network:
    """Move a network in place, its convolutions in the order of `layout`: faster on CPUs and GPUs, equal numbers."""
    moved: Network = model.to(device=device, memory_format=layout(model))  # type: ignore[call-overload]
    return moved


def layout(model: nn.Module) -> torch.memory_format:
    """Say in which order a network's images and weights lie: channels last, unless that would corrupt memory.

    Without AVX-512, oneDNN (as of torch 2.13) writes past its buffers in the gradient of the weights of a 1x1 convolution
    that skips pixels, is in channels-last order and has fewer than 8 input channels: the shortcut of a very
    narrow ResNet. The process hangs or dies. Measured 2026-11-30, docs/log.md.
    """
    narrow = any(
        isinstance(part, nn.Conv2d)
        and set(part.kernel_size) == {1}
        and max(part.stride) > 1
        and part.in_channels // part.groups < _LEAST_CHANNELS
        for part in model.modules()
    )
    return torch.contiguous_format if narrow else torch.channels_last


def fit_to_state(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Copy a network with its layers resized to stored weights, and load them.

    This is how a member with fewer channels or with factored layers comes back from the store: the
    base network gives the graph, the stored names the factored layers, the stored shapes the widths.

    Args:
        model: The base network; left untouched.
        state: The member's state dictionary: the same names, or those of a layer's factors; other shapes.

    Returns:
        The member, in evaluation mode.

    Raises:
        ModelError: If a name is missing or left over, which means another architecture.
    """
    fitted = copy.deepcopy(model)
    for name, layer in list(fitted.named_modules()):
        if f"{name}.into.weight" in state and can_be_factored(layer):
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            replace(fitted, name, factored_like(layer, 1, 1))
    expected = fitted.state_dict().keys()
    if missing := sorted(expected - state.keys()):
        raise ModelError(
            f"stored weights belong to another architecture: {missing[0]} is missing; use the base they were cut from"
        )
    if extra := sorted(state.keys() - expected):
        raise ModelError(
            f"stored weights belong to another architecture: {extra[0]} is unknown; use the base they were cut from"
        )
    for name, module in fitted.named_modules():
        weight = state.get(f"{name}.weight" if name else "weight")
        if weight is None:
            continue
        if isinstance(module, nn.Conv2d):
            if module.groups > 1 and module.groups == module.in_channels == module.out_channels:
                module.groups = weight.shape[0]  # depth-wise: one filter a channel
            module.in_channels = weight.shape[1] * module.groups
            module.out_channels = weight.shape[0]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = weight.shape[0]
        for key, tensor in module._parameters.items():
            if tensor is not None:
                module._parameters[key] = nn.Parameter(state[f"{name}.{key}"].clone())
        for key, buffer in module._buffers.items():
            full = f"{name}.{key}"
            if buffer is not None and full in state:
                module._buffers[key] = state[full].clone()
    whole = OrderedDict(state)
    whole._metadata = fitted.state_dict()._metadata  # type: ignore[attr-defined]  # some layers look for their version
    fitted.load_state_dict(whole)
    return fitted.eval()


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image, zeros included (a masked network costs what a dense one does).

    Args:
        model: Any network.
        image_shape: Channels, height, width.

    Returns:
        Half of the floating-point operations that torch's counter sees.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from eed_search.models.without_compiler import spare_compiler

    spare_compiler()
    device = next(model.parameters()).device
    training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *image_shape, device=device))
    model.train(training)
    return int(counter.get_total_flops()) // 2


def signature(model: nn.Module, image_shape: tuple[int, int, int]) -> str:
    """Name an architecture by its layers' kinds and shapes, whatever the weights.

    Two members with equal signatures have equal latency, so each architecture is timed once.
    """
    layers = [
        [name, type(module).__name__, [list(p.shape) for p in module.parameters(recurse=False)]]
        for name, module in model.named_modules()
        if not any(True for _ in module.children())
    ]
    text = json.dumps([type(model).__name__, list(image_shape), layers])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
