"""How a search's frontier grows, trial by trial: what `points` says after each, without looking at all trials again."""

from __future__ import annotations

from dataclasses import replace

from eed_search.frontier.pareto import hypervolume, non_dominated
from eed_search.frontier.points import deployed, latency_kind, normalised, objectives, points
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Point


class Growth:
    """Follows one run's view; a point that is dominated once is never looked at again.

    What replaces figures of trials that have ended (final latencies, confirmed thresholds, a resume that opens trials
    again) makes it begin anew.
    """

    def __init__(self) -> None:
        self._state: tuple[object, ...] = ()
        self._num_seen = 0  # entries seen of the view's history
        self._front: list[Point] = []
        self._seen: dict[tuple[str, object], int] = {}  # what ships: the trial that it counts for

    def now(self, view: RunView) -> tuple[float, int]:
        """Give the hypervolume of the run's points, and how many of them no other one dominates by its figures.

        Args:
            view: The run, with a base; the same one each time, grown or not.
        """
        num_timings = sum(len(timings) for timings in view.timings.values())
        state = (num_timings, len(view.latencies), len(view.confirmed), view.num_resumes, view.base)
        known = state == self._state and self._num_seen <= len(view.history)
        fresh = [number for what, number in view.history[self._num_seen :] if what == "result"] if known else []
        if not known or not all(self._add(view, number) for number in fresh):
            self._front = points(view)
            self._seen = {deployed(one): one.trial for one in points(view, unrankable=True, unconfirmed=True)}
        self._state, self._num_seen = state, len(view.history)
        on = non_dominated(objectives([point.measurement for point in self._front], latency_kind(view)))
        self._front = [point for point, kept in zip(self._front, on, strict=True) if kept]
        return hypervolume(normalised(view, [point.measurement for point in self._front])), len(self._front)

    def _add(self, view: RunView, number: int) -> bool:
        """Add a trial's points; False if one of them counted for a later trial before, and is the earlier one's now."""
        alone = replace(view, trials={number: view.trials[number]})
        counted = {point.id: point for point in points(alone)}
        for point in points(alone, unrankable=True, unconfirmed=True):
            key = deployed(point)
            if (first := self._seen.setdefault(key, number)) > number:
                return False
            if first == number and point.id in counted:
                self._front.append(counted[point.id])
        return True
