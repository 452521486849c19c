"""Latency: the pure parts against closed forms, the probe and the cascade on real onnxruntime sessions.

No test asserts a wall time: the machine may be busy, so only ratios far from each other are compared.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eed_search.core.records import Interval
from eed_search.core.spec import LatencySpec
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.runtime import GateSettings
from eed_search.evaluation import latency as module
from eed_search.evaluation.latency import (
    LatencyProbe,
    RatioEstimate,
    additive_latency,
    architecture_signature,
    block_calls,
    cascade_latency,
    half_width,
    median_interval,
    sentinel_holds,
    stratified,
    throughput,
    weighted_quantile,
)

# ---------------------------------------------------------------- pure parts


@pytest.mark.parametrize("num", [3, 4, 5, 7])
def test_interval_equals_every_resample(num: int) -> None:
    """The interval's ends are the quantiles over ALL resamples, counted one by one."""
    values = np.random.default_rng(num).normal(1, 0.1, num)
    picks = np.array(list(itertools.product(range(num), repeat=num)))
    expected = np.quantile(np.median(values[picks], axis=1), [0.025, 0.975])
    found = median_interval(values)
    assert found.value == np.median(values)
    assert [found.low, found.high] == pytest.approx(expected, rel=2e-3)


def test_interval_covers_the_true_median() -> None:
    """Of 300 sets of 15 rounds about 95 % hold the true median in their interval."""
    rng = np.random.default_rng(0)
    found = [median_interval(rng.normal(1, 0.1, 15), seed) for seed in range(300)]
    covered = np.mean([one.low <= 1 <= one.high for one in found])
    assert 0.90 <= covered <= 0.99


def test_interval_of_equal_rounds_is_a_point() -> None:
    """Rounds that agree leave no doubt."""
    assert median_interval(np.full(15, 0.25)) == Interval(0.25, 0.25, 0.25)
    assert half_width(Interval(2.0, 1.9, 2.1)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("call_ms", "block_ms", "calls"), [(0.1, 40, 400), (0.3, 40, 134), (40, 40, 1), (300, 40, 1), (39, 40, 2)]
)
def test_block_lasts_long_enough(call_ms: float, block_ms: float, calls: int) -> None:
    """The fewest calls that reach the block's length, at least one."""
    assert block_calls(call_ms, block_ms) == calls


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(lambda c: sum(c) > 0),
    size=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_draw_keeps_the_shares_of_the_exits(counts: list[int], size: int, seed: int) -> None:
    """Each exit occurs as often as its share says, but for one, in any draw."""
    depths = np.repeat(np.arange(1, len(counts) + 1), counts)
    picks = stratified(depths, size, np.random.default_rng(seed))
    assert len(picks) == size
    found = np.bincount(depths[picks], minlength=len(counts) + 1)[1:]
    assert (np.abs(found - np.array(counts) * size / sum(counts)) < 1 + 1e-9).all()


def test_draw_takes_every_image_equally_often() -> None:
    """Over many draws no image is preferred, and a whole set is drawn without a repeat."""
    depths = np.array([1] * 7 + [2] * 2 + [3])
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([stratified(depths, 3, rng) for _ in range(5000)]), minlength=10)
    assert np.abs(counts - 1500).max() < 6 * math.sqrt(1500)
    assert sorted(stratified(depths, 10, rng)) == list(range(10))


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    seed=st.integers(0, 100),
    share=st.sampled_from([0.01, 0.25, 0.5, 0.95, 1.0]),
)
def test_weighted_quantile_is_that_of_repeated_values(values: list[int], seed: int, share: float) -> None:
    """Whole weights mean repeated values."""
    weights = np.random.default_rng(seed).integers(1, 6, len(values))
    repeated = np.sort(np.repeat(values, weights))
    expected = repeated[max(0, math.ceil(share * len(repeated) * (1 - 1e-12)) - 1)]
    assert weighted_quantile(np.array(values, float), weights.astype(float), share) == expected


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


@pytest.mark.parametrize(("settles_at", "total"), [(15, 15), (30, 30), (60, 60), (10_000, 60)])
def test_rounds_double_at_most_twice(settles_at: int, total: int) -> None:
    """15 rounds, then 30 in all, then 60, and no more."""
    rounds = module._until_settled(lambda num: [{}] * num, lambda taken: len(taken) >= settles_at, 15)
    assert len(rounds) == total


def test_every_round_visits_everyone_in_changing_order() -> None:
    """Each contestant gets its images once a round, in turns, and no one is always first."""
    log: list[tuple[str, int]] = []
    calls = {name: (lambda i, name=name: log.append((name, i))) for name in "abc"}
    images = {"a": list(range(40)), "b": list(range(20)), "c": list(range(80))}
    rounds = module._take_rounds(calls, lambda: images, 6, np.random.default_rng(0))
    size = len(log) // 6
    firsts = set()
    for n in range(6):
        visited = log[n * size : (n + 1) * size]
        assert {name: [i for who, i in visited if who == name] for name in "abc"} == images
        firsts.add(visited[0][0])
    assert len(firsts) > 1
    assert {name: len(rounds[0][name].wall_ms) for name in "abc"} == {"a": 40, "b": 20, "c": 80}


def test_correction_for_the_draw_of_exits() -> None:
    """Exits cost 1 and 3 ms in shares 3:1, so 1.5 ms; a round that drew 1:1 costs 2 and is scaled by 0.75."""

    def block(*wall: float) -> module._Block:
        return module._Block(sum(wall) / len(wall), np.array(wall))

    rounds = [{"candidate": block(1, 1, 1, 3)}, {"candidate": block(1, 3)}]
    depths = [np.array([1, 1, 1, 2]), np.array([1, 2])]
    shares = np.array([0.0, 0.75, 0.25])
    assert module._share_correction(rounds, depths, shares) == pytest.approx([1.0, 0.75])


@pytest.mark.parametrize(
    ("noises", "num_calls", "p95"),
    [
        ([1.0, 1.0, 1.5, 1.3], 1200, 1.0),  # the quiet rounds suffice
        ([1.0, 1.5, 1.3, 1.4], 1200, 1.3),  # one more is taken: the next quietest
        ([1.4, 1.5, 1.3, 1.6], 1200, 1.4),  # none is quiet
        ([1.0, 1.0, 1.0, 1.5], 1800, 1.0),  # more quiet ones than are needed
        ([1.5], 600, 1.5),  # all that there are
    ],
)
def test_percentiles_come_from_the_quietest_rounds(noises: list[float], num_calls: int, p95: float) -> None:
    """Rounds of 600 calls, each call as slow as its round is noisy, against a base that is never disturbed."""
    base = module._Block(1.0, np.ones(10))
    rounds = [{"candidate": module._Block(1.0, np.full(600, noise)), "reference": base} for noise in noises]
    ones = [np.ones(600, np.int64)] * len(rounds)
    p50, found, num = module._call_quantiles(rounds, ones, np.array([0.0, 1.0]), threads=1)
    assert (found, num) == (p95, num_calls)
    assert p50 == min(noises)


@pytest.mark.parametrize(
    ("noises", "kept"),
    [
        ([1.0, 1.3, 1.04, 1.0, 1.2], [1.0, 1.0, 1.04]),  # three were quiet
        ([1.0, 1.3, 1.5, 1.2, 1.4], [1.0, 1.2, 1.3]),  # one was: three are the least
        ([1.5] * 14 + [1.1, 1.0], [1.0, 1.1, 1.5, 1.5]),  # a quarter of sixteen
    ],
)
def test_disturbed_blocks_are_left_out(noises: list[float], kept: list[float]) -> None:
    """The quiet blocks, or where they are fewer than three the quietest quarter."""
    blocks = [module._Block(2.0, np.array([2.0 * noise])) for noise in noises]
    assert [block.noise(1) for block in module._undisturbed(blocks, 1)] == kept


# ---------------------------------------------------------------- real sessions

SHAPE = (3, 12, 12)
SPEC = LatencySpec(rounds=5, final_rounds=5, final_calls=1000, block_ms=8)


def _network(width: int, seed: int = 0) -> bytes:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()] * 2
    return to_onnx(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)), SHAPE)


DENSE, HALF, QUARTER = _network(64), _network(32), _network(16)


@pytest.fixture(autouse=True)
def _short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_UP_S", 0.05)


@pytest.fixture
def probe() -> LatencyProbe:
    """Build a probe of the dense network with the half one as sentinel."""
    return LatencyProbe(DENSE, HALF, SHAPE, SPEC)


def test_smaller_networks_are_faster(probe: LatencyProbe) -> None:
    """Half width beats dense and quarter beats half, by intervals far from touching 1."""
    half, quarter = probe.measure(HALF), probe.measure(QUARTER)
    assert quarter.ratio.value < half.ratio.value < 0.7
    assert half.ratio.low <= half.ratio.value <= half.ratio.high < 0.9
    assert half.p50_ratio <= half.p95_ratio
    assert half.num_rounds == len(half.samples) in (5, 10, 20)
    assert half.sentinel_ratio is not None
    assert half.num_calls >= half.num_rounds * 10


def test_network_against_itself_is_about_one(probe: LatencyProbe) -> None:
    """The dense network takes as long as itself, within what a busy machine allows."""
    assert 0.8 < probe.measure(_network(64, seed=3)).ratio.value < 1.25


def test_equal_architectures_are_measured_once(probe: LatencyProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights in the same shapes take the estimate that is known; a noisy one is not kept."""
    monkeypatch.setattr(module, "SEARCH_HALF_WIDTH", 10.0)
    first = probe.measure(_network(24, seed=0))
    assert probe.measure(_network(24, seed=1)) is first
    monkeypatch.setattr(module, "SEARCH_HALF_WIDTH", 0.0)
    noisy = probe.measure(QUARTER)
    assert noisy.noisy
    assert noisy.num_rounds == 20
    assert probe.measure(QUARTER) is not noisy


def test_signature_follows_shapes_and_not_weights() -> None:
    """The signature is blind to weights and sees widths and operators."""
    assert architecture_signature(_network(16, seed=1)) == architecture_signature(_network(16, seed=2))
    assert architecture_signature(HALF) != architecture_signature(QUARTER)
    torch.manual_seed(0)
    other = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(576, 4))
    strided = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(576, 4))
    assert architecture_signature(to_onnx(other, SHAPE)) != architecture_signature(to_onnx(strided, SHAPE))


def test_reference_and_gate_have_a_time(probe: LatencyProbe) -> None:
    """The base's wall time has an interval; a gate step is far cheaper than a millisecond."""
    reference = probe.reference_ms()
    assert 0 < reference.low <= reference.value <= reference.high
    assert 0 < probe.gate_ms(10) < 1


def test_probe_without_a_sentinel() -> None:
    """The sentinel is optional."""
    assert LatencyProbe(DENSE, None, SHAPE, SPEC).measure(HALF).sentinel_ratio is None


def test_cascade_lies_between_first_member_and_all() -> None:
    """Half of the images stop at the first member: dearer than one member, cheaper than both."""
    images = np.random.default_rng(0).random((40, *SHAPE), dtype=np.float32)
    members = [QUARTER, HALF]
    stop = module.GatedClassifier.from_onnx([QUARTER], GateSettings("threshold", 2, 1, 1)).predict(images).probabilities
    middle = float(np.median((stop.max(axis=1) - 0.25) / 0.75))

    def time(threshold: float) -> module.Latency:
        gate = GateSettings("threshold", threshold, 1.0, 1.0)
        return cascade_latency(members, gate, images, DENSE, HALF, SPEC, 2.0)

    first, mixed, both = time(0.0), time(middle), time(2.0)
    assert first.latency_ms.value < mixed.latency_ms.value < both.latency_ms.value
    assert mixed.p50_ms is not None
    assert mixed.p95_ms is not None
    assert mixed.p50_ms <= mixed.p95_ms
    assert mixed.num_calls >= 1000
    assert 0.6 * mixed.worst_case_ms < both.latency_ms.value < 1.6 * mixed.worst_case_ms
    assert mixed.speedup.value == pytest.approx(2.0 / mixed.latency_ms.value)
    assert mixed.speedup.low <= mixed.speedup.value <= mixed.speedup.high
    assert mixed.method == "cascade"
    assert first.images_per_second is not None
    assert both.images_per_second is not None
    assert first.images_per_second.value > both.images_per_second.value


def test_cascade_of_the_dense_base_alone() -> None:
    """A team of one runs without a gate; its worst case is its latency."""
    images = np.random.default_rng(0).random((10, *SHAPE), dtype=np.float32)
    found = cascade_latency([DENSE], GateSettings("map", 0.5, 1, 1), images, DENSE, None, SPEC, 3.0)
    assert 0.8 < found.speedup.value < 1.25
    assert found.worst_case_ms == found.latency_ms.value


def test_throughput_of_a_smaller_network_is_higher() -> None:
    """Images per second in batches of 64, from fewer images than a batch holds."""
    images, first = np.random.default_rng(0).random((10, *SHAPE), dtype=np.float32), np.ones(10, np.int64)
    quarter, dense = (
        throughput(module.GatedClassifier.from_onnx([one], GateSettings("map", 0.5, 1, 1)), images, first, SPEC)
        for one in (QUARTER, DENSE)
    )
    assert 0 < quarter.low <= quarter.value <= quarter.high
    assert quarter.value > dense.value
