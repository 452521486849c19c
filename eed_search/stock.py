"""What a store holds already of what a search would make: read by key, nothing computed or written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eed_search.core.params import Recovery, Score, is_scored
from eed_search.core.plans import MemberPlan
from eed_search.stages import Stage, Workshop


@dataclass(frozen=True)
class Stock:
    """Finished stages that a search would read instead of computing them.

    Attributes:
        base: Whether the dense base is there.
        controls: Size and recovery of each control that is there.
        scores: Importance scores that are there.
        members: Members that are there, of those asked for.
    """

    base: bool = False
    controls: frozenset[tuple[float, Recovery]] = frozenset()
    scores: frozenset[Score] = frozenset()
    members: frozenset[MemberPlan] = frozenset()


def take_stock(shop: Workshop, plans: Iterable[MemberPlan]) -> Stock:
    """Look up the base, the controls, and what these members need; altered artifacts count as absent.

    Args:
        shop: With the store that is asked; open it to read only, so that nothing is set aside.
        plans: Members that the search may want.
    """
    store, spec = shop.store, shop.spec
    base_key = store.key(*shop.base_stage())

    def there(stage: Stage) -> bool:
        return store.has(stage[0], store.key(*stage))

    plans = set(plans)
    scores = {plan.choice.score for plan in plans if is_scored(plan.choice.method)}
    return Stock(
        base=there(shop.base_stage()),
        controls=frozenset(
            (size, recovery)
            for size in spec.controls.sizes
            for recovery in spec.controls.recoveries
            if there(shop.control_stage(size, recovery, base_key))
        ),
        scores=frozenset(score for score in scores if there(shop.scores_stage(score, base_key))),
        members=frozenset(plan for plan in plans if there(shop.member_stage(plan, base_key))),
    )
