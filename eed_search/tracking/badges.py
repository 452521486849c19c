"""What `eed-search attack` found on a run's points: a table and a frontier for each badge, never one of two.

The frontier of the search itself stands on `proxy` figures. A stronger attack may order the points
anew, so its figures get columns of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eed_search.frontier.attacked import TIERS, AttackBadge, BadgeFrontier, attacked_cost, result_facts
from eed_search.runs.attack_records import AttackResult
from eed_search.runs.records import Accuracy, RobustAccuracy
from eed_search.tracking.summary import BadgeResults, RunSummary
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


def badge_tables(summary: RunSummary) -> list[BadgeTable]:
    """List what was found, one table for each badge that any point has."""
    return [_table(summary.view.name, badge, found) for badge, found in summary.badges.items() if found.results]


def other_lines(summary: RunSummary) -> list[str]:
    """List the results that stand in no column, one line each."""
    return [
        f"{id_}: {_figure(one)} at tier {one.tier} (badge `{one.badge}`), eps {one.eps:.4g}, seed {one.seed},"
        f" {one.clean.num_samples} {one.split} images: not in the columns"
        for id_, one in summary.other_attacks
    ]


def badge_facts(summary: RunSummary) -> dict[str, Any]:
    """Describe the same for other programs."""
    facts: dict[str, Any] = {}
    for badge, found in summary.badges.items():
        one = found.frontier
        ids = None if one.missing or not one.points else list(one.points)
        facts[badge] = {"frontier": ids, "missing": list(one.missing), "invalid": list(one.invalid)}
    others = [{"id": id_, **result_facts(one)} for id_, one in summary.other_attacks]
    return {"badges": facts, "other_attacks": others}


def point_facts(summary: RunSummary, id_: str) -> dict[str, Any]:
    """Describe what was found on one point; none where it was not attacked."""
    there = {badge: found.results.get(id_) for badge, found in summary.badges.items()}
    return {badge: None if one is None else result_facts(one) for badge, one in there.items()}


def _table(run: str, badge: AttackBadge, found: BadgeResults) -> BadgeTable:
    there, by_badge = found.results, found.frontier
    ids = [point.id for point in found.ranked if point.id in there]
    ids += [id_ for id_ in there if id_ not in ids]
    rows = tuple(_row(id_, there[id_], id_ in by_badge.points) for id_ in ids)
    tier = TIERS[badge]
    images = {"checked": "fresh images", "claim": "test images"}[badge]
    notes = [*_means(list(there.values()), images), _frontier_note(run, by_badge)]
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


def _frontier_note(run: str, found: BadgeFrontier) -> str:
    if found.missing:
        return (
            f"No frontier by `{found.badge}` yet: {', '.join(found.missing)} not attacked;"
            f" `eed-search attack {run}:frontier --tier {TIERS[found.badge]}` attacks all."
        )
    if not found.points:
        return f"No frontier by `{found.badge}`: no result on it is valid."
    return f"Frontier by `{found.badge}` alone: {', '.join(found.points)}."
