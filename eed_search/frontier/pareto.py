"""The frontier: which trials no other trial beats, how much they cover, and which one is the knee.

Every function here minimises. The caller turns robust accuracy round and, for the hypervolume,
scales both objectives as `normalise` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def _finite(values: Float[np.ndarray, "trials objectives"]) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise ValueError(f"trial {bad[0]} has a value that is not finite: {values[bad[0]].tolist()}")


def non_dominated(
    values: Float[np.ndarray, "trials objectives"],
) -> Bool[np.ndarray, " trials"]:
    """Mark the trials that no other trial dominates.

    One trial dominates another if it is no worse in every objective and better in one, so equal
    trials are all kept. Every objective is minimised.

    Args:
        values: Objective values, each in the unit of its objective; finite.

    Returns:
        True for each trial on the frontier.

    Raises:
        ValueError: If a value is NaN or infinite; names the first such trial.

    Source:
        Deb et al. 2002 (NSGA-II), section III-A, https://doi.org/10.1109/4235.996017; computed by moocore.
    """
    _finite(values)
    if len(values) == 0:
        return np.zeros(0, dtype=bool)
    import moocore

    return cast("np.ndarray", moocore.is_nondominated(values, keep_weakly=True))


def normalise(
    robust_accuracy: Float[np.ndarray, " trials"],
    latency_ms: Float[np.ndarray, " trials"],
    *,
    num_classes: int,
    dense_latency_ms: float,
) -> Float[np.ndarray, "trials 2"]:
    """Scale both objectives so that 1 is the reference point and 0 is perfect.

    Args:
        robust_accuracy: Fractions in [0, 1].
        latency_ms: Milliseconds at batch 1.
        num_classes: Chance is one over this.
        dense_latency_ms: Latency of the dense base in the same runtime.

    Returns:
        For each trial (1 - robust accuracy over chance, latency as a share of the dense base's):
        chance accuracy and dense latency become (1, 1).

    Source:
        Ours.
    """
    chance = 1 / num_classes
    return np.stack([(1 - robust_accuracy) / (1 - chance), latency_ms / dense_latency_ms], axis=1)


def hypervolume(values: Float[np.ndarray, "trials 2"]) -> float:
    """Share of the unit square that the trials dominate.

    Args:
        values: Normalised objectives (see `normalise`), minimised; points outside the unit
            square add nothing.

    Returns:
        A fraction in [0, 1]; 0 for no trials.

    Source:
        Zitzler and Thiele 1999, https://doi.org/10.1109/4235.797969; computed by moocore.
    """
    _finite(values)
    inside = values[(values < 1).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    import moocore

    return float(moocore.hypervolume(np.maximum(inside, 0.0), ref=[1.0, 1.0]))


def knee(values: Float[np.ndarray, "points 2"]) -> int:
    """Choose the frontier point with the best balance of both objectives.

    Each objective is scaled to the frontier's own range; the knee is the point nearest to the
    corner that has the best of both. Not the point of greatest curvature, which is unstable on
    frontiers of three or four points.

    Args:
        values: The frontier's points, minimised; at least one.

    Returns:
        The index of the knee; the first of equals.

    Raises:
        ValueError: If there is no point.

    Source:
        Ours (distance to the ideal point, also called compromise programming).
    """
    if len(values) == 0:
        raise ValueError("a frontier without points has no knee")
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return int(np.argmin(np.linalg.norm((values - low) / span, axis=1)))
