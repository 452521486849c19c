"""Latency of single networks: sums by hand, the probe on real onnxruntime sessions.

No test asserts a time: those that measure one compare what lies far apart in one run, by a clock that does not count
how long others had the processor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from eed_search.deployment.onnx_export import to_onnx
from eed_search.evaluation import timing
from eed_search.evaluation.latency import (
    LatencyProbe,
    RatioEstimate,
    additive_latency,
    architecture_signature,
    sentinel_holds,
)
from eed_search.evaluation.timing import MIN_CALLS
from eed_search.runs.records import Interval
from tests.evaluation.clocks import COMPUTING, ticking
from tests.evaluation.networks import DENSE, HALF, QUARTER, SHAPE, SPEC, network


@pytest.fixture(autouse=True)
def _short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARM_UP_S", 0.05)


@pytest.fixture
def probe() -> LatencyProbe:
    """Build a probe of the dense network with the half one as sentinel."""
    return LatencyProbe(DENSE, HALF, SHAPE, SPEC, COMPUTING)


def _estimate(value: float, noisy: bool = False) -> RatioEstimate:
    return RatioEstimate(
        Interval(value, 0.98 * value, 1.02 * value), value, value, noisy, 15, 1000, None, (value,) * 15
    )


def test_additive_latency_by_hand() -> None:
    """Base 10 ms, members at 0.2, 0.3, 0.5 of it, gate 0.1 ms: exits cost 2.1, 5.2 and 10.3 ms."""
    found = additive_latency([_estimate(0.2), _estimate(0.3), _estimate(0.5)], [0.7, 0.2, 0.1], 10.0, 0.1)
    assert found.latency_ms.value == pytest.approx(0.7 * 2.1 + 0.2 * 5.2 + 0.1 * 10.3)
    assert found.latency_ms.low == pytest.approx(0.98 * (1.4 + 1.0 + 1.0) + 0.1 * 1.4)
    assert found.latency_ms.high == pytest.approx(1.02 * (1.4 + 1.0 + 1.0) + 0.1 * 1.4)
    assert (found.p50_ms, found.p95_ms, found.num_calls) == (None, None, 0)  # never called as a team
    assert found.worst_case_ms == pytest.approx(10.3)
    assert found.speedup.value == pytest.approx(10 / found.latency_ms.value)
    assert found.speedup.low == pytest.approx(10 / found.latency_ms.high)
    assert found.worst_case_speedup == pytest.approx(10 / 10.3)
    assert (found.method, found.noisy) == ("additive", False)


def test_one_member_pays_no_gate() -> None:
    """A team of one is its member, single calls included."""
    found = additive_latency([_estimate(0.25, noisy=True)], [1.0], 8.0, 0.1)
    assert found.latency_ms.value == found.worst_case_ms == pytest.approx(2.0)
    assert (found.p50_ms, found.p95_ms, found.num_calls) == (2.0, 2.0, 1000)
    assert found.noisy


def test_no_percentile_rests_on_fewer_than_a_thousand_calls() -> None:
    """A network too heavy to be called often says how often it was, and no p50 and p95."""
    found = additive_latency([replace(_estimate(0.25), num_calls=999)], [1.0], 8.0, 0.1)
    assert (found.p50_ms, found.p95_ms, found.num_calls) == (None, None, 999)


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.4], [1.2, -0.2]])
def test_wrong_exit_shares_are_refused(shares: list[float]) -> None:
    """Shares must fit the members and sum to 1."""
    with pytest.raises(ValueError, match="exit shares"):
        additive_latency([_estimate(0.2), _estimate(0.3)], shares, 1.0, 0.0)


def test_sentinel_that_moved_is_noticed() -> None:
    """More than twice the limit from the earlier median, up or down, is too far."""
    assert sentinel_holds(0.3, [], 0.03)
    assert sentinel_holds(0.315, [0.30, 0.29, 0.31], 0.03)
    assert not sentinel_holds(0.320, [0.30, 0.29, 0.31], 0.03)
    assert not sentinel_holds(0.280, [0.30, 0.29, 0.31], 0.03)


@pytest.mark.realtime
def test_smaller_networks_are_faster(probe: LatencyProbe) -> None:
    """Half width beats dense and quarter beats half, by intervals far from touching 1."""
    half, quarter = probe.measure(HALF), probe.measure(QUARTER)
    assert quarter.ratio.value < half.ratio.value < 0.7
    assert half.ratio.low <= half.ratio.value <= half.ratio.high < 0.9
    assert half.p50_ratio <= half.p95_ratio
    assert half.num_rounds in (5, 10, 20)
    assert 3 <= len(half.samples) <= half.num_rounds
    assert half.sentinel_ratio is not None
    assert half.num_calls >= min(MIN_CALLS, half.num_rounds)  # of every round one call, where none are quick


@pytest.mark.realtime
def test_network_against_itself_is_about_one(probe: LatencyProbe) -> None:
    """The dense network takes as long as itself, within what a busy machine allows."""
    assert 0.5 < probe.measure(network(64, seed=3)).ratio.value < 2


def test_by_an_even_clock_every_network_takes_as_long_as_the_base() -> None:
    """A step for each call: the ratio is 1 without an interval, and the first five rounds suffice."""
    found = LatencyProbe(DENSE, HALF, SHAPE, SPEC, ticking()).measure(QUARTER)
    assert found.ratio == found.sentinel_ratio == Interval(1.0, 1.0, 1.0)
    assert (found.p50_ratio, found.p95_ratio, found.noisy, found.num_rounds) == (1.0, 1.0, False, 5)


def test_equal_architectures_are_measured_once() -> None:
    """Other weights in the same shapes take the estimate that is known."""
    probe = LatencyProbe(DENSE, HALF, SHAPE, SPEC, ticking())
    first = probe.measure(network(24, seed=0))
    assert not first.noisy
    assert probe.measure(network(24, seed=1)) is first


def test_a_noisy_measurement_is_tried_again_twice() -> None:
    """Then the one of the three is kept during which the base ran fastest. The clock's steps are as uneven as can be."""
    rng = np.random.default_rng(0)
    probe = LatencyProbe(DENSE, HALF, SHAPE, SPEC, ticking(lambda: float(0.01 + rng.pareto(0.7))))
    noisy = probe.measure(QUARTER)
    assert noisy.noisy
    assert noisy.num_rounds == 20
    tries = [noisy, probe.measure(QUARTER), probe.measure(QUARTER)]
    kept = probe.measure(QUARTER)
    assert kept.noisy
    assert kept is probe.measure(QUARTER)
    assert kept in tries


def test_signature_follows_shapes_and_not_weights() -> None:
    """The signature is blind to weights and sees widths and operators."""
    assert architecture_signature(network(16, seed=1)) == architecture_signature(network(16, seed=2))
    assert architecture_signature(HALF) != architecture_signature(QUARTER)
    torch.manual_seed(0)
    other = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(576, 4))
    strided = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(576, 4))
    assert architecture_signature(to_onnx(other, SHAPE)) != architecture_signature(to_onnx(strided, SHAPE))


@pytest.mark.realtime
def test_reference_and_gate_have_a_time(probe: LatencyProbe) -> None:
    """The base's time has an interval; a step of the gate costs less than the base."""
    reference = probe.reference_ms()
    assert 0 < reference.low <= reference.value <= reference.high
    assert 0 < probe.gate_ms(10) < reference.value


def test_probe_without_a_sentinel() -> None:
    """The sentinel is optional."""
    assert LatencyProbe(DENSE, None, SHAPE, SPEC).measure(HALF).sentinel_ratio is None
