"""What measurements, costs and attacks say to MLflow: metrics by name, each with the ends of its interval; names that keep badges apart."""

from __future__ import annotations

from typing import Any

from eed_search.frontier.attacked import attacked_cost, was_certified
from eed_search.runs.attack_records import AttackResult
from eed_search.runs.cost import Cost, costs
from eed_search.runs.records import Accuracy, Interval, Latency, Measurement, RobustAccuracy


def measurement_metrics(m: Measurement) -> dict[str, float | None]:
    """All that was measured on a classifier."""
    return {
        "robust_accuracy": m.robust_accuracy.value,
        "robust_accuracy_low": m.robust_accuracy.low,
        "robust_accuracy_high": m.robust_accuracy.high,
        "clean_accuracy": m.clean_accuracy.value,
        "clean_accuracy_low": m.clean_accuracy.low,
        "clean_accuracy_high": m.clean_accuracy.high,
        "num_samples": m.robust_accuracy.num_samples,
        **latency_metrics(m.latency),
        **cost_metrics(m),
        **(with_ends("chose_difference_to_base", m.difference_to_base) if m.difference_to_base else {}),
        "mean_members_run": m.mean_members_run,
        "num_members": m.num_members,
        "macs": m.macs,
        "worst_case_macs": m.worst_case_macs,
        "size_bytes": m.size_bytes,
    }


def latency_metrics(latency: Latency) -> dict[str, float | None]:
    """How fast a classifier is."""
    return {
        **with_ends("latency_ms", latency.latency_ms),
        "latency_ms_p50": latency.p50_ms,
        "latency_ms_p95": latency.p95_ms,
        "latency_ms_worst_case": latency.worst_case_ms,
        **with_ends("speedup", latency.speedup),
        "worst_case_speedup": latency.worst_case_speedup,
    }


def origin_tags(m: Measurement) -> dict[str, Any]:
    """Say what the robust accuracy and the latency rest on: never a number without it."""
    return {
        "attack": m.robust_accuracy.attack,
        "eps": m.robust_accuracy.eps,
        "badge": m.robust_accuracy.badge,
        "latency_method": m.latency.method,
        "latency_noisy": "yes" if m.latency.noisy else "no",
        "artifact": m.artifact,
    }


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
