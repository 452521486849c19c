"""Dominance, hypervolume and knee, against their definitions and other libraries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eed_search.frontier.pareto import hypervolume, knee, non_dominated, normalise

# A coarse grid, so that ties and duplicates are common.
coarse = st.integers(0, 6).map(lambda i: i / 4)
tables = st.tuples(st.integers(0, 25), st.integers(1, 4)).flatmap(lambda shape: arrays(float, shape, elements=coarse))
pairs = st.integers(0, 25).flatmap(lambda num: arrays(float, (num, 2), elements=coarse))


def _slow_non_dominated(values: np.ndarray) -> list[bool]:
    """The definition, pair by pair."""
    return [not any((other <= own).all() and (other < own).any() for other in values) for own in values]


def _slow_hypervolume(values: np.ndarray) -> float:
    """Area of the union of boxes up to (1, 1), cell by cell of the grid that the points span."""
    inside = [(max(x, 0.0), max(y, 0.0)) for x, y in values if x < 1 and y < 1]
    xs = sorted({x for x, _ in inside} | {1.0})
    ys = sorted({y for _, y in inside} | {1.0})
    return sum(
        (right - left) * (top - bottom)
        for left, right in itertools.pairwise(xs)
        for bottom, top in itertools.pairwise(ys)
        if any(x <= left and y <= bottom for x, y in inside)
    )


@given(tables)
def test_non_dominated_agrees_with_the_definition(values: np.ndarray) -> None:
    """Every trial is kept that no other one dominates, in one to four objectives."""
    assert non_dominated(values).tolist() == _slow_non_dominated(values)


@given(tables.filter(len))
def test_duplicates_share_their_fate(values: np.ndarray) -> None:
    """Equal trials are kept or dropped together."""
    twice = non_dominated(np.concatenate([values, values]))
    assert (twice[: len(values)] == twice[len(values) :]).all()
    assert (twice[: len(values)] == non_dominated(values)).all()


def test_no_trials_give_no_frontier() -> None:
    """An empty table is answered, not refused."""
    assert non_dominated(np.empty((0, 2))).shape == (0,)


@pytest.mark.parametrize(("bad", "shown"), [(np.nan, "nan"), (np.inf, "inf")])
def test_values_that_are_not_finite_are_refused_by_name(bad: float, shown: str) -> None:
    """The first trial with NaN or infinity is named with its values."""
    values = np.array([[0.1, 0.2], [0.3, bad], [bad, 0.0]])
    for function in (non_dominated, hypervolume):
        with pytest.raises(ValueError, match=rf"^trial 1 has a value that is not finite: \[0.3, {shown}\]$"):
            function(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0),
        ([[0.5, 0.5]], 0.25),
        ([[0.0, 0.0]], 1.0),
        ([[1.0, 0.0]], 0.0),
        ([[0.25, 0.5], [0.5, 0.25]], 0.375 + 0.125),
        ([[0.5, 0.5], [0.5, 0.5], [0.9, 0.9]], 0.25),
        ([[-0.5, 0.5]], 0.5),  # better than perfect counts as perfect
        ([[2.0, 0.0], [0.5, 0.5]], 0.25),  # slower than the base adds nothing
    ],
)
def test_hypervolume_of_known_fronts(values: list[list[float]], expected: float) -> None:
    """Areas worked out by hand."""
    assert hypervolume(np.array(values).reshape(-1, 2)) == pytest.approx(expected)


@given(pairs)
def test_hypervolume_agrees_with_the_definition(values: np.ndarray) -> None:
    """The area is the union of the dominated boxes."""
    assert hypervolume(values) == pytest.approx(_slow_hypervolume(values))


@given(arrays(float, (8, 2), elements=st.floats(0, 0.999)))
def test_hypervolume_agrees_with_optuna(values: np.ndarray) -> None:
    """Optuna's own computation gives the same area."""
    from optuna._hypervolume import compute_hypervolume

    assert hypervolume(values) == pytest.approx(compute_hypervolume(values, np.ones(2)))


@given(pairs, st.tuples(coarse, coarse))
def test_one_more_trial_never_shrinks_the_hypervolume(values: np.ndarray, more: tuple[float, float]) -> None:
    """Adding a trial keeps what was dominated."""
    assert hypervolume(np.concatenate([values, [more]])) >= hypervolume(values) - 1e-12


def test_normalise_puts_chance_and_dense_latency_at_one() -> None:
    """Chance at the dense base's latency is (1, 1), perfection at no cost (0, 0)."""
    scaled = normalise(np.array([0.1, 1.0]), np.array([2.0, 0.0]), num_classes=10, dense_latency_ms=2.0)
    assert scaled == pytest.approx(np.array([[1, 1], [0, 0]]))


def test_knee_is_nearest_to_the_ideal_corner() -> None:
    """Of three points the balanced one is taken."""
    assert knee(np.array([[0.0, 1.0], [0.1, 0.2], [1.0, 0.0]])) == 1


def test_knee_does_not_depend_on_units() -> None:
    """Milliseconds or seconds, the same point."""
    front = np.array([[0.20, 9.0], [0.22, 4.0], [0.30, 3.0], [0.60, 2.9]])
    assert knee(front) == knee(front * [100, 0.001]) == 1


def test_knee_of_one_point_and_of_equal_points_is_the_first() -> None:
    """Nothing to balance: the first."""
    assert knee(np.array([[0.3, 0.3]])) == 0
    assert knee(np.full((3, 2), 0.3)) == 0


def test_knee_needs_a_point() -> None:
    """An empty frontier has no knee."""
    with pytest.raises(ValueError, match=r"^a frontier without points has no knee$"):
        knee(np.empty((0, 2)))
