"""What a store holds already of what a search would make: read by key, nothing computed or written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eed_search.config.params import Recovery, Score, is_scored
from eed_search.config.plans import MemberPlan
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.training import base_stage, baseline_stage, member_stage, scores_stage


@dataclass(frozen=True)
class CachedStages:
    """Finished stages that a search would read instead of computing them.

    Attributes:
        base: Whether the dense base is there.
        baselines: Size and recovery of each baseline that is there.
        scores: Importance scores that are there.
        members: Members that are there, of those asked for.
    """

    base: bool = False
    baselines: frozenset[tuple[float, Recovery]] = frozenset()
    scores: frozenset[Score] = frozenset()
    members: frozenset[MemberPlan] = frozenset()


def find_cached(context: StageContext, plans: Iterable[MemberPlan]) -> CachedStages:
    """Look up the base, the baselines, and what these members need; altered artifacts count as absent.

    Args:
        context: With the store that is asked; open it to read only, so that nothing is set aside.
        plans: Members that the search may want.
    """
    store, spec = context.store, context.spec
    plans = set(plans)
    scores = {plan.choice.score for plan in plans if is_scored(plan.choice.method)}
    return CachedStages(
        base=base_stage(context).is_in(store),
        baselines=frozenset(
            (size, recovery)
            for size in spec.baselines.sizes
            for recovery in spec.baselines.recoveries
            if baseline_stage(context, size, recovery).is_in(store)
        ),
        scores=frozenset(score for score in scores if scores_stage(context, score).is_in(store)),
        members=frozenset(plan for plan in plans if member_stage(context, plan).is_in(store)),
    )
