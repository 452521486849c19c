"""What `eed-search attack` found on a run's points: a table and a frontier for each badge, never one of two.

The frontier of the search itself stands on `proxy` figures. A stronger attack may order the points
anew, so its figures get columns of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eed_search.core.attack_records import AttackResult
from eed_search.core.attacked import TIERS, AttackBadge, attacked_cost, badge_frontier, others, results, summary
from eed_search.core.ledger import RunView
from eed_search.core.points import ranked_latency
from eed_search.core.records import Accuracy, Point, RobustAccuracy
from eed_search.core.reported import standing
from eed_search.tracking.text import arm, times

COLUMNS = ("point", "robust %", "any prefix %", "static %", "clean %", "n", "attacked", "front")


@dataclass(frozen=True)
class BadgeTable:
    """The results of one badge, ready to print.

    Attributes:
        badge: Theirs.
        title: What stands in it.
        rows: A text for each of `COLUMNS`.
        notes: With what they were made, and what is missing: never a number without it.
    """

    badge: AttackBadge
    title: str
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def badge_tables(view: RunView) -> list[BadgeTable]:
    """List what was found, one table for each badge that any point has."""
    return [_table(view, badge, there) for badge in TIERS if (there := results(view, badge))]


def other_lines(view: RunView) -> list[str]:
    """List the results that stand in no column, one line each."""
    return [
        f"{id_}: {_figure(one)} at tier {one.tier} (badge `{one.badge}`), eps {one.eps:.4g}, seed {one.seed},"
        f" {one.clean.num_samples} {one.split} images: not in the columns"
        for id_, one in others(view)
    ]


def badge_facts(view: RunView) -> dict[str, Any]:
    """Describe the same for other programs."""
    found: dict[str, Any] = {}
    for badge in TIERS:
        one = badge_frontier(view, _ranked(view, badge), badge)
        ids = None if one.missing or not one.points else list(one.points)
        found[badge] = {"frontier": ids, "missing": list(one.missing), "invalid": list(one.invalid)}
    return {"badges": found, "other_attacks": [{"id": id_, **summary(one)} for id_, one in others(view)]}


def point_facts(view: RunView, id_: str) -> dict[str, Any]:
    """Describe what was found on one point; none where it was not attacked."""
    there = {badge: results(view, badge).get(id_) for badge in TIERS}
    return {badge: None if one is None else summary(one) for badge, one in there.items()}


def _ranked(view: RunView, badge: AttackBadge) -> list[Point]:
    """The reported frontier, and of what may belong to it the points that were attacked; fastest first."""
    found, there = standing(view), results(view, badge)
    shown = [*found.front, *(point for point in found.maybe if point.id in there)]
    return sorted(shown, key=lambda point: ranked_latency(view, point.measurement).value)


def _table(view: RunView, badge: AttackBadge, there: dict[str, AttackResult]) -> BadgeTable:
    front = _ranked(view, badge)
    by_badge = badge_frontier(view, front, badge)
    ids = [point.id for point in front if point.id in there]
    ids += [id_ for id_ in there if id_ not in ids]
    rows = tuple(_row(id_, there[id_], id_ in by_badge.points) for id_ in ids)
    tier = TIERS[badge]
    images = {"checked": "fresh images", "claim": "test images"}[badge]
    notes = [*_means(list(there.values()), images), _frontier_note(view, by_badge.points, by_badge.missing, badge)]
    notes += [
        f"{id_}: invalid, no figure is shown ({'; '.join(one.reasons)})."
        for id_, one in there.items()
        if one.badge == "invalid"
    ]
    if badge == "claim" and len(there) > 1:
        notes.append(
            f"{len(there)} points were claimed on the same test images: the best of several looks better than it is."
        )
    return BadgeTable(badge, f"Robust accuracy at tier {tier}, badge `{badge}`", rows, tuple(notes))


def _row(id_: str, one: AttackResult, on_front: bool) -> tuple[str, ...]:
    if one.badge == "invalid":
        return id_, "invalid", "–", "–", "–", str(one.clean.num_samples), "–", ""
    accuracies = [_per_cent(figure) for figure in (one.robust, one.any_prefix, one.static, one.clean)]
    speed = times(attacked_cost(one).speedup)
    return id_, *accuracies, str(one.clean.num_samples), speed, "yes" if on_front else ""


def _figure(one: AttackResult) -> str:
    return "no figure" if one.badge == "invalid" else f"{_per_cent(one.robust)} %"


def _per_cent(accuracy: Accuracy | RobustAccuracy) -> str:
    return f"{100 * accuracy.value:.1f} ±{100 * arm(accuracy):.1f}"


def _means(there: Sequence[AttackResult], images: str) -> list[str]:
    """Say with what the figures of a table were made."""
    attacks = sorted({f"{one.robust.attack}" for one in there})
    eps, seeds = sorted({f"{one.eps:.4g}" for one in there}), sorted({one.seed for one in there})
    numbers = sorted({one.clean.num_samples for one in there})
    said = f"robust: {', '.join(map(str, numbers))} {images}, L-inf eps {', '.join(eps)}, seed {', '.join(map(str, seeds))};"
    return [
        f"{said} ±: 95 % interval. any prefix: broken if any prefix that the gate can stop at is; static: no gate."
        " attacked: speed-up left by the slower of both attacks.",
        *(f"Attacks: {one}." for one in attacks),
    ]


def _frontier_note(view: RunView, on: Sequence[str], missing: Sequence[str], badge: AttackBadge) -> str:
    if missing:
        return (
            f"No frontier by `{badge}` yet: {', '.join(missing)} not attacked;"
            f" `eed-search attack {view.name}:frontier --tier {TIERS[badge]}` attacks all."
        )
    if not on:
        return f"No frontier by `{badge}`: no result on it is valid."
    return f"Frontier by `{badge}` alone: {', '.join(on)}."
