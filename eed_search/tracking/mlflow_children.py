"""What stands in the runs below a search's own in MLflow: one for each trial, swept threshold, baseline and the dense base."""

from __future__ import annotations

from typing import Any, Literal

from eed_search.config.params import ParamValue
from eed_search.config.spec import Choice, Range, Spec
from eed_search.runs.records import Reference, TrialRecord
from eed_search.tracking.mlflow_facts import measurement_metrics, origin_tags
from eed_search.tracking.mlflow_runs import ENDS, Child
from eed_search.tracking.text import team_title

ReferenceKind = Literal["base", "baseline"]


def reference_child(reference: Reference, kind: ReferenceKind, at: float) -> Child:
    """Show the dense base or a baseline.

    Args:
        reference: What it is.
        kind: Which of both.
        at: When it was written down, in seconds since 1970.
    """
    tags = {"kind": kind, "recipe": reference.recipe, "frontier": "no", **origin_tags(reference.measurement)}
    metrics = {**measurement_metrics(reference.measurement), "seconds": reference.seconds}
    params = {"size": reference.size, "recipe": reference.recipe}
    name = reference.name
    return Child(name, name, params, metrics, tags, "FINISHED", reference.seconds, at)


def trial_child(record: TrialRecord, spec: Spec, at: float, point: str = "") -> Child:
    """Show a trial, or one of its swept thresholds.

    Args:
        record: How it ended.
        spec: The search's file.
        at: When it was written down, in seconds since 1970.
        point: The point's id, if it is not the trial's own.
    """
    point = point or f"{record.number}.0"
    place = "" if point.endswith(".0") else f" at {record.params['gate_threshold']:.3g}"
    title = f"{record.number:03d} {team_title(record.params)}{place}".strip()
    tags = {
        "kind": "swept" if place else "trial",
        "trial": record.number,
        "team": team_title(record.params),
        "outcome": record.outcome,
        "reason": record.reason,
        "message": record.message,
        "notes": "\n".join(record.notes),
        "frontier": "open" if record.outcome == "done" else "no",
        **(origin_tags(record.measurement) if record.measurement else {}),
    }
    # The order counts: MLflow's parallel coordinates open with the first metric.
    metrics: dict[str, float | None] = {} if record.measurement is None else measurement_metrics(record.measurement)
    metrics |= {"robust_diversity": record.robust_diversity, "seconds": record.seconds}
    metrics |= {f"constraint.{name}": broken for name, broken in record.constraints.items()}
    params: dict[str, Any] = {**record.params, **_absent_members(record, spec)}
    return Child(point, title, params, metrics, tags, ENDS[record.outcome], record.seconds, at)


def _absent_members(record: TrialRecord, spec: Spec) -> dict[str, ParamValue]:
    """Say `none` and size 0 for members that a smaller team lacks.

    Where a parameter is missing, MLflow's parallel coordinates draw the run at the axis' top.
    """
    dimension = spec.search.space.num_members
    largest = dimension.high if isinstance(dimension, Range) else max(float(v) for v in dimension.values)
    missing = range(int(record.params.get("num_members", largest)) + 1, int(largest) + 1)
    absent: dict[str, ParamValue] = {}
    for i in missing:
        absent |= {f"member{i}.score": "none", f"member{i}.size": 0.0}
    if spec.search.space.method != Choice(values=("prune",)):
        there = range(1, int(record.params.get("num_members", largest)) + 1)
        absent |= {name: "prune" for i in there if (name := f"member{i}.method") not in record.params}
        absent |= {f"member{i}.method": "none" for i in missing}
    return absent
