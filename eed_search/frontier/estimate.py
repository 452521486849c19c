"""Which of a run's points are reported as its frontier, and which may belong to it.

Everything follows from the run's view by the rule of `frontier.selection`: from the last round where there
is one, else from the search's own figures, as far as they go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from eed_search.core.errors import RunError
from eed_search.frontier.pareto import knee
from eed_search.frontier.points import frontier, normalised, points, ranked_latency
from eed_search.frontier.selection import (
    HOPELESS,
    SURE,
    Plan,
    opening,
    plan_rounds,
    pooled,
    probabilities,
    reported,
    validation_round,
)
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Interval, Point, ValidationRound, unpack_bits

if TYPE_CHECKING:
    from jaxtyping import Bool

_NUM_FRESH = 200  # fresh images of a run whose file says nothing of it


@dataclass(frozen=True)
class FrontierEstimate:
    """How a run's points stand to the true frontier.

    Attributes:
        front: The reported frontier, fastest first; never empty where there are points.
        uncertain: Those that may belong to it and are not sure enough, fastest first.
        probability: Probability of each point of both to be on the true frontier of the run's points, by id.
        threshold: What a point must reach to be reported (`search.front_probability`).
        reached: Whether any point does; else the surest one is reported.
        plan: How the fresh images are dealt out.
        num_rounds_taken: Slices of fresh images that helped to choose.
        decided: Whether the rule has come to its end; before, the search's own figures speak alone.
    """

    front: list[Point]
    uncertain: list[Point]
    probability: dict[str, float]
    threshold: float
    reached: bool
    plan: Plan
    num_rounds_taken: int
    decided: bool


def estimate_frontier(view: RunView) -> FrontierEstimate:
    """Say which points are reported as the frontier, and which may belong to it."""
    threshold, plan = threshold_of(view), plan_of(view)
    round_ = view.validation_rounds[-1] if view.validation_rounds else None
    known = first_probabilities(view) if round_ is None else {id_: round_.probability[id_] for id_ in round_.left}
    by_id = {point.id: point for point in points(view)}
    probability = {id_: sure for id_, sure in known.items() if sure >= HOPELESS and id_ in by_id}
    if not probability:  # such as none that touches: the surest of all is not known
        probability = {point.id: known.get(point.id, 0.0) for point in frontier(view)}
    ids = sorted(probability, key=lambda id_: (ranked_latency(view, by_id[id_].measurement).value, id_))
    on = reported([probability[id_] for id_ in ids], threshold)
    return FrontierEstimate(
        front=[by_id[id_] for id_, one in zip(ids, on, strict=True) if one],
        uncertain=[by_id[id_] for id_, one in zip(ids, on, strict=True) if not one],
        probability={id_: probability[id_] for id_ in ids},
        threshold=threshold,
        reached=any(probability[id_] >= threshold for id_ in ids),
        plan=plan,
        num_rounds_taken=0 if round_ is None else round_.number,
        decided=is_decided(view),
    )


def threshold_of(view: RunView) -> float:
    """Give the probability from which on a run reports a point."""
    return float(view.spec.get("search", {}).get("front_probability", SURE))


def plan_of(view: RunView) -> Plan:
    """Say how a run's fresh images are dealt out."""
    num_fresh = int(view.spec.get("data", {}).get("num_fresh", _NUM_FRESH))
    num_base = view.base.measurement.robust_accuracy.num_samples if view.base else 1
    return plan_rounds(num_ranked(view) or num_base, num_fresh)


def num_ranked(view: RunView) -> int:
    """Count the images by which a run ranked its points."""
    found = points(view, unrankable=True, unconfirmed=True)
    return max((p.measurement.robust_accuracy.num_samples for p in found), default=0)


def is_decided(view: RunView) -> bool:
    """Whether the last round is taken: nothing more chooses."""
    if not view.validation_rounds:
        return False
    last = view.validation_rounds[-1]
    return last.settled or last.number >= len(plan_of(view).validation_rounds)


def first_probabilities(
    view: RunView, *, unrankable: bool = False, unconfirmed: bool = False, without: Collection[str] = ()
) -> dict[str, float]:
    """Give each point's probability to be on the true frontier by the search's own images, by id.

    All trials met the same images, so what they get right or wrong together cancels out. A point that was
    evaluated on fewer images than the others was given up on the way, and is left out.

    Args:
        view: The run.
        unrankable: Count points that the search could not time, with the latency that it has.
        unconfirmed: Give swept thresholds that no attack has confirmed theirs too: they may be dominated
            and dominate nothing, for what they are worth is not known.
        without: Points to leave out.
    """
    num = num_ranked(view)
    found = [
        point
        for point in points(view, unrankable=unrankable, unconfirmed=unconfirmed, without=without)
        if point.measurement.robust_accuracy.num_samples == num
    ]
    if not found:
        return {}
    right = np.stack([_right(point) for point in found])
    accuracy = [point.measurement.robust_accuracy for point in found]
    bounds = np.array([not point.confirmed for point in found])
    sure = opening(right, accuracy, [known_latency(view, point) for point in found], bounds)
    return {point.id: float(one) for point, one in zip(found, sure, strict=True)}


def known_latency(view: RunView, point: Point) -> Interval:
    """Give the latency that ranks a point: all final ones that were taken, else the search's."""
    return pooled(final_timings(view, point) or [ranked_latency(view, point.measurement)])


def final_timings(view: RunView, point: Point) -> list[Interval]:
    """List a point's final latencies of the kind that ranks."""
    return [ranked_latency(view, replace(point.measurement, latency=one)) for one in view.timings.get(point.id, [])]


def decide(view: RunView, number: int) -> ValidationRound:
    """Take a round: from all that is measured, say who may belong to the frontier still.

    A point that lacks one of the slices up to here, because its check failed, keeps its last probability.

    Args:
        view: The run, with all measurements of this round.
        number: Number of the round; 0 goes by the search's own images.
    """
    plan = plan_of(view)
    timings = {id_: len(taken) for id_, taken in view.timings.items()}
    if number == 0:
        first = first_probabilities(view)
        first = {id_: sure for id_, sure in first.items() if sure > 0}
        return validation_round(0, first, plan, {id_: timings.get(id_, 0) for id_ in first})
    before = view.validation_rounds[number - 1]
    slices = plan.validation_rounds[:number]
    by_id = {point.id: point for point in points(view)}
    whole = [id_ for id_ in before.left if id_ in by_id and _has(view, id_, slices)]
    probability = {id_: before.probability[id_] for id_ in before.left}
    if whole:
        right = np.stack([_right(by_id[id_], view, slices) for id_ in whole])
        sure = probabilities(right, [known_latency(view, by_id[id_]) for id_ in whole], number)
        probability |= {id_: float(one) for id_, one in zip(whole, sure, strict=True)}
    return validation_round(number, probability, plan, {id_: timings.get(id_, 0) for id_ in before.left})


def _has(view: RunView, id_: str, slices: Sequence[tuple[int, int]]) -> bool:
    taken = view.slices.get(id_, {})
    return all(start in taken for start, _ in slices)


def _right(
    point: Point, view: RunView | None = None, slices: Sequence[tuple[int, int]] = ()
) -> Bool[np.ndarray, " images"]:
    m = point.measurement
    parts = [unpack_bits(m.robust_hex, m.robust_accuracy.num_samples)]
    for start, stop in slices:
        assert view is not None
        parts.append(unpack_bits(view.slices[point.id][start].robust_hex, stop - start))
    return np.concatenate(parts)


# ---------------------------------------------------------------- one point of them


def select(
    view: RunView,
    wish: str,
    *,
    max_latency_ms: float | None = None,
    min_robust_accuracy: float | None = None,
    front: Sequence[Point] | None = None,
) -> Point:
    """Choose one point: `knee`, `fastest`, `most-robust` of the reported frontier, or any point by its id.

    Args:
        view: The run.
        wish: What to select.
        max_latency_ms: Leave out slower points first.
        min_robust_accuracy: Leave out points of lower robust accuracy first (fraction).
        front: The reported frontier where it is known already.

    Raises:
        RunError: If nothing fits; says what there is.
    """
    by_id = {p.id: p for p in points(view, twins=True)}
    if wish not in ("knee", "fastest", "most-robust"):
        if wish in by_id and _keeps(by_id[wish], max_latency_ms, min_robust_accuracy):
            return by_id[wish]
        if wish in by_id:
            m = by_id[wish].measurement
            raise RunError(
                f"--select {wish}: takes {m.latency.latency_ms.value:.4g} ms and has {100 * m.robust_accuracy.value:.1f} % robust accuracy, which breaks a limit; loosen --max-latency-ms or --min-robust-accuracy"
            )
        raise RunError(
            f"--select {wish}: no such point; allowed: knee, fastest, most-robust, or one of {', '.join(by_id) or 'none (no finished trial)'}"
        )
    front = estimate_frontier(view).front if front is None else front
    if not front:
        raise RunError(f"run {view.name}: has no finished trial, so there is nothing to select")
    fitting = [p for p in front if _keeps(p, max_latency_ms, min_robust_accuracy)]
    if not fitting:
        best = max(p.measurement.robust_accuracy.value for p in front)
        fastest = front[0].measurement.latency.latency_ms.value
        raise RunError(
            f"run {view.name}: no frontier point keeps both limits; the most robust has {100 * best:.1f} %, the fastest takes {fastest:.4g} ms. Loosen --max-latency-ms or --min-robust-accuracy"
        )
    if wish == "fastest":
        return fitting[0]
    if wish == "most-robust":
        return max(fitting, key=lambda p: p.measurement.robust_accuracy.value)
    return fitting[knee(normalised(view, [p.measurement for p in fitting]))]


def _keeps(point: Point, max_latency_ms: float | None, min_robust_accuracy: float | None) -> bool:
    m = point.measurement
    return (max_latency_ms is None or m.latency.latency_ms.value <= max_latency_ms) and (
        min_robust_accuracy is None or m.robust_accuracy.value >= min_robust_accuracy
    )
