"""Which prefixes a gate can stop at, for every kind of rule."""

from __future__ import annotations

import pytest
from torch import nn

from eed_search.ensemble.gate import Gate, GatedEnsemble, MarginGate, StopRule
from eed_search.evaluation.prefixes import AllMembers, reachable_prefixes


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (Gate(0.5), (1, 2, 3)),
        (Gate(0.0), (1,)),
        (Gate(1.01), (3,)),
        (Gate(0.0, rule="map"), (1, 2, 3)),  # its threshold plays no part
        (MarginGate(1.5), (1, 2, 3)),  # a lead may well be above 1
        (MarginGate(0.0), (1,)),
        (MarginGate(80.7), (3,)),  # no lead is larger than the floor allows
        (AllMembers(MarginGate(0.0)), (3,)),
    ],
    ids=str,
)
def test_a_threshold_at_an_end_leaves_one_prefix(gate: StopRule, expected: tuple[int, ...]) -> None:
    team = GatedEnsemble([nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(3)], gate)
    assert reachable_prefixes(team) == expected
