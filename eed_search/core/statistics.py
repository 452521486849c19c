"""Intervals for accuracies: one share, and the difference of two shares on the same samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_MOST_TIMES = 1e6  # as many images as there are, beyond which nothing is said
_PRECISION = 1.02  # ratio between bounds of the number of images that would decide
_Z95 = 1.959963984540054


def clopper_pearson(num_right: int, num_samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share of right answers.

    Args:
        num_right: Right answers, 0..num_samples.
        num_samples: Samples, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper end, fractions in [0, 1].

    Raises:
        ValueError: If the counts do not fit each other.

    Source:
        Clopper and Pearson 1934, Biometrika 26(4), https://doi.org/10.1093/biomet/26.4.404.
    """
    if not 0 <= num_right <= num_samples or num_samples < 1:
        raise ValueError(f"{num_right} right of {num_samples}: need 0 <= right <= samples, samples >= 1")
    from scipy.special import betaincinv  # here: importing scipy takes longer than all the rest

    tail = (1 - confidence) / 2
    low = 0.0 if num_right == 0 else betaincinv(num_right, num_samples - num_right + 1, tail)
    high = 1.0 if num_right == num_samples else betaincinv(num_right + 1, num_samples - num_right, 1 - tail)
    return float(low), float(high)


def wilson(num_right: int, num_samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share: narrower than the exact one, right on average.

    Args:
        num_right: Hits, 0..num_samples.
        num_samples: Samples, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper end, fractions in [0, 1].

    Raises:
        ValueError: If the counts do not fit each other.

    Source:
        Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    if not 0 <= num_right <= num_samples or num_samples < 1:
        raise ValueError(f"{num_right} hits of {num_samples}: need 0 <= hits <= samples, samples >= 1")
    z2 = _quantile(confidence) ** 2
    rate = num_right / num_samples
    centre = (rate + z2 / (2 * num_samples)) / (1 + z2 / num_samples)
    half = math.sqrt(z2 * (rate * (1 - rate) / num_samples + z2 / (4 * num_samples**2))) / (1 + z2 / num_samples)
    low = 0.0 if num_right == 0 else max(0.0, centre - half)
    high = 1.0 if num_right == num_samples else min(1.0, centre + half)
    return low, high


def paired_difference(
    first: Bool[np.ndarray, " samples"], second: Bool[np.ndarray, " samples"], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Difference of two shares measured on the SAME samples, with its interval.

    Only samples on which the two disagree carry information, so the interval is far narrower than
    that of two separate shares.

    Args:
        first: For each sample, whether the first answered right.
        second: The same for the second, in the same order.
        confidence: Coverage, in (0, 1).

    Returns:
        `mean(first) - mean(second)` and the ends of its interval, as fractions in [-1, 1].

    Raises:
        ValueError: If the lengths differ or are zero.

    Source:
        Agresti and Min 2005 (adjusted Wald interval: half a count is added to each of the four
        cells), Statistics in Medicine 24(5), https://doi.org/10.1002/sim.1781.
    """
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"need two equal, non-empty lengths, got {first.shape} and {second.shape}")
    return _paired(*_discordant(first, second), first.size, confidence)


def _discordant(first: Bool[np.ndarray, " samples"], second: Bool[np.ndarray, " samples"]) -> tuple[int, int]:
    """Count the samples that only the first gets right, and those that only the second does."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def _paired(only_first: float, only_second: float, num: float, confidence: float) -> tuple[float, float, float]:
    difference = (only_first - only_second) / num
    gained, lost, total = only_first + 0.5, only_second + 0.5, num + 2
    centre = (gained - lost) / total
    half = _quantile(confidence) * math.sqrt(gained + lost - (gained - lost) ** 2 / total) / total
    return difference, max(-1.0, centre - half), min(1.0, centre + half)


def sure_difference(
    first: Bool[np.ndarray, " samples"], second: Bool[np.ndarray, " samples"], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """`paired_difference` whose interval leaves out 0 only where an exact test does too.

    Far out in the tails, where many comparisons are reported together, the interval alone promises too much.

    Source:
        McNemar's test, exact (McNemar 1947, https://doi.org/10.1007/BF02295996): samples on which two equal classifiers
        differ are fair coins.
    """
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"need two equal, non-empty lengths, got {first.shape} and {second.shape}")
    return _sure(*_discordant(first, second), first.size, confidence)


def _sure(only_first: int, only_second: int, num: float, confidence: float) -> tuple[float, float, float]:
    difference, low, high = _paired(only_first, only_second, num, confidence)
    fair_low, fair_high = clopper_pearson(only_first, max(1, only_first + only_second), confidence)
    if only_first + only_second == 0 or fair_low <= 0.5:
        low = min(low, 0.0)
    if only_first + only_second == 0 or fair_high >= 0.5:
        high = max(high, 0.0)
    return difference, low, high


def images_to_decide(
    first: Bool[np.ndarray, " samples"], second: Bool[np.ndarray, " samples"], *, confidence: float = 0.95
) -> int | None:
    """Say how many images it would take to tell two classifiers apart, were they what these images say.

    Returns:
        About the number from which on `sure_difference` leaves out 0; none where they are equally often right, or where that
        would take a million times as many images.

    Source:
        Ours: the same interval and test with the counts scaled up.
    """
    only_first, only_second = _discordant(first, second)
    if only_first == only_second:
        return None

    def decided(times: float) -> bool:
        _, low, high = _sure(round(times * only_first), round(times * only_second), times * first.size, confidence)
        return low > 0 or high < 0

    enough = 1.0
    while not decided(enough):
        enough *= 2
        if enough > _MOST_TIMES:
            return None
    short = enough / 2
    while enough / short > _PRECISION:
        middle = (short * enough) ** 0.5
        short, enough = (short, middle) if decided(middle) else (middle, enough)
    return math.ceil(enough * first.size)


def _quantile(confidence: float) -> float:
    """How many standard deviations a two-sided interval reaches."""
    if confidence == 0.95:
        return _Z95
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + confidence) / 2)


FEWEST_GAINS = 3  # that tell how far one more may lie from their mean


def next_gain(gains: Float[np.ndarray, "trials ..."]) -> tuple[Any, Any] | None:
    """Say where one more gain will lie, from those that were seen: their mean, and how far it may lie from it to one side.

    Args:
        gains: Gains of finished trials, along the first axis.

    Returns:
        Mean and distance (one-sided, 97.5 %); none where fewer than `FEWEST_GAINS` were seen.

    Source:
        Prediction interval of a normal by Student's t; its use for races is ours.
    """
    num = len(gains)
    if num < FEWEST_GAINS:
        return None
    from scipy.special import stdtrit

    error = float(stdtrit(num - 1, 0.975)) * math.sqrt(1 + 1 / num) * gains.std(axis=0, ddof=1)
    return gains.mean(axis=0), error
