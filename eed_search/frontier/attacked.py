"""A run's points under `eed-search attack`: which results count, and the frontier of one badge.

A result counts where its images and its eps are the run's own, so that all that stand in one column
were asked the same. Of several at tier 1 the last counts: attacks get better. Of several at tier 2 the
first does: test images are used once for each point. Whatever does not count is kept and listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eed_search.core.errors import RunError
from eed_search.frontier.pareto import non_dominated
from eed_search.frontier.points import ranked_latency
from eed_search.runs.attack_records import AttackResult
from eed_search.runs.cost import Cost
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Point, to_json

AttackBadge = Literal["checked", "claim"]
TIERS: dict[AttackBadge, int] = {"checked": 1, "claim": 2}


def results(view: RunView, badge: AttackBadge) -> dict[str, AttackResult]:
    """Give the result that counts for each point that was attacked at a tier, by id; invalid ones included."""
    found: dict[str, AttackResult] = {}
    whole = _num_images(view, badge)
    for id_, kept in view.attacks.items():
        fitting = [one for one in kept if _is_own(view, one, badge) and one.clean.num_samples == whole]
        if fitting:
            found[id_] = fitting[0 if badge == "claim" else -1]
    return found


def others(view: RunView) -> Iterator[tuple[str, AttackResult]]:
    """List the results that do not count, with the point's id: at another eps, on fewer images, or done again."""
    counted = {id(one) for badge in TIERS for one in results(view, badge).values()}
    for id_, kept in view.attacks.items():
        yield from ((id_, one) for one in kept if id(one) not in counted)


@dataclass(frozen=True)
class BadgeFrontier:
    """The frontier by robust accuracies of one badge.

    Attributes:
        badge: Theirs, all of them.
        points: Ids of those that no other point dominates, fastest first.
        invalid: Ids of those whose result is invalid: they are left out.
        missing: Ids of those that were not attacked yet: while there are any, nothing is said of a frontier.
    """

    badge: AttackBadge
    points: tuple[str, ...]
    invalid: tuple[str, ...]
    missing: tuple[str, ...]


def badge_frontier(view: RunView, shown: Sequence[Point], badge: AttackBadge) -> BadgeFrontier:
    """Rank the points that are shown by one badge alone: badges never mix.

    Args:
        view: The run.
        shown: The points of its frontier.
        badge: Whose robust accuracies rank, beside the latency that ranks in the run.
    """
    there = results(view, badge)
    missing = tuple(p.id for p in shown if p.id not in there)
    invalid = tuple(p.id for p in shown if p.id in there and there[p.id].badge == "invalid")
    sound = [p for p in shown if p.id in there and there[p.id].badge == badge]
    on: tuple[str, ...] = ()
    if not missing and sound:
        rows = [[1 - there[p.id].robust.value, ranked_latency(view, p.measurement).value] for p in sound]
        kept = [p for p, keep in zip(sound, non_dominated(np.array(rows)), strict=True) if keep]
        on = tuple(p.id for p in sorted(kept, key=lambda p: ranked_latency(view, p.measurement).value))
    return BadgeFrontier(badge, on, invalid, missing)


@dataclass(frozen=True)
class Settings:
    """What makes two attacks on one classifier and one set of images the same."""

    eps: float
    seed: int
    num_samples: int


def refuse_second_claim(view: RunView, id_: str, wanted: Settings) -> None:
    """Refuse to attack a point on the test images again with other settings: they are used once.

    Args:
        view: The run.
        id_: The point's id, or the reference's name.
        wanted: How it is to be attacked.

    Raises:
        RunError: If the point has had a claim with other settings.
    """
    for one in view.attacks.get(id_, ()):
        if one.tier == 2 and Settings(one.eps, one.seed, one.clean.num_samples) != wanted:
            raise RunError(
                f"run {view.name}: {id_} has had its claim on the test images (eps {one.eps:.4g}, seed {one.seed},"
                f" {one.clean.num_samples} images); they are used once, so a second one with other settings is refused."
                f" The same settings read the result again; other ones are for --tier 1"
            )


def result_facts(result: AttackResult) -> dict[str, Any]:
    """Describe a result for other programs: every number with what it rests on; without flags sample by sample."""
    plain = to_json(result)
    keep = ("schema_version", "badge", "reasons", "notes", "tier", "split", "data", "eps", "seed", "key")
    accuracies = {"robust_accuracy": plain["robust"], "clean_accuracy": plain["clean"]}
    accuracies |= {"robust_any_prefix": plain["any_prefix"], "robust_static": plain["static"]}
    names = {"clean": "clean_cost", "accuracy": "attacked_cost", "slowed": "slowed_cost", "worst": "worst_cost"}
    attacked = attacked_cost(result)
    return {
        **{name: plain[name] for name in keep},
        **accuracies,
        "certified": plain["certified"] if was_certified(result) else None,
        "certified_by": plain["certified_by"],
        "attacked_speedup": attacked.speedup,
        "costs": {name: plain[field] for name, field in names.items()},
        "attacks": [{k: one[k] for k in ("id", "name", "steps", "restarts")} for one in plain["attacks"]],
    }


def was_certified(result: AttackResult) -> bool:
    """Whether anything was tried to be proved: what could not be tried has no share, not one of 0 %."""
    return result.certified is not None and not result.certified_by.startswith("none")


def attacked_cost(result: AttackResult) -> Cost:
    """Give the cost under the slower of both attacks."""
    known = [one for one in (result.attacked_cost, result.slowed_cost) if one is not None]
    return max(known, key=lambda one: (one.latency_ms or 0.0, one.members_run))


def _is_own(view: RunView, result: AttackResult, badge: AttackBadge) -> bool:
    split = {"checked": "fresh", "claim": "test"}[badge]
    eps = view.spec.get("threat", {}).get("eps")
    return result.tier == TIERS[badge] and result.split == split and result.eps == eps


def _num_images(view: RunView, badge: AttackBadge) -> int:
    """Most images that any result of a tier rests on: fewer were asked for by hand."""
    counts = (one.clean.num_samples for kept in view.attacks.values() for one in kept if _is_own(view, one, badge))
    return max(counts, default=0)
