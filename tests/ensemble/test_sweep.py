"""Many thresholds at once answer as one gate at each of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eed_search.ensemble.gate import DeployedGate, Gate, MarginGate, prefix_means
from eed_search.ensemble.sweep import answers_at, highest_threshold, rounding_of, swept_thresholds


def _probabilities(members: int = 3, batch: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return (3 * torch.randn(members, batch, 5, generator=generator)).softmax(-1)


@pytest.mark.parametrize("gate", [Gate(sharpness=1.5, tau=0.7), MarginGate(0.5)], ids=["eed", "margin"])
@pytest.mark.parametrize("members", [1, 2, 4])
def test_it_says_what_the_gate_says_at_each_threshold(members: int, gate: DeployedGate) -> None:
    logs = _probabilities(members).log()
    thresholds = torch.linspace(0, 1.1, 12) * (1 if isinstance(gate, Gate) else 8)
    labels, run = answers_at(gate, logs, thresholds)
    for i, threshold in enumerate(thresholds.tolist()):
        decision = replace(gate, threshold=threshold).decide_logs(logs)
        assert torch.equal(labels[i], decision.labels)
        assert torch.equal(run[i], decision.members_run)
    assert len(run.unique()) == members


def test_a_margins_sweep_reaches_beyond_every_lead() -> None:
    """Its thresholds have no natural upper end: the last one lies above all leads, and all members run there."""
    gate, logs = MarginGate(1.0), _probabilities().log()
    leads = gate.readings(logs).stops[:-1].numpy()
    thresholds = swept_thresholds(leads, 1000, high=highest_threshold(gate, leads), rounding=rounding_of(gate))
    assert leads.max() < thresholds[-1] < leads.max() + 1
    assert np.abs(leads.ravel()[None] - thresholds[:, None]).min() > 1e-4
    _, run = answers_at(gate, logs, torch.from_numpy(thresholds[-1:]))
    assert (run == 3).all()


def test_thresholds_lie_between_observed_values_and_part_them_evenly() -> None:
    stop = Gate().stop_probabilities(prefix_means(_probabilities()))[:-1].numpy()
    thresholds = swept_thresholds(stop, 9)
    assert len(thresholds) == 9
    assert (np.diff(thresholds) > 0).all()
    assert np.abs(stop.ravel()[None] - thresholds[:, None]).min() > 1e-6
    shares = [(stop < t).mean() for t in thresholds]
    assert shares == pytest.approx((np.arange(9) + 0.5) / 9, abs=0.03)


def test_few_different_values_give_few_thresholds() -> None:
    assert swept_thresholds(np.full((1, 50), 0.5), 9).tolist() == [0.25, 0.75]


def test_neighbours_that_rounding_could_swap_have_no_threshold_between_them() -> None:
    assert swept_thresholds(np.array([[0.5, 0.5 + 1e-6]]), 9) == pytest.approx([0.25, 0.75], abs=1e-5)
