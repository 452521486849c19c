"""What to do with a frontier: attack its knee, then export it; train longer where next to nothing is robust."""

from __future__ import annotations

import shlex

from eed_search.frontier.attacked import AttackBadge
from eed_search.frontier.estimate import select
from eed_search.runs.attack_records import AttackResult
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Point
from eed_search.runs.undertrained import near_chance, nearly_none
from eed_search.tracking.summary import RunSummary

Step = tuple[str, str, str]
"""A word for what it does, then one of our commands with its arguments; text without a command where that is empty."""


def onward(summary: RunSummary, name: str, *, sent: bool) -> list[Step]:
    """Say what comes next for the knee of a frontier; nothing where there is no frontier.

    Args:
        summary: Summary of the run.
        name: Name of its folder.
        sent: Whether the reader sits elsewhere, as after a search on a cluster: then a bundle is attacked, not the run.
    """
    if not summary.frontier.front:
        return []
    view, point = summary.view, select(summary.view, "knee", front=summary.frontier.front)
    checked, claimed = (_valid(summary, badge, point) for badge in ("checked", "claim"))
    out = f"{name}-knee"
    target = out if sent else f"{name}:knee"
    export: Step = ("export", "export", f"{shlex.quote(name)} --select knee --out {shlex.quote(out)}")
    first: Step = ("attack", "attack", f"{shlex.quote(target)} --tier 1")
    if said := _not_robust(point, claimed or checked) or _a_guess(view, point):
        epochs = view.spec.get("base", {}).get("epochs")
        train = f"launch again with more base.epochs{f' (now {epochs:g})' if epochs is not None else ''}, then attack"
        return [("robust", "", said), ("train", "", train), *([] if checked or claimed or sent else [first])]
    if claimed:
        return [export]
    if checked:
        return [export, ("claim", "attack", f"{shlex.quote(target)} --tier 2")]
    return [export, first] if sent else [first, export]


def _valid(summary: RunSummary, badge: AttackBadge, point: Point) -> AttackResult | None:
    found = summary.badges[badge].results.get(point.id)
    return found if found is not None and found.badge == badge else None


def _a_guess(view: RunView, point: Point) -> str:
    """Say that a point answers no better than a guess, whose answers no attack can make much worse; nothing where it does."""
    clean, num_classes = point.measurement.clean_accuracy, view.facts.get("num_classes")
    if not num_classes or not near_chance(clean, num_classes):
        return ""
    return f"clean accuracy {100 * clean.value:.1f} %, a guess has {100 / num_classes:.1f} %: not worth an export"


def _not_robust(point: Point, attacked: AttackResult | None) -> str:
    """Say that next to no image stays right, and by which attack; nothing where more do."""
    robust = point.measurement.robust_accuracy if attacked is None else attacked.robust
    if not nearly_none(robust):
        return ""
    num = round(robust.value * robust.num_samples)
    by = "in the search" if attacked is None else f"at tier {attacked.tier}"
    return f"{100 * robust.value:.1f} % {by} ({num} of {robust.num_samples} images): not worth an export"
