"""Ranks for several objectives at once: non-dominated fronts first, then spread within a front.

Everything here minimises. A rank is a place, 0 for the best: `ranks` gives every trial its own.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Float, Int

_LOW, _HIGH = 0.05, 0.95  # quantiles that become 0 and 1


def front_numbers(values: Float[np.ndarray, "trials objectives"]) -> Int[np.ndarray, " trials"]:
    """Number the front of each trial: 0 where nothing dominates it, 1 where only front 0 does, and so on.

    Trials with equal values share a front.

    Args:
        values: Minimised; finite.

    Source:
        Deb et al. 2002 (NSGA-II), section III-A, https://doi.org/10.1109/4235.996017; computed by moocore.
    """
    if len(values) == 0:
        return np.zeros(0, dtype=np.int64)
    import moocore

    return cast("np.ndarray", moocore.pareto_rank(np.ascontiguousarray(values))).astype(np.int64)


def scaled(values: Float[np.ndarray, "trials objectives"]) -> Float[np.ndarray, "trials objectives"]:
    """Scale each objective so that its 5th and 95th percentile become 0 and 1; a constant one becomes 0."""
    if len(values) == 0:
        return values
    low, high = np.quantile(values, [_LOW, _HIGH], axis=0)
    span = high - low
    span = np.where(span > 0, span, np.ptp(values, axis=0))  # most trials are equal: take the whole range
    return np.asarray((values - low) / np.where(span > 0, span, 1.0))


def net_order(values: Float[np.ndarray, "trials objectives"]) -> list[int]:
    """Order the trials of one front so that each next one is far from all before it.

    The first is the trial nearest to the best value of every objective; of equally far ones the
    first comes first. A trial equal to an earlier one comes after all that differ.

    Args:
        values: Values of one front, on comparable scales, minimised.

    Returns:
        Indices, best first.

    Source:
        Epsilon-net order as in Schmucker et al. 2021 (MOASHA), https://arxiv.org/abs/2106.12639;
        the choice of the first is ours.
    """
    if len(values) == 0:
        return []
    first = int(np.argmin(np.linalg.norm(values - values.min(axis=0), axis=1)))
    order = [first]
    distance = np.linalg.norm(values - values[first], axis=1)
    distance[first] = -1.0
    for _ in range(len(values) - 1):
        farthest = int(np.argmax(distance))
        order.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(values - values[farthest], axis=1))
        distance[order] = -1.0
    return order


def best_first(values: Float[np.ndarray, "trials objectives"], num: int | None = None) -> list[int]:
    """List trials by front, and within a front by net order.

    Args:
        values: Minimised; finite.
        num: How many are wanted; fronts beyond are not ordered. All by default.

    Returns:
        Indices, best first; at least `num` of them.
    """
    fronts, on_scale = front_numbers(values), scaled(values)
    wanted = len(values) if num is None else min(num, len(values))
    order: list[int] = []
    front = 0
    while len(order) < wanted:
        inside = np.flatnonzero(fronts == front)
        order += [int(inside[i]) for i in net_order(on_scale[inside])]
        front += 1
    return order


def ranks(values: Float[np.ndarray, "trials objectives"]) -> Int[np.ndarray, " trials"]:
    """Give each trial its place in `best_first`, 0 for the best."""
    places = np.empty(len(values), dtype=np.int64)
    places[best_first(values)] = np.arange(len(values))
    return places
