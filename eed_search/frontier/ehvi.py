"""How much a trial is expected to add to the frontier: expected hypervolume improvement.

Everything here minimises. A trial's final point is a normal in each objective, independent of the
others; an objective that is known exactly has deviation 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

_NUM_DRAWS = 32  # quasi-random draws for three and four objectives


def expected_improvement(
    mean: Float[np.ndarray, "trials objectives"],
    deviation: Float[np.ndarray, "trials objectives"],
    front: Float[np.ndarray, "points objectives"],
    reference: Float[np.ndarray, " objectives"],
) -> Float[np.ndarray, " trials"]:
    """Expected growth of the dominated hypervolume if each trial, alone, joined the front.

    Args:
        mean: Expected final values.
        deviation: Their standard deviations, at least 0.
        front: Points there are already; dominated ones and ones beyond the reference do no harm.
        reference: The corner that volumes are measured to.

    Returns:
        At least 0 for each trial, in the product of the objectives' units.

    Raises:
        ValueError: For other than two to four objectives.

    Source:
        Two objectives in closed form: the strips of Yang et al. 2019, section 4, https://doi.org/10.1016/j.swevo.2018.10.007,
        each factor an expected positive part; otherwise ours, by quasi-random draws.
    """
    num = mean.shape[1]
    if not 2 <= num <= 4:
        raise ValueError(f"{num} objectives: two to four are allowed")
    if len(mean) == 0:
        return np.zeros(0)
    return _two(mean, deviation, front, reference) if num == 2 else _more(mean, deviation, front, reference)


def positive_part(
    level: Float[np.ndarray, "*#n"], mean: Float[np.ndarray, "*#n"], deviation: Float[np.ndarray, "*#n"]
) -> Float[np.ndarray, "*n"]:
    """Expected value of max(0, level - x) for a normal x."""
    from scipy.special import ndtr

    gap = level - mean
    safe = np.where(deviation > 0, deviation, 1.0)
    z = gap / safe
    spread = gap * ndtr(z) + safe * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.asarray(np.where(deviation > 0, spread, np.maximum(gap, 0.0)))


def _two(mean: np.ndarray, deviation: np.ndarray, front: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Sum over the vertical strips between neighbouring front points: width left of each, times height below."""
    steps = _staircase(front, reference)
    edges = np.concatenate([steps[:, 0], reference[:1]])  # right edge of strip i, ascending
    tops = np.concatenate([reference[1:], steps[:, 1]])  # upper bound of strip i, descending
    left = positive_part(edges[None], mean[:, :1], deviation[:, :1])
    widths = np.diff(left, axis=1, prepend=0.0)
    heights = positive_part(tops[None], mean[:, 1:], deviation[:, 1:])
    return np.asarray(np.maximum((widths * heights).sum(axis=1), 0.0))


def _staircase(front: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The front's points inside the reference, first objective ascending, second strictly descending."""
    inside = front[(front < reference).all(axis=1)]
    inside = inside[np.lexsort((inside[:, 1], inside[:, 0]))]
    if len(inside) == 0:
        return inside
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(inside[:, 1])[:-1]])
    return inside[inside[:, 1] < best_before]


def _more(mean: np.ndarray, deviation: np.ndarray, front: np.ndarray, reference: np.ndarray) -> np.ndarray:
    import moocore
    from scipy.special import ndtri
    from scipy.stats import qmc

    draws = qmc.Halton(mean.shape[1], scramble=True, seed=0).random(_NUM_DRAWS)
    normal = ndtri(np.clip(draws, 1e-6, 1 - 1e-6))
    measure = moocore.Hypervolume(ref=reference)
    inside = front[(front < reference).all(axis=1)]
    before = float(measure(inside)) if len(inside) else 0.0

    def gain(point: np.ndarray) -> float:
        if not (point < reference).all() or (len(inside) and (inside <= point).all(axis=1).any()):
            return 0.0
        return float(measure(np.vstack([inside, point[None]]))) - before

    return np.array(
        [
            np.mean([gain(point) for point in middle + normal * spread]) if (spread > 0).any() else gain(middle)
            for middle, spread in zip(mean, deviation, strict=True)
        ]
    )
