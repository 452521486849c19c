"""The process's own random generators: what a network or user code draws from when nobody gives it one.

Our code draws from generators of its own; layers such as dropout, and plugins, draw from these.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def generators_state(device: torch.device) -> dict[str, Tensor]:
    """Give the states of torch's (the processor's and the device's), numpy's and Python's global generators."""
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    numpy["state"] = {name: np.asarray(value).tolist() for name, value in numpy["state"].items()}
    others = json.dumps({"numpy": numpy, "python": random.getstate()}).encode()
    kept = {"torch": torch.get_rng_state(), "others": torch.frombuffer(bytearray(others), dtype=torch.uint8)}
    if device.type == "cuda":
        kept["device"] = torch.cuda.get_rng_state(device)
    return kept


def restore_generators(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Let them go on from what `generators_state` gave."""
    torch.set_rng_state(state["torch"])
    others = json.loads(state["others"].numpy().tobytes())
    numpy = others["numpy"]
    numpy["state"]["key"] = np.asarray(numpy["state"]["key"], np.uint32)
    np.random.set_state(numpy)
    version, words, gauss = others["python"]
    random.setstate((version, tuple(words), gauss))
    if "device" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
