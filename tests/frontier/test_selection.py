"""The rule that chooses a reported frontier: its parts by hand and by brute force, and its promises on simulated truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from eed_search.frontier.pareto import non_dominated
from eed_search.frontier.selection import (
    FAINT,
    FAIR,
    HOPELESS,
    Plan,
    least_probability,
    open_order,
    opening,
    plan_rounds,
    pooled,
    probabilities,
    reported,
    to_time,
    touching,
    validation_round,
    worth_measuring,
)
from eed_search.runs.records import Accuracy, Interval


def _around(value: float, share: float) -> Interval:
    return Interval(value, value / (1 + share), value * (1 + share))


# ---------------------------------------------------------------- how fresh images are dealt out


@pytest.mark.parametrize(
    ("num_fresh", "validation_rounds", "last"),
    [
        (1, (), (0, 1)),
        (199, (), (0, 199)),
        (200, ((0, 100),), (100, 200)),
        (350, ((0, 100), (100, 200), (200, 250)), (250, 350)),
        (1700, ((0, 100), (100, 200), (200, 400), (400, 800), (800, 1600)), (1600, 1700)),
        (5000, ((0, 100), (100, 200), (200, 400), (400, 800), (800, 1600)), (4900, 5000)),
    ],
)
def test_the_last_slice_is_dealt_first(
    num_fresh: int, validation_rounds: tuple[tuple[int, int], ...], last: tuple[int, int]
) -> None:
    """100 images of the search: too few fresh ones for both choose nothing; the looks are cut short where they run out."""
    assert plan_rounds(100, num_fresh) == Plan(validation_rounds, last)


@pytest.mark.parametrize("num_fresh", range(1, 60))
def test_no_image_is_used_twice(num_fresh: int) -> None:
    """Neither by two looks nor by a look and the last slice, which is never empty."""
    plan = plan_rounds(3, num_fresh)
    used = [image for first, end in (*plan.validation_rounds, plan.last) for image in range(first, end)]
    assert len(used) == len(set(used))
    assert set(used) <= set(range(num_fresh))
    assert plan.last[1] > plan.last[0]
    assert all(end > first for first, end in plan.validation_rounds)


def test_timings_grow_as_the_slices_do() -> None:
    """One before the first look, which the first slice needs no more of."""
    assert plan_rounds(1, 17).num_timings == (1, 1, 2, 4, 8, 16)
    assert plan_rounds(1, 1).num_timings == (1,)


def test_images_there_are_none_of_are_refused() -> None:
    with pytest.raises(ValueError, match="need at least one of each"):
        plan_rounds(0, 5)


# ---------------------------------------------------------------- decisions by hand


def test_who_is_left_after_a_look() -> None:
    """Before the first fresh image only what is in no draw leaves, if looks follow; then what is below 2 %."""
    sure = {"a": 0.9, "b": 0.01, "c": 0.001}
    small, large = plan_rounds(100, 50), plan_rounds(100, 1000)
    assert validation_round(0, sure, large).left == ("a", "b")
    assert validation_round(0, sure, small).left == validation_round(1, sure, large).left == ("a",)
    assert (least_probability(0, large), least_probability(1, large)) == (FAINT, HOPELESS)


def test_what_is_worth_an_attack_and_a_latency() -> None:
    """With looks to come everything that may be there; without, what has a fair chance, or the threshold if it is lower."""
    small, large = plan_rounds(100, 50), plan_rounds(100, 1000)
    assert worth_measuring(large, 0.75) == FAINT
    assert [worth_measuring(small, threshold) for threshold in (0.75, 0.1, 0.0)] == [FAIR, 0.1, HOPELESS]


def test_a_look_is_settled_when_one_is_left() -> None:
    """Two that are both sure are not: the images that say so may have been lucky."""
    plan = plan_rounds(100, 1000)
    assert validation_round(1, {"a": 0.99, "b": 0.0}, plan).settled
    assert not validation_round(1, {"a": 1.0, "b": 1.0}, plan).settled


def test_the_surest_is_reported_where_none_is_sure_enough() -> None:
    assert reported([0.1, 0.8, 0.75], 0.75).tolist() == [False, True, True]
    assert reported([0.1, 0.3, 0.2], 0.75).tolist() == [False, True, False]
    assert reported([0.0, 0.3], 0.0).tolist() == [False, True]  # what does not belong is not reported at 0 either
    assert reported([1.0, 0.999], 1.0).tolist() == [True, False]
    assert reported([], 0.75).tolist() == []


def test_pooled_latencies_are_narrower_and_in_the_middle() -> None:
    """Four of equal width: half of it around their geometric mean."""
    one = pooled([_around(2.0, 0.02), _around(8.0, 0.02), _around(4.0, 0.02), _around(4.0, 0.02)])
    assert one.value == pytest.approx(4.0)
    assert math.log(one.high / one.value) == pytest.approx(math.log(1.02) / 2)
    assert pooled([_around(3.0, 0.1)]) == _around(3.0, 0.1)


def test_only_latencies_whose_order_is_open_are_measured_again() -> None:
    """1.0 and 1.01 may be either way round; 2.0 is far from both; two figures of one measurement are not two."""
    times = [_around(1.0, 0.02), _around(1.01, 0.02), _around(2.0, 0.02), _around(2.0, 0.02)]
    assert open_order(times).tolist() == [True, True, False, False]
    assert to_time([[one] for one in times], 2).tolist() == [True, True, False, False]
    assert to_time([[times[0]] * 2, [times[1]], [times[2]]], 2).tolist() == [False, True, False]


def test_points_of_one_latency_measurement_cannot_both_be_faster() -> None:
    """Equal networks, of which one is right on more of the same images: the other is never on the front."""
    right = np.zeros((2, 100), bool)
    right[0, :80] = right[1, :60] = True
    time = _around(1.0, 0.05)
    assert probabilities(right, [time, time], 0).tolist() == [1.0, 0.0]
    assert probabilities(right, [time, _around(1.0001, 0.05)], 0)[1] > 0.3  # two measurements: one may be faster


def test_a_bound_dominates_nothing() -> None:
    """What a bound is worth is not known, so it keeps nobody off the front; it may itself be on it."""
    right = np.zeros((3, 200), bool)
    right[0, :150] = right[1, :100] = right[2, :140] = True
    accuracy = [Accuracy.of(row) for row in right]
    times = [_around(ms, 0.001) for ms in (1.0, 2.0, 0.5)]
    bounds = np.array([True, False, False])
    assert opening(right, accuracy, times).tolist() == [1.0, 0.0, 1.0]
    assert opening(right, accuracy, times, bounds).tolist() == [1.0, 0.0, 1.0]  # 2 beats 1 by itself
    assert opening(right[:2], accuracy[:2], times[:2], bounds[:2]).tolist() == [1.0, 1.0]


# ---------------------------------------------------------------- against brute force


@pytest.mark.parametrize("seed", range(5))
def test_touching_is_what_no_other_surely_beats(seed: int) -> None:
    """By the definition, pair by pair, bounds included."""
    rng = np.random.default_rng(seed)
    right = rng.random((12, 40)) < rng.uniform(0.3, 0.9, 12)[:, None]
    accuracy = [Accuracy.of(row) for row in right]
    times = [_around(ms, 0.1) for ms in rng.uniform(1, 2, 12)]
    bounds = rng.random(12) < 0.3
    beaten = set()
    for i, j in itertools.permutations(range(12), 2):
        worst = 0.0 if bounds[j] else accuracy[j].low
        no_worse = worst >= accuracy[i].high and times[j].high <= times[i].low
        if no_worse and (worst > accuracy[i].high or times[j].high < times[i].low):
            beaten.add(i)
    assert set(np.flatnonzero(~touching(accuracy, times, bounds))) == beaten


@pytest.mark.parametrize("seed", range(3))
def test_bounds_are_judged_as_by_the_definition(seed: int) -> None:
    """A bound has the probability that it has beside the confirmed points alone, one by one."""
    rng = np.random.default_rng(seed)
    right = rng.random((6, 60)) < rng.uniform(0.5, 0.8, 6)[:, None]
    times = [_around(ms, 0.02) for ms in rng.uniform(1, 1.5, 6)]
    bounds = np.array([False, False, False, True, True, True])
    found = probabilities(right, times, 1, bounds)
    for i in range(6):
        kept = [0, 1, 2] if i < 3 else [0, 1, 2, i]
        alone = probabilities(right[kept], [times[k] for k in kept], 1)
        assert found[i] == pytest.approx(alone[kept.index(i)], abs=0.08)  # other draws of the same probability


# ---------------------------------------------------------------- its promises on simulated truth


@pytest.mark.parametrize("num_fresh", [100, 600, 3400])
def test_what_is_reported_is_true_more_often_than_what_seems_so(num_fresh: int) -> None:
    """60 networks whose truth is known, 200 images, 2 % of latency noise, 12 worlds: precision and coverage."""
    seems, hits, num, num_true, held = 0, 0, 0, 0, 0
    seeming = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        latency = rng.uniform(1, 3, 60)
        truth = np.clip(0.5 + 0.12 * latency + rng.normal(0, 0.04, 60), 0, 1)
        true = set(np.flatnonzero(non_dominated(np.stack([-truth, latency], axis=1))))

        def answers(i: list[int], count: int, rng: np.random.Generator = rng, truth: np.ndarray = truth) -> np.ndarray:
            return rng.random((len(i), count)) < truth[i, None]

        def timed(i: int, rng: np.random.Generator = rng, latency: np.ndarray = latency) -> Interval:
            return _around(float(latency[i] * np.exp(rng.normal(0, 0.005))), 0.0098)

        right = answers(list(range(60)), 200)
        times = [timed(i) for i in range(60)]
        shares = right.mean(axis=1)
        apparent = np.flatnonzero(non_dominated(np.stack([-shares, [t.value for t in times]], axis=1)))
        seems, seeming = seems + len(true & set(apparent)), seeming + len(apparent)

        plan = plan_rounds(200, num_fresh)
        sure = opening(right, [Accuracy.of(row) for row in right], times)
        look = validation_round(0, {str(i): float(p) for i, p in enumerate(sure) if p > 0}, plan)
        rows = {i: right[i] for i in range(60)}
        for number, (first, end) in enumerate(plan.validation_rounds, start=1):
            left = [int(id_) for id_ in look.left]
            rows = {i: np.concatenate([rows[i], row]) for i, row in zip(left, answers(left, end - first), strict=True)}
            sure = probabilities(np.stack([rows[i] for i in left]), [times[i] for i in left], number)
            look = validation_round(number, {str(i): float(p) for i, p in zip(left, sure, strict=True)}, plan)
        on = reported([look.probability[id_] for id_ in look.left], 0.75)
        chosen = [int(id_) for id_, one in zip(look.left, on, strict=True) if one]
        last = [Accuracy.of(row) for row in answers(chosen, plan.last[1] - plan.last[0])]
        held += sum(one.low <= truth[i] <= one.high for i, one in zip(chosen, last, strict=True))
        hits, num, num_true = hits + len(true & set(chosen)), num + len(chosen), num_true + len(true)
    assert hits / num > 1.25 * seems / seeming
    assert hits / num > 0.75
    assert held / num > 0.92
