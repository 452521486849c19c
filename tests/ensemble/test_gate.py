"""The gate against its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eed_search.ensemble.gate import Gate, GatedEnsemble, log_prefix_mean, prefix_means

RANDOM = {"members": st.integers(1, 5), "classes": st.integers(2, 6), "seed": st.integers(0, 10_000)}


def answers(members: int, classes: int, seed: int, batch: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(members, batch, classes, generator=generator, dtype=torch.float64)).softmax(-1)


def slow_stop(means: list[list[float]], t: int, gate: Gate) -> float:
    """q_t for one sample, written out."""
    if t == len(means) - 1:
        return 1.0
    classes = len(means[t])
    confidence = (max(means[t]) - 1 / classes) / (1 - 1 / classes)
    stop = confidence**gate.sharpness
    if t > 0:
        divergence = sum(p * math.log(p / q) for p, q in zip(means[t], means[t - 1], strict=True))
        stop *= math.exp(-divergence / gate.tau)
    return stop


@given(**RANDOM, sharpness=st.sampled_from([0.5, 1.0, 3.0]), tau=st.sampled_from([0.1, 1.0]))
@settings(max_examples=30, deadline=None)
def test_stop_probabilities_follow_their_definition(members, classes, seed, sharpness, tau):
    """conf^a · exp(−KL(mean_t ‖ mean_{t−1}) / tau), confidence alone first, 1 last."""
    gate = Gate(sharpness=sharpness, tau=tau)
    means = prefix_means(answers(members, classes, seed, batch=4))
    found = gate.stop_probabilities(means)
    for sample in range(4):
        rows = means[:, sample].tolist()
        expected = [slow_stop(rows, t, gate) for t in range(members)]
        assert found[:, sample].tolist() == pytest.approx(expected, abs=1e-9)


@given(**RANDOM, threshold=st.floats(0, 1.2))
@settings(max_examples=30, deadline=None)
def test_the_threshold_rule_stops_at_the_first_sure_member(members, classes, seed, threshold):
    """The label is the mean's of the members run, and earlier members were not sure enough."""
    gate, probabilities = Gate(threshold), answers(members, classes, seed)
    means = prefix_means(probabilities)
    stop, decision = gate.stop_probabilities(means), gate.decide(probabilities)
    for sample, (label, run) in enumerate(zip(decision.labels.tolist(), decision.members_run.tolist(), strict=True)):
        assert bool((stop[: run - 1, sample] < threshold).all())
        assert run == members or stop[run - 1, sample] >= threshold
        assert label == int(means[run - 1, sample].argmax())


@given(**RANDOM)
@settings(max_examples=60, deadline=None)
def test_the_certificate_finds_the_full_argmax(members, classes, seed):
    """Rule `map` answers with argmax_t q_t · prod_{i<t}(1 − q_i) although it runs fewer members."""
    gate, probabilities = Gate(rule="map"), answers(members, classes, seed)
    stop = gate.stop_probabilities(prefix_means(probabilities))
    before = torch.cat([torch.ones_like(stop[:1]), torch.cumprod(1 - stop, 0)[:-1]])
    decision = gate.decide(probabilities)
    assert torch.equal(decision.answer, (stop * before).argmax(0) + 1)
    assert bool((decision.answer <= decision.members_run).all())


def test_the_map_rule_saves_members():
    """The certificate is worth having: on sure members it stops early."""
    decision = Gate(rule="map").decide(answers(5, 3, 0, batch=500))
    assert float(decision.members_run.double().mean()) < 3.5


@pytest.mark.parametrize("rule", ["threshold", "map"])
def test_members_behind_the_stop_do_not_matter(rule):
    """Changing what was not run changes nothing, so the runtime may skip it."""
    gate, probabilities = Gate(0.4, rule), answers(4, 5, 1, batch=200)
    decision = gate.decide(probabilities)
    changed = probabilities.clone()
    for sample, run in enumerate(decision.members_run.tolist()):
        changed[run:, sample] = answers(4, 5, 2 + sample, batch=1)[run:, 0]
    again = gate.decide(changed)
    assert all(torch.equal(a, b) for a, b in zip(decision, again, strict=True))


def test_threshold_zero_runs_one_member():
    """Everything is sure enough."""
    assert bool((Gate(0.0).decide(answers(4, 3, 0)).members_run == 1).all())


def test_a_threshold_above_one_runs_all():
    """Nothing is sure enough, and the last member always stops."""
    decision = Gate(1.0001).decide(answers(4, 3, 0))
    assert bool((decision.members_run == 4).all())
    assert torch.equal(decision.labels, answers(4, 3, 0).mean(0).argmax(-1))


def test_the_ensemble_gives_the_log_of_the_deployed_mean():
    """`forward` is what an attack sees: log of the prefix mean that answers."""
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(3)]
    team, images = GatedEnsemble(members, Gate(0.2)), torch.rand(20, 1, 2, 2)
    decision = team.decide(images)
    means = prefix_means(team.member_log_probabilities(images).exp())
    expected = torch.stack([means[run - 1, i] for i, run in enumerate(decision.members_run.tolist())]).log()
    torch.testing.assert_close(team(images), expected)
    assert len(set(decision.members_run.tolist())) > 1  # the gate does gate


def test_the_log_of_a_mean_does_not_underflow():
    """Members sure beyond float32 still give finite logs and gradients."""
    logs = (torch.tensor([[[300.0, 0.0]], [[250.0, 0.0]]])).log_softmax(-1).requires_grad_()
    mean = log_prefix_mean(logs, torch.tensor([2]))
    mean[0, 1].backward()
    assert bool(torch.isfinite(mean).all())
    assert float(logs.grad.abs().sum()) > 0


def test_a_team_needs_a_member():
    """An empty team is our own mistake."""
    with pytest.raises(ValueError, match="at least one member"):
        GatedEnsemble([], Gate())
