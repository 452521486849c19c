"""The rule that says which points are reported as the frontier: measure again whatever may belong to it, then keep the sure ones.

    touch     whatever may be on the frontier by the intervals of the search's own figures, and of that
              what is there in any draw (round 0; `frontier.front_probability`)
    rounds    fresh images in slices of 1, 1, 2, 4 and 8 times the search's, and as many final latencies
              of those whose order in latency is open; after each, what is surely not there leaves
    report    what is there with a probability of at least `search.front_probability`
    last      one more slice and one more final latency of what is reported: they chose nothing

Pure functions of measurements; `search.revalidation` asks for the measurements, `benchmarks/front.py` proves
the rule on a table with known truth. Every name of a frontier as the product reports it comes from here.

Source:
    Ours; docs/search.md, "How much of a reported frontier is true".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eed_search.frontier.front_probability import front_probability, maybe_on_front
from eed_search.runs.records import Accuracy, Interval, RobustAccuracy, ValidationRound

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

ROUND_SIZES = (1, 1, 2, 4, 8)  # sizes of both: fresh images as multiples of the search's, and final latencies
SURE = 0.75  # default of `search.front_probability`
HOPELESS = 0.02  # probability below which a point is measured no further
FAINT = 0.0025  # the same before the first fresh image, where rounds follow: there in one draw of 400
FAIR = 0.25  # probability that is worth an attack and a final latency where no rounds follow
_OPEN = 3.0  # standard errors within which the order of two latencies is open
_Z95 = 1.959963984540054

Slice = tuple[int, int]
"""First image and one past the last, among the fresh images."""


@dataclass(frozen=True)
class Plan:
    """How the fresh images are dealt out.

    Attributes:
        validation_rounds: Slices that choose, in order; none where the images are too few to choose by.
        last: The slice that chooses nothing; its figures are what the reported points are worth.
    """

    validation_rounds: tuple[Slice, ...]
    last: Slice

    @property
    def num_timings(self) -> tuple[int, ...]:
        """Final latencies by the end of each round, round 0 first: one, then as many as slices of the search's images."""
        return (1, *np.cumsum(ROUND_SIZES)[: len(self.validation_rounds)].tolist())


def plan_rounds(num_search: int, num_fresh: int, validation_rounds: Sequence[int] = ROUND_SIZES) -> Plan:
    """Deal the fresh images out, without replacement.

    The last slice is dealt first, for an interval that was chosen by nothing is worth more than a sharper choice:
    with fewer than twice the search's images all of them are the last slice, and the search's own images and
    final latencies choose alone (then fewer points are sure, and those that are, are as often right). From
    then on the last slice has as many images as the search, and the rounds share what is left, the last of
    them cut short.

    Args:
        num_search: Images by which the search ranked, at least 1.
        num_fresh: Fresh images, at least 1.
        validation_rounds: Sizes of the rounds, in multiples of the search's images.
    """
    if num_search < 1 or num_fresh < 1:
        raise ValueError(f"{num_search} images of the search and {num_fresh} fresh ones; need at least one of each")
    if num_fresh < 2 * num_search:
        return Plan((), (0, num_fresh))
    slices, start, end = [], 0, num_fresh - num_search
    for share in validation_rounds:
        if start == end:
            break
        stop = min(end, start + share * num_search)
        slices.append((start, stop))
        start = stop
    return Plan(tuple(slices), (end, num_fresh))


def validation_round(
    number: int, probability: dict[str, float], plan: Plan, timings: dict[str, int] | None = None
) -> ValidationRound:
    """Decide a round: who is as good as never on the frontier leaves.

    Args:
        number: Number of the round: 0 by the search's own images.
        probability: Probability of each measured point to be on the true frontier, by id.
        plan: How the fresh images are dealt out.
        timings: Final latencies that each had had by then.
    """
    least = least_probability(number, plan)
    left = tuple(id_ for id_, sure in probability.items() if sure >= least)
    return ValidationRound(number, probability, left, timings or {})


def least_probability(number: int, plan: Plan) -> float:
    """Give the probability that a point must have at a round to be measured on.

    Before the first fresh image it is the smallest there is: dozens may be left out at once then, and one in
    fifty of them would be missed, as a point of the frontier and as one that keeps others off it.
    """
    return FAINT if number == 0 and plan.validation_rounds else HOPELESS


def worth_measuring(plan: Plan, threshold: float) -> float:
    """Give the probability that a point must have to be confirmed and timed before round 0.

    Where no rounds follow, nothing could make a point sure that is not nearly so by the search's own images: few
    measurements are enough, and the others stand by the search's figures.

    Args:
        plan: How the fresh images are dealt out.
        threshold: `search.front_probability`.
    """
    return least_probability(0, plan) if plan.validation_rounds else max(HOPELESS, min(FAIR, threshold))


def touching(
    accuracy: Sequence[Interval | Accuracy | RobustAccuracy],
    latency_ms: Sequence[Interval],
    bounds: Bool[np.ndarray, " points"] | None = None,
) -> Bool[np.ndarray, " points"]:
    """Mark the points whose intervals touch the frontier.

    Args:
        accuracy: With their 95 % intervals.
        latency_ms: Likewise.
        bounds: Which accuracies are only upper bounds: such a point dominates nothing.
    """
    if not accuracy:
        return np.zeros(0, bool)
    low = np.array([[-one.high, ms.low] for one, ms in zip(accuracy, latency_ms, strict=True)])
    high = np.array([[-one.low, ms.high] for one, ms in zip(accuracy, latency_ms, strict=True)])
    if bounds is not None:
        high[bounds, 0] = 0.0  # at its worst it gets nothing right
    return maybe_on_front(low, high)


def opening(
    right: Bool[np.ndarray, "points images"],
    accuracy: Sequence[Interval | Accuracy | RobustAccuracy],
    latency_ms: Sequence[Interval],
    bounds: Bool[np.ndarray, " points"] | None = None,
) -> Float[np.ndarray, " points"]:
    """Give each point's probability to be on the true frontier by the search's own images; 0 if it does not touch it.

    Args:
        right: The search's images, the same for all.
        accuracy: Shares of them with their intervals.
        latency_ms: With their intervals; equal ones are one measurement.
        bounds: Which accuracies are only upper bounds: such a point dominates nothing.
    """
    touch = touching(accuracy, latency_ms, bounds)
    found = np.zeros(len(touch))
    some = [ms for ms, one in zip(latency_ms, touch, strict=True) if one]
    found[touch] = probabilities(right[touch], some, 0, None if bounds is None else bounds[touch])
    return found


def probabilities(
    right: Bool[np.ndarray, "points images"],
    latency_ms: Sequence[Interval],
    round_: int,
    bounds: Bool[np.ndarray, " points"] | None = None,
) -> Float[np.ndarray, " points"]:
    """Give each point's probability to be on the true frontier, from all that is known of them at a round.

    Args:
        right: All images that they have had so far, the search's first.
        latency_ms: Each one's, `pooled` over its measurements; equal intervals are one measurement.
        round_: Its number; seeds the draws.
        bounds: Which accuracies are only upper bounds.
    """
    dominating = None if bounds is None else ~bounds
    return front_probability(right, list(latency_ms), seed=round_, same=list(latency_ms), dominating=dominating)


def pooled(latencies_ms: Sequence[Interval]) -> Interval:
    """Take several measurements of one latency together: their geometric mean with its interval.

    Args:
        latencies_ms: With their 95 % intervals, at least one.
    """
    if len(latencies_ms) == 1:
        return latencies_ms[0]
    num = len(latencies_ms)
    middle = sum(math.log(one.value) for one in latencies_ms) / num
    half = math.sqrt(sum((math.log(one.high / one.low) / 2) ** 2 for one in latencies_ms)) / num
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def open_order(latency_ms: Sequence[Interval]) -> Bool[np.ndarray, " points"]:
    """Mark the points whose latency may be either side of another one's: only theirs are worth measuring again.

    Args:
        latency_ms: Each one's, `pooled` over its measurements; equal intervals are one measurement.
    """
    middle = np.array([math.log(one.value) for one in latency_ms])
    spread = np.array([math.log(one.high / one.low) / (2 * _Z95) for one in latency_ms])
    apart = np.abs(middle[:, None] - middle[None])
    near = apart < _OPEN * np.hypot(spread[:, None], spread[None])
    other = np.array([[a != b for b in latency_ms] for a in latency_ms]).reshape(near.shape)
    return np.asarray((near & other).any(axis=1))


def to_time(timings_ms: Sequence[Sequence[Interval]], most: int) -> Bool[np.ndarray, " points"]:
    """Mark the points that are to be timed once more in a round: whose order is open, and who had fewer than `most` timings.

    Args:
        timings_ms: Final latencies of each so far, at least one.
        most: How many each may have had by the end of the round (`Plan.num_timings`).
    """
    few = np.array([len(own) < most for own in timings_ms], dtype=bool)
    return np.asarray(few & open_order([pooled(own) for own in timings_ms]))


def reported(
    probability: Sequence[float] | Float[np.ndarray, " points"], threshold: float
) -> Bool[np.ndarray, " points"]:
    """Mark the points that are reported as the frontier: the sure ones, or the surest where none is sure enough.

    Args:
        probability: Probability of each to be on the true frontier.
        threshold: `search.front_probability`.
    """
    sure = np.asarray(probability, dtype=float)
    found = sure >= max(threshold, HOPELESS)
    if len(sure) and not found.any():
        found[int(np.argmax(sure))] = True
    return found
