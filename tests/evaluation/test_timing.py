"""Timing: the pure parts against closed forms and by hand, clocks that a test moves on."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eed_search.evaluation.timing import (
    Block,
    Clock,
    block_calls,
    call_quantiles,
    half_width,
    median_interval,
    ranks_by_cpu,
    ratios,
    take_rounds,
    time_block,
    typical_times,
    undisturbed_first,
    until_settled,
    warm_up,
    weighted_quantile,
)
from eed_search.runs.records import Interval


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


@pytest.mark.parametrize(("settles_at", "total"), [(15, 15), (30, 30), (60, 60), (10_000, 60)])
def test_rounds_double_at_most_twice(settles_at: int, total: int) -> None:
    """15 rounds, then 30 in all, then 60, and no more."""
    rounds = until_settled(lambda num: [{}] * num, lambda taken: len(taken) >= settles_at, 15)
    assert len(rounds) == total


@pytest.mark.parametrize("by_cpu", [False, True])
def test_every_round_visits_everyone_in_changing_order(by_cpu: bool) -> None:
    """Each contestant gets its images once a round, in turns, and no one is always first."""
    log: list[tuple[str, int]] = []
    calls = {name: (lambda i, name=name: log.append((name, i))) for name in "abc"}
    images = {"a": list(range(40)), "b": list(range(20)), "c": list(range(80))}
    rounds = take_rounds(calls, lambda: images, 6, np.random.default_rng(0), by_cpu=by_cpu)
    size = len(log) // 6
    firsts = set()
    for n in range(6):
        visited = log[n * size : (n + 1) * size]
        assert {name: [i for who, i in visited if who == name] for name in "abc"} == images
        firsts.add(visited[0][0])
    assert len(firsts) > 1
    assert {name: len(rounds[0][name].wall_ms) for name in "abc"} == {"a": 40, "b": 20, "c": 80}


@pytest.mark.parametrize(
    ("slow", "num_calls", "p95"),
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 1.3], 3000, 1.0),  # the undisturbed rounds suffice
        ([1.0, 1.5, 1.3, 1.4], 2400, 1.5),  # fewer than five rounds are all taken
    ],
)
def test_percentiles_come_from_the_calm_rounds(slow: list[float], num_calls: int, p95: float) -> None:
    """Rounds of 600 calls, each call as slow as its round, against a base that is never disturbed."""
    base = Block(1.0, np.ones(10), np.ones(10))
    rounds = [{"candidate": Block(1.0, np.full(600, one), np.full(600, one)), "reference": base} for one in slow]
    ones = [np.ones(600, np.int64)] * len(rounds)
    undisturbed = undisturbed_first(*typical_times(rounds, "candidate", "reference"))
    p50, found, num = call_quantiles(rounds, ones, np.array([0.0, 1.0]), undisturbed)
    assert (found, num) == (p95, num_calls)
    assert p50 == 1.0 or len(slow) < 5


def test_percentiles_take_more_rounds_where_the_calm_ones_hold_too_few_calls() -> None:
    """Five undisturbed rounds of 100 calls are too few for a percentile: the five next ones are taken, the calmest first."""
    base = Block(1.0, np.ones(10), np.ones(10))
    slow = [1.0] * 5 + [1.5] * 5 + [1.4] * 5
    rounds = [{"candidate": Block(1.0, np.full(100, one), np.full(100, one)), "reference": base} for one in slow]
    undisturbed = undisturbed_first(*typical_times(rounds, "candidate", "reference"))
    assert undisturbed[1] == 5
    found = call_quantiles(rounds, [np.ones(100, np.int64)] * 15, np.array([0.0, 1.0]), undisturbed)
    assert found == (1.0, 1.4, 1000)


def test_calm_rounds_are_those_in_which_nobody_was_slow() -> None:
    """Either contestant's disturbance spoils a round; both rank by their own fast time, however far apart these are."""
    base = np.array([1.0, 1.02, 1.0, 1.5, 1.0, 1.01, 1.0, 1.0])
    small = np.array([0.2, 0.2, 0.4, 0.2, 0.2, 0.204, 0.2, 0.2])
    order, num = undisturbed_first(base, small)
    assert sorted(order[:num]) == [0, 1, 4, 5, 6, 7]
    assert list(order[-2:]) == [3, 2]  # half as slow again, then twice as slow


def test_rounds_that_never_agree_leave_the_least_slow_eighth() -> None:
    """In no round were both fast: of 48, the six in which they were slowed down least together."""
    climbing = 1 + np.arange(48) / 10
    order, num = undisturbed_first(climbing, climbing[::-1] * np.where(np.arange(48) < 6, 0.5, 1.0))
    assert num == 6
    assert sorted(order[:num]) == list(range(6))


def test_a_disturbed_half_does_not_move_the_ratio() -> None:
    """A neighbour doubles the small network's time and adds half to the base's in 60 % of the rounds, 40 times."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        hit = rng.random(30) < 0.6
        base = rng.normal(1, 0.005, 30) * np.where(hit, 1.5, 1)
        small = 0.25 * rng.normal(1, 0.005, 30) * np.where(hit, 2.0, 1)
        order, num = undisturbed_first(base, small)
        assert np.median((small / base)[order[:num]]) == pytest.approx(0.25, rel=0.01)
    assert np.median(small / base) > 0.3  # what the median of all rounds makes of the last


@pytest.mark.parametrize(("call_ms", "by_cpu"), [([0.02, 0.5], False), ([0.02, 0.6], True), ([3.0, 9.0], True)])
def test_long_calls_are_ranked_by_the_cpu_clock(call_ms: list[float], by_cpu: bool) -> None:
    """One long contestant is enough: all are timed by one clock."""
    assert ranks_by_cpu(call_ms) == by_cpu


def test_a_block_holds_what_the_clocks_say() -> None:
    """Calls that take 3, 1 and 8 ms of which the process computes for a half."""
    now_ns = 0

    def call(i: int) -> None:
        nonlocal now_ns
        now_ns += (3_000_000, 1_000_000, 8_000_000)[i]

    clock = Clock(lambda: now_ns, lambda: now_ns // 2)
    by_wall, by_cpu = (time_block(call, range(3), by_cpu=by_cpu, clock=clock) for by_cpu in (False, True))
    assert list(by_wall.ms) == list(by_wall.wall_ms) == list(by_cpu.wall_ms) == [3, 1, 8]
    assert list(by_cpu.ms) == [1.5, 0.5, 4]
    assert by_wall.cpu_ms == by_cpu.cpu_ms == 2


@pytest.mark.parametrize("faster", [1, 2, 1000])
def test_warming_up_lasts_as_long_on_any_machine(faster: int) -> None:
    """Half a second by the clock, so a machine twice as fast makes twice as many calls."""
    num_calls, step_ns = 0, 10_000_000 // faster

    def call(i: int) -> None:
        nonlocal num_calls
        num_calls += 1

    def read() -> int:
        return num_calls * step_ns

    assert warm_up(call, 8, clock=Clock(read, read)) == pytest.approx(10 / faster)
    assert num_calls == 50 * faster


@pytest.mark.realtime
def test_waiting_counts_for_the_wall_clock_alone() -> None:
    """A call that sleeps takes wall time and next to no CPU time; the clock that ranks says which is meant."""
    by_wall, by_cpu = (time_block(lambda i: time.sleep(0.02), range(3), by_cpu=by_cpu) for by_cpu in (False, True))
    assert by_wall.typical_ms >= 20
    assert by_cpu.typical_ms < by_wall.typical_ms / 2
    assert min(by_cpu.wall_ms) >= 20
    assert len(by_cpu.ms) == len(by_cpu.wall_ms) == 3


def test_a_typical_call_is_no_mean() -> None:
    """One call of ten that was interrupted leaves the ratio as it is."""
    undisturbed, hit = np.ones(10), np.array([1.0] * 9 + [100.0])
    rounds = [{"reference": Block(1.0, undisturbed, undisturbed), "candidate": Block(10.9, hit, hit)}]
    assert ratios(rounds, "candidate") == pytest.approx([1.0])
