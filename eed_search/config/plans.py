"""Which members a trial needs, down to what makes each itself: what two trials may share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eed_search.config.params import MemberChoice, Recovery, Subsets

NUM_PARTS = 3  # disjoint parts of the training images that members of one score take in turn


@dataclass(frozen=True)
class MemberPlan:
    """One member of a team, down to what makes it itself.

    Attributes:
        choice: Score and size.
        subsets: Which images it is fine-tuned on.
        part: With `shared`, which third beside the shared quarter.
        copy: Counts members that would otherwise be equal; each gets other random numbers.
        recovery: How it is fine-tuned.
    """

    choice: MemberChoice
    subsets: Subsets
    part: int
    copy: int
    recovery: Recovery


def plan_members(choices: Sequence[MemberChoice], subsets: Subsets, recovery: Recovery) -> list[MemberPlan]:
    """Give each named member its images and its copy number.

    The order in which a trial names its members does not matter: they are sorted first. Members of
    one score (of one method, where it looks at none) get different parts of the images in turn.
    """
    plans: list[MemberPlan] = []
    for choice in sorted(choices, key=lambda c: (c.method, c.score, c.size)):
        same_family = sum(plan.choice.family == choice.family for plan in plans)
        part = same_family % NUM_PARTS if subsets == "shared" else 0
        copy = sum(plan.choice == choice and plan.part == part for plan in plans)
        plans.append(MemberPlan(choice, subsets, part, copy, recovery))
    return plans
