"""The comparison with MultiAttack goes on after a kill, in pieces that do not depend on how many there are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from torch import nn

from benchmarks import attacks
from eed_search.evaluation.attacks import tier_attacks

NET = "cifar10_cnn_a_adv"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark on a linear network and weak attacks; gives what it wrote and how many pieces it made."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).eval()
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    labels = model(pixels).argmax(1).numpy()
    labels[:5] = (labels[:5] + 1) % 10
    np.savez(tmp_path / "test.npz", images=images, labels=labels)
    made: list[int] = []
    whole = attacks.piece

    def counted(*given: Any, **named: Any) -> dict[str, Any]:
        made.append(len(given[2]))
        return whole(*given, **named)

    monkeypatch.setattr(attacks, "piece", counted)
    monkeypatch.setattr(attacks, "load", lambda name, folder: model)
    monkeypatch.setattr(attacks, "peer_attack", lambda model, eps, seed: torchattacks.FGSM(model, eps=eps))
    few = lambda model, tier, **named: tier_attacks(model, 0, **named)  # noqa: E731
    monkeypatch.setattr(attacks, "tier_attacks", few)

    def run(samples: int, *options: str) -> tuple[dict[str, Any], int]:
        made.clear()
        out = tmp_path / "out.json"
        arguments = ["--weights", "none", "--images", tmp_path / "test.npz", "--keep", tmp_path / "kept", "--out", out]
        arguments += [
            "--samples",
            samples,
            "--batch",
            10,
            "--nets",
            NET,
            "--threads",
            torch.get_num_threads(),
            *options,
        ]
        monkeypatch.setattr(sys, "argv", ["attacks.py", *map(str, arguments)])
        attacks.main()
        return json.loads(out.read_text())["nets"][NET], len(made)

    return run


def test_what_is_finished_is_read_and_what_is_not_is_made(command: Any, tmp_path: Path) -> None:
    """A killed run's pieces stay; a damaged one, and those of another budget, are made again."""
    first, made = command(20)
    assert made == 2
    assert first["samples"] == 20
    assert first["clean"] == 0.75
    assert first["ours"] < first["clean"]
    assert first["cpu_ratio"] > 0
    more, made = command(30)
    assert (more["samples"], made) == (30, 1)
    again, made = command(30)
    assert (again, made) == (more, 0)
    (tmp_path / "kept" / f"{NET}-00010-00019.json").write_text('{"key"')
    mended, made = command(30)
    assert made == 1
    assert [mended[name] for name in ("ours", "peer", "clean")] == [more[name] for name in ("ours", "peer", "clean")]
    _, made = command(30, "--eps", "4")
    assert made == 3


def test_who_begins_takes_turns(command: Any, tmp_path: Path) -> None:
    command(30)
    pieces = [json.loads(path.read_text())["piece"] for path in sorted((tmp_path / "kept").iterdir())]
    assert [piece["first"] for piece in pieces] == ["ours", "peer", "ours"]
