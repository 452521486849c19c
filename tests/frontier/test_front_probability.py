"""The probability of being on the frontier: known answers, and agreement with slow definitions."""

from __future__ import annotations

import numpy as np
import pytest

from eed_search.frontier.front_probability import _undominated, front_probability, maybe_on_front
from eed_search.frontier.pareto import non_dominated
from eed_search.runs.records import Interval


def _exact(*latencies: float) -> list[Interval]:
    return [Interval(value, value, value) for value in latencies]


def _right(shares: list[float], num_images: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((len(shares), num_images)) < np.array(shares)[:, None]


def test_what_is_known_exactly_is_certain() -> None:
    """Point 1 is slower and worse than point 0; with thousands of images and no noise nothing is open."""
    right = _right([0.9, 0.6, 0.99], 4000)
    assert front_probability(right, _exact(1.0, 2.0, 3.0), seed=0).tolist() == [1.0, 0.0, 1.0]


def test_two_points_that_cannot_be_told_apart_share() -> None:
    """Equal latency intervals, and equally many images that only one gets right: each is better in half of the draws.

    One dominates the other only if it is better in both objectives; so each is on the front with 3/4.
    """
    right = np.zeros((2, 400), bool)
    right[:, :300] = True
    right[0, 300:350] = right[1, 350:] = True
    found = front_probability(right, [Interval(1.0, 0.9, 1 / 0.9)] * 2, seed=0, num_draws=20_000)
    assert found == pytest.approx([0.75, 0.75], abs=0.02)


def test_a_difference_of_two_is_the_sign_test_of_their_differences() -> None:
    """At equal exact latency the slower by a hair stays only where it is better: on 30 of 40 images that part them."""
    right = np.ones((2, 1000), bool)
    right[1, :10] = False
    right[0, 10:40] = False
    found = front_probability(right, _exact(1.0, 1.001), seed=1, num_draws=20_000)
    normal = 0.99921  # of 20 over the root of 40, by the normal distribution
    assert found[0] == 1.0
    assert found[1] == pytest.approx(normal, abs=0.004)


def test_images_that_all_get_wrong_change_nothing() -> None:
    """Only images that part two points speak about them; the others cancel."""
    right = _right([0.5, 0.55], 200)
    more = np.concatenate([right, np.zeros((2, 2000), bool)], axis=1)
    few, many = (front_probability(r, _exact(1.0, 1.1), seed=0, num_draws=8000)[1] for r in (right, more))
    assert few == pytest.approx(many, abs=0.03)


def test_probabilities_are_calibrated() -> None:
    """Of the points that are given about 0.7, about 0.7 are on the true front."""
    said, true = [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        accuracy, latency = rng.uniform(0.5, 0.7, 8), rng.uniform(1, 2, 8)
        measured = latency * np.exp(0.05 * rng.standard_normal(8))
        intervals = [Interval(m, m * np.exp(-1.96 * 0.05), m * np.exp(1.96 * 0.05)) for m in measured]
        said.append(front_probability(_right(accuracy.tolist(), 200, seed), intervals, seed=seed))
        true.append(non_dominated(np.stack([-accuracy, latency], axis=1)))
    p, on = np.concatenate(said), np.concatenate(true)
    for low, high in ((0.0, 0.1), (0.2, 0.5), (0.5, 0.8), (0.9, 1.01)):
        chosen = (low <= p) & (p < high)
        assert chosen.sum() > 40
        assert on[chosen].mean() == pytest.approx(p[chosen].mean(), abs=0.12)


def test_the_same_seed_gives_the_same_bits() -> None:
    """Nothing is drawn from elsewhere."""
    right = _right([0.5, 0.6], 50)
    latencies = [Interval(1.0, 0.9, 1.1)] * 2
    assert (front_probability(right, latencies, seed=3) == front_probability(right, latencies, seed=3)).all()


def test_no_points_and_numbers_that_do_not_fit() -> None:
    """An empty answer, or an error that says what there is."""
    assert front_probability(np.zeros((0, 5), bool), [], seed=0).shape == (0,)
    with pytest.raises(ValueError, match="2 points with 5 images and 1 latencies"):
        front_probability(np.zeros((2, 5), bool), _exact(1.0), seed=0)
    with pytest.raises(ValueError, match="1 points with 0 images"):
        front_probability(np.zeros((1, 0), bool), _exact(1.0), seed=0)


@pytest.mark.parametrize("seed", range(30))
def test_draws_are_sorted_as_the_frontier_is(seed: int) -> None:
    """Against `non_dominated`, with ties in one and in both objectives; and with some that dominate nothing."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 4, (2, 5, 7)).astype(float)
    incumbents = rng.random(7) < 0.6
    found, beside = _undominated(first, second, np.ones(7, bool)), _undominated(first, second, incumbents)
    for row in range(5):
        table = np.stack([first[row], second[row]], axis=1)
        assert found[row].tolist() == non_dominated(table).tolist()
        beaten = [any((one <= mine).all() and (one < mine).any() for one in table[incumbents]) for mine in table]
        assert beside[row].tolist() == [not one for one in beaten]


@pytest.mark.parametrize("seed", range(10))
def test_touching_the_front_is_not_to_be_beaten_by_anyones_worst(seed: int) -> None:
    """Against the definition, pair by pair."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 6, (12, 2)).astype(float)
    high = low + rng.integers(0, 3, (12, 2))
    slow = [not any((h <= one).all() and (h < one).any() for h in high) for one in low]
    assert maybe_on_front(low, high).tolist() == slow
