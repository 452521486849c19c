"""What costs and attacks say to MLflow: metrics by name, each with the ends of its interval; names that keep badges apart."""

from __future__ import annotations

from typing import Any

from eed_search.core.attack_records import AttackResult
from eed_search.core.attacked import attacked_cost, was_certified
from eed_search.core.cost import Cost, costs
from eed_search.core.records import Accuracy, Interval, Measurement, RobustAccuracy


def cost_metrics(m: Measurement) -> dict[str, float | None]:
    """What the classifier costs under attack; nothing where that was not measured."""
    found = costs(m)
    attacked = {"attacked": found.attacked, "accuracy_attack": found.accuracy, "slowed": found.slowed}
    return {key: value for name, one in attacked.items() for key, value in _costs(name, one).items()}


def _costs(name: str, cost: Cost | None) -> dict[str, float | None]:
    if cost is None:
        return {}
    return {
        f"{name}_speedup": cost.speedup,
        f"{name}_latency_ms": cost.latency_ms,
        f"{name}_members_run": cost.members_run,
        f"{name}_macs": cost.macs,
    }


def attack_facts(result: AttackResult) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Give the metrics and tags of one result of `eed-search attack`; each name begins with its badge."""
    badge = result.badge
    metrics = {
        **with_ends(f"{badge}_robust_accuracy", result.robust),
        **with_ends(f"{badge}_robust_any_prefix", result.any_prefix),
        **with_ends(f"{badge}_robust_static", result.static),
        **with_ends(f"{badge}_clean_accuracy", result.clean),
        **(with_ends(f"{badge}_certified", result.certified) if result.certified and was_certified(result) else {}),
        f"{badge}_num_samples": result.clean.num_samples,
        **_costs(f"{badge}_attacked", attacked_cost(result)),
    }
    tags = {
        f"{badge}.tier": result.tier,
        f"{badge}.attack": result.robust.attack,
        f"{badge}.eps": result.eps,
        f"{badge}.seed": result.seed,
        f"{badge}.images": f"{result.split} images of {result.data}",
        f"{badge}.key": result.key,
        f"{badge}.notes": "\n".join((*result.reasons, *result.notes)),
        f"tier{result.tier}.badge": badge,
    }
    return metrics, tags


def with_ends(name: str, interval: Interval | Accuracy | RobustAccuracy) -> dict[str, float | None]:
    """Give a value under a name, and the ends of its interval under that name with `_low` and `_high`."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
