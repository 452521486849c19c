"""What every stop rule promises, and the margin rule against its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eed_search.ensemble.gate import Gate, GatedEnsemble, MarginGate, StopRule

RULES = [
    Gate(0.4),
    Gate(0.6, sharpness=2.0, tau=0.3),
    Gate(rule="map"),
    Gate(rule="map", sharpness=3.0),
    MarginGate(1.5),
]
each_rule = pytest.mark.parametrize("rule", RULES, ids=["eed", "sharp", "map", "sharp map", "margin"])


def logs_of(seed: int, members: int = 4, classes: int = 5, batch: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(members, batch, classes, generator=generator, dtype=torch.float64)).log_softmax(-1)


@each_rule
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_prefix_stops_where_its_surplus_is_not_negative(rule: StopRule, seed: int) -> None:
    """The first such prefix runs last; without one, all members run."""
    logs = logs_of(seed)
    reached = rule.surplus(rule.combine(logs)) >= 0
    reached[-1] = True
    assert torch.equal(rule.decide_logs(logs).members_run, reached.to(torch.uint8).argmax(0) + 1)


@each_rule
def test_the_label_is_the_answering_prefixs_best_class(rule: StopRule) -> None:
    logs = logs_of(1)
    decision, combined = rule.decide_logs(logs), rule.combine(logs)
    expected = [int(combined[answer - 1, i].argmax()) for i, answer in enumerate(decision.answer.tolist())]
    assert decision.labels.tolist() == expected


@each_rule
def test_members_behind_the_stop_do_not_matter(rule: StopRule) -> None:
    logs = logs_of(2)
    decision = rule.decide_logs(logs)
    other = torch.where(torch.arange(4)[:, None, None] < decision.members_run[:, None], logs, logs_of(3))
    assert all(torch.equal(a, b) for a, b in zip(decision, rule.decide_logs(other), strict=True))


@each_rule
def test_soft_stops_are_chances_and_have_a_slope(rule: StopRule) -> None:
    logs = logs_of(4).requires_grad_(True)
    stops = rule.soft_stops(rule.combine(logs))
    assert bool(((stops >= 0) & (stops <= 1)).all())
    assert bool((stops[-1] == 1).all())
    stops[0].sum().backward()
    assert logs.grad is not None
    assert float(logs.grad.abs().sum()) > 0


def test_the_margin_rule_follows_its_definition() -> None:
    """Mean logits of the members so far; the first lead of at least the threshold answers."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(3, 50, 4, dtype=torch.float64)
    decision = MarginGate(2.0).decide_logs(logits.log_softmax(-1))
    for i in range(50):
        for k in (1, 2, 3):
            first, second = logits[:k, i].mean(0).sort(descending=True).values[:2].tolist()
            if first - second >= 2.0 or k == 3:
                break
        assert int(decision.members_run[i]) == k
        assert int(decision.labels[i]) == int(logits[:k, i].mean(0).argmax())


@each_rule
def test_the_ensembles_logits_have_the_deployed_label(rule: StopRule) -> None:
    torch.manual_seed(1)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(9, 5)) for _ in range(4)]
    team, images = GatedEnsemble(members, rule), torch.rand(80, 1, 3, 3)
    assert torch.equal(team(images).argmax(-1), team.decide(images).labels)
