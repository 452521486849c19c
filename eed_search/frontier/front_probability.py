"""How sure it is that a point belongs to the frontier, given how well both of its objectives are known.

An apparent frontier is made of lucky points: of 200 networks whose accuracy is known from 500 images, fewer than half of
those that seem non-dominated are (docs/search.md). Here each point gets the probability that no other one dominates it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from eed_search.frontier.pareto import non_dominated
from eed_search.runs.records import Interval

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

NUM_DRAWS = 400
_Z95 = 1.959963984540054


def front_probability(
    right: Bool[np.ndarray, "points images"],
    latency_ms: list[Interval],
    *,
    seed: int,
    num_draws: int = NUM_DRAWS,
    same: Sequence[Hashable] | None = None,
    dominating: Bool[np.ndarray, " points"] | None = None,
) -> Float[np.ndarray, " points"]:
    """Give the probability that each point is on the true frontier of these points.

    The images are weighted anew in each draw, with the same weights for all points: what all get right
    or wrong together cancels out. Latencies are drawn independently from their intervals, but for those
    of one measurement.

    Args:
        right: Whether a point answers an image rightly; the same images for all points, at least one.
        latency_ms: With their 95 % intervals, all above 0.
        seed: Seed for the draws.
        num_draws: How many; the standard error is at most half over their root, 0.025 for 400.
        same: Names each point's latency measurement: points of one name share its draw. None: all differ.
        dominating: Which points may dominate others; all by default. One that is only believed at its best,
            such as a bound, may be dominated and dominates nothing.

    Returns:
        Shares of the draws in which no other point is at least as good in both objectives and better in one.

    Raises:
        ValueError: If the numbers of points differ, or there is no image.

    Source:
        Bayesian bootstrap: Rubin 1981, https://doi.org/10.1214/aos/1176345338. Its use for frontiers is ours.
    """
    num_points, num_images = right.shape
    if len(latency_ms) != num_points or num_images == 0 or (same is not None and len(same) != num_points):
        raise ValueError(f"{num_points} points with {num_images} images and {len(latency_ms)} latencies do not fit")
    if num_points == 0:
        return np.zeros(0)
    rng = np.random.default_rng(seed)
    weights = rng.standard_exponential((num_draws, num_images))
    accuracy = (weights / weights.sum(axis=1, keepdims=True)) @ right.T.astype(float)
    middle = np.array([math.log(one.value) for one in latency_ms])
    spread = np.array([math.log(one.high / one.low) / (2 * _Z95) for one in latency_ms])
    noise = rng.standard_normal((num_draws, num_points))
    if same is not None:
        first: dict[Hashable, int] = {}
        noise = noise[:, [first.setdefault(name, i) for i, name in enumerate(same)]]
    latency = middle + spread * noise
    others = np.ones(num_points, bool) if dominating is None else dominating
    return np.asarray(_undominated(-accuracy, latency, others).mean(axis=0))


def maybe_on_front(
    low: Float[np.ndarray, "points objectives"], high: Float[np.ndarray, "points objectives"]
) -> Bool[np.ndarray, " points"]:
    """Mark the points whose intervals touch the frontier: no other is better at its worst than they at their best.

    Args:
        low: Best value of each objective that is believed, minimised; finite.
        high: Worst value that is believed.

    Returns:
        False for each point whose `low` some other point's `high` dominates.
    """
    front = high[non_dominated(high)]
    beaten = (front[None] <= low[:, None]).all(axis=2) & (front[None] < low[:, None]).any(axis=2)
    return np.asarray(~beaten.any(axis=1))


def _undominated(
    first: Float[np.ndarray, "draws points"],
    second: Float[np.ndarray, "draws points"],
    dominating: Bool[np.ndarray, " points"],
) -> Bool[np.ndarray, "draws points"]:
    """Mark in each draw the points that none of the `dominating` dominates; exact ties in either objective may be there."""
    order = np.lexsort((first, second), axis=1)
    mine, place = (np.take_along_axis(values, order, axis=1) for values in (first, second))
    # Best of those that stand before a point: no worse in the second objective.
    before = np.full_like(mine, np.inf)
    before[:, 1:] = np.minimum.accumulate(np.where(dominating[order], mine, np.inf), axis=1)[:, :-1]
    # Best of those that are better in it: what stood before the first point of the same value.
    starts = np.zeros(order.shape, int)
    starts[:, 1:] = np.where(place[:, 1:] != place[:, :-1], np.arange(1, order.shape[1]), 0)
    better = np.take_along_axis(before, np.maximum.accumulate(starts, axis=1), axis=1)
    found = np.empty(order.shape, bool)
    np.put_along_axis(found, order, (before >= mine) & (better > mine), axis=1)
    return found
