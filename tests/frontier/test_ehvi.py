"""Expected hypervolume improvement: equal to volumes counted by moocore, and to averages of random draws."""

import moocore
import numpy as np
import pytest

from eed_search.frontier.ehvi import expected_improvement, positive_part

REFERENCE = np.array([1.0, 1.0])


def _gain(point: np.ndarray, front: np.ndarray, reference: np.ndarray) -> float:
    def volume(points: np.ndarray) -> float:
        inside = points[(points < reference).all(axis=1)]
        return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0

    return volume(np.vstack([front, point])) - volume(front)


def test_without_uncertainty_it_is_the_gain_in_hypervolume() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        front = rng.random((int(rng.integers(0, 8)), 2)) * 1.2
        points = rng.random((6, 2)) * 1.2
        found = expected_improvement(points, np.zeros((6, 2)), front, REFERENCE)
        assert found == pytest.approx([_gain(p, front, REFERENCE) for p in points], abs=1e-12)


def test_with_uncertainty_it_is_the_mean_gain_of_random_draws() -> None:
    rng = np.random.default_rng(1)
    front, mean = rng.random((5, 2)), rng.random((4, 2))
    deviation = np.array([[0.1, 0.2], [0.3, 0.0], [0.0, 0.1], [0.05, 0.05]])
    found = expected_improvement(mean, deviation, front, REFERENCE)
    for i in range(4):
        draws = mean[i] + deviation[i] * rng.standard_normal((20_000, 2))
        gains = [_gain(p, front, REFERENCE) for p in draws[:4000]]
        assert found[i] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(4000) + 1e-6)


def test_three_objectives_without_uncertainty() -> None:
    rng = np.random.default_rng(2)
    front, points, reference = rng.random((5, 3)), rng.random((8, 3)), np.ones(3)
    found = expected_improvement(points, np.zeros((8, 3)), front, reference)
    assert found == pytest.approx([_gain(p, front, reference) for p in points], abs=1e-12)


def test_three_objectives_with_uncertainty_are_near_the_mean_of_draws() -> None:
    rng = np.random.default_rng(3)
    front, mean, reference = rng.random((5, 3)), np.full((1, 3), 0.3), np.ones(3)
    found = expected_improvement(mean, np.full((1, 3), 0.05), front, reference)
    gains = [_gain(p, front, reference) for p in mean[0] + 0.05 * rng.standard_normal((2000, 3))]
    assert found[0] == pytest.approx(np.mean(gains), rel=0.15)


def test_the_expected_positive_part_of_a_certain_value_is_the_value() -> None:
    assert positive_part(np.array([1.0, 1.0]), np.array([0.25, 3.0]), np.zeros(2)).tolist() == [0.75, 0.0]


def test_five_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="two to four"):
        expected_improvement(np.zeros((1, 5)), np.zeros((1, 5)), np.zeros((0, 5)), np.ones(5))
