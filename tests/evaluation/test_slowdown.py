"""How far a search slows a gate down: the label stays, other thresholds are bounded, nothing is slower than it can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eed_search.config.spec import Evaluation
from eed_search.data.splits import Split
from eed_search.ensemble.gate import Gate, GatedEnsemble
from eed_search.evaluation.attacks import slow_down
from eed_search.evaluation.robust import evaluate_robustness
from eed_search.evaluation.slowdown import Slowed, slowed
from tests.evaluation.attacks.test_slow_down import IMAGES, member

CPU = torch.device("cpu")
SPLIT = Split(IMAGES, torch.zeros(len(IMAGES), dtype=torch.long))
THRESHOLDS = np.array([0.2, 0.4, 0.7])
MEMBERS = [member(seed) for seed in range(3)]


def run(gate: Gate, *, thresholds: np.ndarray | None = None, batch_size: int = 60, steps: int = 10) -> Slowed:
    return slowed(
        GatedEnsemble(MEMBERS, gate),
        SPLIT,
        eps=0.04,
        steps=steps,
        batch_size=batch_size,
        seed=3,
        device=CPU,
        thresholds=thresholds,
    )


def test_it_is_the_slow_down_attack_in_its_cheap_form() -> None:
    """More members than on clean images, and just those that the attack's own images make the team ask."""
    team = GatedEnsemble(MEMBERS, Gate(0.4))
    found = run(Gate(0.4))
    attack = slow_down(team, IMAGES, eps=0.04, steps=10, seed=3, batch_size=60)
    decided = team.decide(attack.adversarial)
    assert np.array_equal(found.run, decided.members_run.numpy())
    assert torch.equal(decided.labels, team.decide(IMAGES).labels)
    assert found.run.mean() > attack.clean_run.float().mean() + 0.1
    assert found.attack == "S1 slow-down, 10 steps"


def test_the_batch_size_changes_nothing() -> None:
    whole, parts = (run(Gate(0.4), thresholds=THRESHOLDS, batch_size=size) for size in (60, 7))
    assert np.array_equal(whole.run, parts.run)
    assert np.array_equal(whole.swept_run, parts.swept_run)


def test_other_thresholds_get_lower_bounds() -> None:
    """At least the clean cost; at the gate's own threshold the attack's; elsewhere what an own attack mostly exceeds."""
    found = run(Gate(0.4), thresholds=THRESHOLDS)
    for threshold, replayed in zip(THRESHOLDS, found.swept_run, strict=True):
        clean = GatedEnsemble(MEMBERS, Gate(float(threshold))).decide(IMAGES).members_run.numpy()
        assert (replayed >= clean).all()
        assert run(Gate(float(threshold))).run.mean() >= replayed.mean() - 0.02
    assert np.array_equal(found.swept_run[1], found.run)


@pytest.mark.parametrize("sweep", [0, 5])
def test_the_attack_on_accuracy_says_what_it_cost(sweep: int) -> None:
    """On an image that it tried: never below one member; with no budget the clean cost, exactly."""
    team = GatedEnsemble(MEMBERS, Gate(0.4))
    split = Split(IMAGES, team.decide(IMAGES).labels)
    settings = Evaluation(steps=5, batch_size=32)
    still = evaluate_robustness(team, split, eps=0.0, settings=settings, seed=0, device=CPU, sweep=sweep)
    assert np.array_equal(still.attacked_run, still.members_run)
    assert np.array_equal(still.swept_attacked_run, still.swept_members_run)
    found = evaluate_robustness(team, split, eps=0.05, settings=settings, seed=0, device=CPU, sweep=sweep)
    assert found.attacked_run.shape == found.members_run.shape
    assert set(np.unique(found.attacked_run)) <= {1, 2, 3}
    assert not np.array_equal(found.attacked_run, found.members_run)
    assert found.swept_attacked_run.shape == found.swept_members_run.shape


def test_samples_that_were_wrong_already_cost_what_they_cost_clean() -> None:
    """Nobody attacks them."""
    team = GatedEnsemble(MEMBERS, Gate(0.4))
    split = Split(IMAGES, (team.decide(IMAGES).labels + 1) % 4)
    found = evaluate_robustness(team, split, eps=0.05, settings=Evaluation(steps=3), seed=0, device=CPU)
    assert np.array_equal(found.attacked_run, found.members_run)


@pytest.mark.parametrize("batch_size", [60, 7])
def test_the_attack_tells_at_each_step_how_far_it_is(batch_size: int) -> None:
    """From one look at the first batch to the last look at the last one."""
    told: list[float] = []
    slowed(
        GatedEnsemble(MEMBERS, Gate(0.4)),
        SPLIT,
        eps=0.04,
        steps=4,
        batch_size=batch_size,
        seed=3,
        device=CPU,
        tell=told.append,
    )
    assert told == sorted(told)
    assert len(told) == 11 * -(-len(SPLIT) // batch_size)
    assert told[-1] == 1
