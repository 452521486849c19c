"""Ranks of several objectives: equal to their definition in every case, ties and duplicates included."""

import numpy as np
import pytest

from eed_search.search.racing.ranking import best_first, front_numbers, net_order, ranks, scaled


def _dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def _fronts_by_definition(values: np.ndarray) -> list[int]:
    """Take away the non-dominated trials again and again."""
    left, fronts, number = set(range(len(values))), [0] * len(values), 0
    while left:
        front = [i for i in left if not any(_dominates(values[j], values[i]) for j in left)]
        for i in front:
            fronts[i] = number
        left -= set(front)
        number += 1
    return fronts


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("kind", ["continuous", "ties", "duplicates"])
def test_fronts_are_those_of_the_definition(objectives: int, kind: str) -> None:
    rng = np.random.default_rng([objectives, len(kind)])
    for _ in range(60):
        num = int(rng.integers(1, 25))
        values = rng.random((num, objectives))
        if kind == "ties":
            values = np.round(values * 4) / 4
        elif kind == "duplicates":
            values = values[rng.integers(0, num, num)]
        assert front_numbers(values).tolist() == _fronts_by_definition(values)


def test_a_chain_is_ranked_from_its_best_to_its_worst() -> None:
    assert ranks(np.array([[2.0, 2], [3, 3], [1, 1], [0, 0]])).tolist() == [2, 3, 1, 0]


def test_every_trial_has_a_place_of_its_own_and_no_worse_front_comes_first() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        values = np.round(rng.random((int(rng.integers(1, 30)), 2)) * 5)
        places = ranks(values)
        assert sorted(places.tolist()) == list(range(len(values)))
        in_order = front_numbers(values)[np.argsort(places)]
        assert (np.diff(in_order) >= 0).all()


def test_the_net_starts_in_the_middle_and_then_takes_the_farthest() -> None:
    front = np.array([[0.0, 1.0], [0.1, 0.9], [0.4, 0.4], [1.0, 0.0]])
    # (0, 1) and (1, 0) are equally far from (0.4, 0.4): the first of them comes first.
    assert net_order(front) == [2, 0, 3, 1]


def test_a_copy_comes_after_all_that_differ() -> None:
    assert net_order(np.array([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])) == [0, 2, 3, 1]


def test_scaling_takes_the_5th_to_95th_percentile_to_the_unit_range() -> None:
    values = np.column_stack([np.arange(101.0), 7 * np.ones(101)])
    out = scaled(values)
    assert out[5, 0] == pytest.approx(0)
    assert out[95, 0] == pytest.approx(1)
    assert (out[:, 1] == 0).all()


def test_an_objective_that_is_nearly_always_equal_is_scaled_by_its_whole_range() -> None:
    values = np.zeros((100, 1))
    values[-1] = 4.0
    assert scaled(values)[-1, 0] == 1.0


def test_fewer_places_can_be_asked_for() -> None:
    values = np.array([[float(i), float(i)] for i in range(10)])
    assert best_first(values, 2)[:2] == [0, 1]
    assert best_first(np.zeros((0, 2))) == []
