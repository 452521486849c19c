"""Bugs planted in an attack turn a sanity check red; the same attack without them passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from eed_search.ensemble.gate import Gate, GatedEnsemble
from eed_search.evaluation import assess as module
from eed_search.evaluation.assess import assess
from eed_search.evaluation.attacks import NamedAttack
from eed_search.runs.attack_records import AttackResult
from tests.evaluation import defences
from tests.evaluation.test_assess import target


@dataclass
class Pgd:
    """Projected gradient ascent that keeps what it finds, and can be given four bugs."""

    team: GatedEnsemble[Any]
    eps: float
    bug: str = ""
    steps: int = 10

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.bug == "train mode":
            self.team.train()
        best, low, high = images.clone(), (images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1)
        moved = images.clone()
        for step in range(self.steps + 3):
            point = moved.clone().requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(self.team(point), labels), point)
            wrong = self.team.decide(moved).labels != labels
            best[wrong] = moved[wrong]
            # the last steps leap back: whoever keeps the last iterate alone loses what was found
            length = self.eps / 3 if step < self.steps and self.bug != "sign" else -2 * self.eps
            moved = moved + length * slope.sign()
            moved = moved.clamp(0, 1) if self.bug == "missing projection" else torch.clamp(moved, low, high)
        return moved if self.bug == "last iterate" else best


def result(bug: str, team: GatedEnsemble[Any], home: Path, monkeypatch: pytest.MonkeyPatch) -> AttackResult:
    def attacks(team: GatedEnsemble[Any], tier: int, *, eps: float, **_: object) -> list[NamedAttack]:
        return [NamedAttack("APGD", "APGD-CE stand-in", Pgd(team, eps, bug))]

    monkeypatch.setattr(module, "tier_attacks", attacks)
    return assess(replace(target(team), deploy=None), 1, seed=0, home=home)


def red(found: AttackResult) -> set[int]:
    return {check.number for check in found.checks if not check.passed}


def batch_normed() -> GatedEnsemble[Any]:
    """A network whose answers in train mode depend on the batch, and change it."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(1, momentum=0.5)
    norm.running_mean.fill_(0.4)
    return GatedEnsemble([nn.Sequential(norm, defences.trained(4, 0))], Gate(2.0)).eval()


@pytest.mark.parametrize("make", [defences.honest, batch_normed])
def test_the_attack_without_a_bug_passes(
    make: Callable[[], GatedEnsemble[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = result("", make(), tmp_path, monkeypatch)
    assert red(found) <= {5}  # so few steps: twice as many may find more
    assert found.robust.value < found.clean.value


@pytest.mark.parametrize(
    ("bug", "check", "make"),
    [
        ("sign", 4, defences.honest),
        ("missing projection", 2, defences.honest),
        ("last iterate", 4, defences.honest),
        ("train mode", 3, batch_normed),
    ],
)
def test_a_bug_turns_a_check_red(
    bug: str,
    check: int,
    make: Callable[[], GatedEnsemble[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = result(bug, make(), tmp_path, monkeypatch)
    assert check in red(found)
    assert found.badge == "invalid"
