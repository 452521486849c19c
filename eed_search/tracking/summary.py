"""What a run comes to, worked out once: terminal, page, table, JSON and MLflow only render it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from eed_search.config.params import LatencyKind
from eed_search.frontier.attacked import TIERS, AttackBadge, BadgeFrontier, badge_frontier, others, results
from eed_search.frontier.estimate import FrontierEstimate, estimate_frontier
from eed_search.frontier.points import latency_kind, points, ranked_latency, run_hypervolume, with_final_latency
from eed_search.frontier.testimony import Gain, gains_over_base
from eed_search.runs.attack_records import AttackResult
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Measurement, Point
from eed_search.tracking.verdict import Verdict, compare


@dataclass(frozen=True)
class BadgeResults:
    """What `eed-search attack` found at one tier.

    Attributes:
        results: The result that counts for each point, by id; invalid ones included.
        ranked: Points that the frontier of this badge is made of: reported, or with a result of this badge, fastest first.
        frontier: Those that no other one dominates by this badge's figures alone.
    """

    results: dict[str, AttackResult]
    ranked: tuple[Point, ...]
    frontier: BadgeFrontier


@dataclass(frozen=True)
class RunSummary:
    """A run, and everything that is said of it; `summarise` makes it.

    Attributes:
        view: The run as its ledger tells it.
        frontier: The reported frontier, and what may belong to it.
        points: All that may enter a frontier, reported or not.
        base: What was measured on the dense base, its final latency included; none before.
        baselines: The same of each baseline, by name.
        gains: Differences of the reported points to the base, on images that chose nothing, by id.
        verdict: Whether the frontier beats the baselines.
        badges: What `eed-search attack` found, by badge.
        other_attacks: Its results that count for no badge, with the point's id.
    """

    view: RunView
    frontier: FrontierEstimate
    points: tuple[Point, ...]
    base: Measurement | None
    baselines: dict[str, Measurement]
    gains: dict[str, Gain]
    verdict: Verdict
    badges: dict[AttackBadge, BadgeResults]
    other_attacks: tuple[tuple[str, AttackResult], ...]

    @property
    def references(self) -> dict[str, Measurement]:
        """The dense base and the baselines by name, final latencies included."""
        base = {} if self.view.base is None or self.base is None else {self.view.base.name: self.base}
        return base | self.baselines

    @property
    def latency_kind(self) -> LatencyKind:
        """Which latency ranks."""
        return latency_kind(self.view)

    @cached_property
    def hypervolume(self) -> float:
        """Share of the (robust accuracy, latency) square that all points dominate, reported or not."""
        return run_hypervolume(self.view)


def summarise(view: RunView) -> RunSummary:
    """Work out everything that is said of a run, finished or not."""
    found = estimate_frontier(view)
    return RunSummary(
        view=view,
        frontier=found,
        points=tuple(points(view)),
        base=None if view.base is None else with_final_latency(view, view.base),
        baselines={baseline.name: with_final_latency(view, baseline) for baseline in view.baselines},
        gains=gains_over_base(view, found.front),
        verdict=compare(view, found.front),
        badges={badge: _badge_results(view, found, badge) for badge in TIERS},
        other_attacks=tuple(others(view)),
    )


def _badge_results(view: RunView, found: FrontierEstimate, badge: AttackBadge) -> BadgeResults:
    there = results(view, badge)
    shown = [*found.front, *(point for point in found.uncertain if point.id in there)]
    ranked = sorted(shown, key=lambda point: ranked_latency(view, point.measurement).value)
    return BadgeResults(there, tuple(ranked), badge_frontier(view, ranked, badge))
