"""How much a search space holds: its distinct members, and the teams that can be made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, cast

from eed_search.config.params import MemberChoice, ParamValue, TrialParams, is_scored
from eed_search.config.plans import MemberPlan, plan_members
from eed_search.config.spec import Choice, Dimension, Spec

if TYPE_CHECKING:
    from eed_search.config.params import Recovery, Subsets

_MOST_MEMBERS = 20_000  # members of a space that are listed one by one


@dataclass(frozen=True)
class SpaceSize:
    """How much a space holds; none where a size is any number of a range.

    Attributes:
        members: Networks that differ in method, score, size, images, recovery, or as copies of one another.
        teams: Combinations of members, before joint fine-tuning and gate: these vary on top.
    """

    members: int | None
    teams: int | None


def space_size(spec: Spec) -> SpaceSize:
    """Count the members and teams of a space."""
    space = spec.search.space
    sizes = values_of(space.size)
    if sizes is None:
        return SpaceSize(None, None)
    recoveries, subsets = len(values_of(space.recovery) or ()), len(values_of(space.subsets) or ())
    if spec.team.mode == "pool":
        pool = spec.team.pool
        pools = len(values_of(space.method) or ()) * len(sizes) * recoveries * (1 if pool.num_subsets > 1 else subsets)
        return SpaceSize(pools * len(pool.scores) * pool.num_subsets, pools)
    choices, counts, ways = len(choices_of(spec)), whole_numbers(space.num_members), recoveries * subsets
    # In a team of n a choice can stand up to n times, each time as a member of its own.
    return SpaceSize(choices * max(counts) * ways, ways * sum(math.comb(choices + n - 1, n) for n in counts))


def choices_of(spec: Spec) -> list[MemberChoice]:
    """List what a member can be named by; none where a size is any number of a range.

    Methods that do not look at scores have one choice for each size.
    """
    space = spec.search.space
    pool = spec.team.mode == "pool"
    scores = spec.team.pool.scores if pool else tuple(cast("Any", value) for value in values_of(space.score) or ())
    return [
        MemberChoice(score, float(size), cast("Any", method))
        for method, size in product(values_of(space.method) or (), values_of(space.size) or ())
        for score in (scores if is_scored(str(method)) else scores[:1])
    ]


def all_members(spec: Spec) -> list[MemberPlan]:
    """List the members of a space; none where there are too many, or a size is any number of a range."""
    num = space_size(spec).members
    if num is None or num > _MOST_MEMBERS:
        return []
    space = spec.search.space
    pool = spec.team.mode == "pool"
    most = spec.team.pool.num_subsets if pool else max(whole_numbers(space.num_members))
    subsets = ["shared"] if pool and most > 1 else values_of(space.subsets) or []
    found: dict[MemberPlan, None] = {}
    for choice, images, recovery in product(choices_of(spec), subsets, values_of(space.recovery) or []):
        plans = plan_members([choice] * most, cast("Subsets", images), cast("Recovery", recovery))
        found |= dict.fromkeys(plans)
    return list(found)


def plans_of(params: TrialParams, spec: Spec) -> list[MemberPlan]:
    """List the members that a trial needs: those it names, or its whole pool."""
    if spec.team.mode == "direct":
        return plan_members(params.members, params.subsets, params.recovery)
    num = spec.team.pool.num_subsets
    choices = [choice for choice in params.members for _ in range(num)]
    return plan_members(choices, "shared" if num > 1 else params.subsets, params.recovery)


def values_of(dimension: Dimension, *, whole: bool = False) -> list[ParamValue] | None:
    """List what a dimension can take; none for a range without steps.

    Args:
        dimension: Dimension of a search space.
        whole: Whether it holds whole numbers, whose ranges step by one.
    """
    if isinstance(dimension, Choice):
        return list(dimension.values)
    if dimension.low == dimension.high:
        return [dimension.low]
    step = dimension.step or (1.0 if whole else None)
    if step is None:
        return None
    return [dimension.low + i * step for i in range(int((dimension.high - dimension.low) / step + 1e-9) + 1)]


def whole_numbers(dimension: Dimension) -> list[int]:
    """List the whole numbers that a dimension can take."""
    return [int(value) for value in values_of(dimension, whole=True) or ()]
