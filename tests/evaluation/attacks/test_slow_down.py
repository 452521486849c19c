"""The slow-down attack: more members run, the same answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eed_search.ensemble.gate import Gate, GatedEnsemble, MarginGate, StopRule
from eed_search.evaluation.attacks import slow_down


def member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layer = nn.Linear(36, 4)
    layer.weight.data *= 4
    return nn.Sequential(nn.Flatten(), layer)


IMAGES = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gate", [Gate(0.4), Gate(rule="map"), MarginGate(0.8)], ids=["eed", "map", "margin"])
def test_more_members_run_and_the_answers_stay(gate: StopRule) -> None:
    """What the attack claims is what the team does on its images."""
    team = GatedEnsemble([member(seed) for seed in range(4)], gate)
    found = slow_down(team, IMAGES, eps=0.04, steps=30, batch_size=25)
    clean, attacked = team.decide(IMAGES), team.decide(found.adversarial)
    assert torch.equal(found.clean_run, clean.members_run)
    assert torch.equal(found.attacked_run, attacked.members_run)
    assert torch.equal(found.labels, clean.labels)
    assert torch.equal(attacked.labels, clean.labels)
    assert (found.attacked_run >= found.clean_run).all()
    assert found.attacked_run.float().mean() > found.clean_run.float().mean() + 0.3
    assert (found.adversarial - IMAGES).abs().max() <= 0.04 + 1e-6


def test_a_gate_that_stops_at_once_cannot_be_slowed() -> None:
    team = GatedEnsemble([member(seed) for seed in range(3)], Gate(0.0))
    found = slow_down(team, IMAGES, eps=0.1, steps=5)
    assert (found.attacked_run == 1).all()
    assert torch.equal(found.adversarial, IMAGES)
