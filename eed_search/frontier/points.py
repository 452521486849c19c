"""From a run's view to what a person asks for: its points, its frontier, its hypervolume."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from eed_search.config.params import LatencyKind
from eed_search.core.errors import RunError
from eed_search.frontier.pareto import hypervolume, non_dominated, normalise
from eed_search.runs.cost import latency_of
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Interval, Measurement, Point, Reference, TrialRecord


def points(
    view: RunView,
    *,
    unrankable: bool = False,
    unconfirmed: bool = False,
    without: Collection[str] = (),
    twins: bool = False,
) -> list[Point]:
    """List the points that may enter the frontier: each trial's own, and its confirmed swept thresholds.

    Two trials may come to one trained team, and then to one gate threshold: that is one point, the earlier trial's.

    A final latency replaces the search's where one was taken, noisy or not: it is the deployed
    cascade's own, the runtime's overhead included, and ranking it beside sums of member latencies
    would compare two things. A point that the search could not time and that has no final one is
    left out.

    Args:
        view: The run.
        unrankable: Keep those too: what `final latencies` should time once more.
        unconfirmed: Keep swept thresholds that no attack has confirmed yet.
        without: Points to leave out.
        twins: Keep the later trial's too, as for somebody who asks by its id.
    """
    found, seen = [], set()
    for number, trial in sorted(view.trials.items()):
        if trial.outcome != "done" or trial.measurement is None:
            continue
        for point in _points_of(number, trial, view):
            ships = deployed(point)
            if ships in seen and not twins:
                continue
            seen.add(ships)
            final = view.latencies.get(point.id)
            if point.id in without or not (point.confirmed or unconfirmed):
                continue
            if final is not None:
                found.append(replace(point, measurement=replace(point.measurement, latency=final)))
            elif unrankable or not point.measurement.latency.noisy:
                found.append(point)
    return found


def with_final_latency(view: RunView, reference: Reference) -> Measurement:
    """Give what was measured on the dense base or a baseline, with its final latency where one was taken."""
    latency = view.latencies.get(reference.name, reference.measurement.latency)
    return replace(reference.measurement, latency=latency)


def measurement_of(view: RunView, id_: str) -> Measurement | None:
    """Give what was measured on a point, the dense base or a baseline, its final latency included."""
    for one in ([view.base] if view.base else []) + view.baselines:
        if one.name == id_:
            return with_final_latency(view, one)
    found = (p for p in points(view, unrankable=True, unconfirmed=True, twins=True) if p.id == id_)
    return next((p.measurement for p in found), None)


def _points_of(number: int, trial: TrialRecord, view: RunView) -> list[Point]:
    assert trial.measurement is not None
    own = [Point(f"{number}.0", number, trial.params, trial.measurement)]
    for i, swept in enumerate(trial.swept, start=1):
        id_ = f"{number}.{i}"
        params = trial.params | {"gate_threshold": swept.gate_threshold}
        confirmed = view.confirmed.get(id_)
        if confirmed is not None and breaks_a_limit(view, confirmed):
            continue  # its bound kept them all, what the attacks at its own threshold found does not
        own.append(Point(id_, number, params, confirmed or swept.measurement, confirmed is not None))
    return own


def deployed(point: Point) -> tuple[str, object]:
    """Say what ships: the trained team and, where there is a gate to ask, its threshold."""
    threshold = point.params.get("gate_threshold") if point.measurement.num_members > 1 else None
    return point.measurement.artifact, threshold


def breaks_a_limit(view: RunView, measured: Measurement) -> bool:
    """Whether a measurement breaks one of a run's limits."""
    limits = view.spec.get("search", {}).get("constraints", {})
    if view.base is None or not any(limit is not None for limit in limits.values()):
        return False
    return any(violation > 0 for violation in violations(limits, measured, view.base).values())


def frontier(
    view: RunView, *, unrankable: bool = False, unconfirmed: bool = False, without: Collection[str] = ()
) -> list[Point]:
    """Keep the points that no other point dominates by its figures, fastest first.

    What is best so far; half of it may be luck. What a run reports is `frontier.estimate`.
    """
    all_points = points(view, unrankable=unrankable, unconfirmed=unconfirmed, without=without)
    kind = latency_kind(view)
    keep = non_dominated(objectives([p.measurement for p in all_points], kind))
    kept = [point for point, on in zip(all_points, keep, strict=True) if on]
    return sorted(kept, key=lambda p: (latency_of(p.measurement, kind).value, -p.measurement.robust_accuracy.value))


def latency_kind(view: RunView) -> LatencyKind:
    """Say which latency ranks in a run; `clean` in those of a version that knew no other."""
    kind: LatencyKind = view.spec.get("search", {}).get("latency_objective", "clean")
    return kind


def ranked_latency(view: RunView, measured: Measurement) -> Interval:
    """Give the latency by which a run ranks, with its interval."""
    return latency_of(measured, latency_kind(view))


def objectives(measurements: list[Measurement], kind: LatencyKind = "clean") -> np.ndarray:
    """Both objectives, minimised: 1 - robust accuracy, and milliseconds of the latency that ranks."""
    rows = [[1 - m.robust_accuracy.value, latency_of(m, kind).value] for m in measurements]
    return np.array(rows, dtype=float).reshape(-1, 2)


def normalised(view: RunView, measurements: list[Measurement]) -> np.ndarray:
    """Both objectives on the scale of the hypervolume: (1, 1) is chance at the dense base's latency."""
    if view.base is None:
        raise RunError(f"run {view.name}: has no dense base yet; wait for it or look at its log")
    values = objectives(measurements, latency_kind(view))
    dense = view.latencies.get(view.base.name, view.base.measurement.latency)
    return normalise(
        1 - values[:, 0],
        values[:, 1],
        num_classes=int(view.facts["num_classes"]),
        dense_latency_ms=dense.latency_ms.value,
    )


def run_hypervolume(view: RunView) -> float:
    """Share of the (robust accuracy, latency) square that all of the run's points dominate, reported or not."""
    if view.base is None:
        return 0.0
    return hypervolume(normalised(view, [p.measurement for p in points(view)]))


def stalled(view: RunView, patience: int | None) -> bool:
    """Say whether the last trials that came to their end have added nothing to the hypervolume.

    Args:
        view: The run.
        patience: How many trials; none never stalls.
    """
    ended = [number for what, number in view.history if what == "result"]
    if patience is None or len(ended) <= patience:
        return False
    earlier = {number: view.trials[number] for number in ended[:-patience]}
    return run_hypervolume(view) <= run_hypervolume(replace(view, trials=earlier))


def violations(limits: Mapping[str, float | None], measured: Measurement, base: Reference) -> dict[str, float]:
    """By how much a measurement breaks each limit of the file, in the limit's unit; at most 0 is kept.

    Args:
        limits: Limits of the file's section `search.constraints`, by name; null for none.
        measured: On the point.
        base: The dense base and what it measured.
    """
    latency, dense = measured.latency, base.measurement.latency.latency_ms.value
    attacked = latency_of(measured, "attacked").value
    at_least = {
        "min_clean_accuracy": measured.clean_accuracy.value,
        "min_robust_accuracy": measured.robust_accuracy.value,
    }
    at_most = {
        "max_size_bytes": float(measured.size_bytes),
        "max_latency_ms": latency.latency_ms.value,
        "max_worst_case_latency_ms": latency.worst_case_ms,
        "max_worst_case_slowdown": latency.worst_case_ms / dense,
        "max_attacked_latency_ms": attacked,
        "max_attacked_slowdown": attacked / dense,
    }
    given = {name: limit for name, limit in limits.items() if limit is not None}
    short = {name: given[name] - value for name, value in at_least.items() if name in given}
    return short | {name: value - given[name] for name, value in at_most.items() if name in given}
