"""A small sound bundle, and how whoever means harm would sign an altered one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eed_search.deployment.bundle import Replay, write_bundle
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.runtime import GatedClassifier, GateSettings

SHAPE = (1, 4, 4)
NUM_CLASSES = 3
IMAGES = np.random.default_rng(0).random((9, *SHAPE), dtype=np.float32)
GATE = GateSettings("threshold", 0.5)
CLAIMS = {"clean_accuracy": {"value": 0.9, "low": 0.85, "high": 0.94, "num_samples": 300}}


@cache
def members() -> list[bytes]:
    """Two networks of one layer."""
    torch.manual_seed(0)
    return [to_onnx(nn.Sequential(nn.Flatten(), nn.Linear(16, NUM_CLASSES)), SHAPE) for _ in range(2)]


def make(out: Path) -> Path:
    """Write a sound bundle."""
    answer = GatedClassifier.from_onnx(members(), GATE).predict(IMAGES)
    return write_bundle(
        out,
        members(),
        GATE,
        SHAPE,
        list("abc"),
        replay=Replay(IMAGES, answer.labels, answer.num_members_run),
        claims=CLAIMS,
        config={},
        search_space_yaml="name: demo\n",
    )


def sign(folder: Path, files: Mapping[str, bytes] | None = None, **changes: Any) -> None:
    """Put files into a bundle, change its manifest, and make every digest right again."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, data in (files or {}).items():
        (folder / name).write_bytes(data)
        manifest["sha256"][name] = hashlib.sha256(data).hexdigest()
    sign_text(folder, json.dumps(manifest | changes).encode())


def sign_text(folder: Path, manifest: bytes) -> None:
    """Write a manifest and its digest."""
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(manifest).hexdigest()}  manifest.json\n")
