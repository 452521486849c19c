"""Small networks whose costs lie far apart, for the tests that time something."""

from __future__ import annotations

import torch
from torch import nn

from eed_search.config.spec import LatencySpec
from eed_search.deployment.onnx_export import to_onnx

SHAPE = (3, 12, 12)
SPEC = LatencySpec(rounds=5, final_rounds=5, final_calls=1000, final_processes=1, block_ms=8)


def network(width: int, seed: int = 0) -> bytes:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()] * 2
    return to_onnx(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)), SHAPE)


DENSE, HALF, QUARTER = network(64), network(32), network(16)
