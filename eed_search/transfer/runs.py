"""What a benchmark's networks say to MLflow: parameters, metrics and tags of one run each."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from eed_search.tracking.mlflow_runs import Child
from eed_search.transfer.results import CLEAN, Row


def children(rows: Sequence[Row]) -> list[Child]:
    """Make one run for each base, scheme, ratio and fine-tuning.

    Args:
        rows: Rows of the whole benchmark.
    """
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(f"{row.model} {row.choice.title}", []).append(row)
    at = time.time()
    return [
        Child(title, title, _params(group[0]), network_metrics(group), _tags(group), "FINISHED", 0.0, at)
        for title, group in grouped.items()
    ]


def _params(row: Row) -> dict[str, str]:
    return {
        "model": row.model,
        "scheme": row.choice.scheme,
        "ratio": f"{row.choice.ratio:g}",
        "finetuned": "yes" if row.choice.finetuned else "no",
        "seeds": " ".join(map(str, row.seeds)),
    }


def _tags(rows: Sequence[Row]) -> dict[str, str]:
    flags = sorted({f"{row.attack} {row.eps or ''}: {flag}" for row in rows for flag in row.flags})
    return {"kind": "network", "flags": "; ".join(flags), "left_dense": ", ".join(rows[0].left_dense)}


def network_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """Name a network's numbers for MLflow: `transfer/pgd20 0.0314`, one name for each attack and budget.

    Args:
        rows: Rows of one network.
    """
    first = rows[0]
    found: dict[str, float | None] = {"parameters": first.num_parameters, "macs": first.macs}
    if first.timed is not None:
        found |= {"latency_ms": first.timed.latency_ms.value, "speedup": first.timed.speedup.value}
    for row in rows:
        c = row.compared
        if row.attack == CLEAN:
            found |= {"clean_accuracy": c.clean.value, "base_clean_accuracy": c.base_clean.value}
            found |= {"clean_agreement": c.agreement.value}
            continue
        place = row.attack if row.eps is None else f"{row.attack} {row.eps:.4g}"
        for name in ("base", "static", "adaptive", "transfer", "gap_static", "gap_adaptive"):
            found[f"{name}/{place}"] = getattr(c, name).value
        found[f"l2_base/{place}"], found[f"l2_adaptive/{place}"] = row.l2_base, row.l2_adaptive
    return {key: float(value) for key, value in found.items() if value is not None and math.isfinite(value)}
