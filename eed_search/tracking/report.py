"""The report of a search: as JSON, and as files (a page, a table, the JSON)."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eed_search.config.old_names import with_old_fields
from eed_search.frontier.testimony import Gain
from eed_search.runs.cost import attacked_speedup, costs
from eed_search.runs.records import Measurement, Point, Reference
from eed_search.storage.store import write_atomic
from eed_search.tracking.badges import badge_facts, point_facts
from eed_search.tracking.summary import RunSummary
from eed_search.tracking.text import flatten

SCHEMA_VERSION = 1
HTML_NAME, CSV_NAME, JSON_NAME = "frontier.html", "frontier.csv", "frontier.json"


# ---------------------------------------------------------------- JSON


def as_json(summary: RunSummary) -> dict[str, Any]:
    """Describe a run for other programs.

    Args:
        summary: Summary of the run, finished or not.

    Returns:
        JSON-ready tables: `schema_version`, `run`, `state`, `num_trials` by state, `data` (what was read: see
        `runs.data_facts`; null for runs of before), `hypervolume`
        (share of the unit square that all points dominate, reported or not; see `frontier.pareto.normalise`),
        `base`, `baselines`, `frontier` (the reported one, fastest first), `uncertain` (points that are not
        sure enough), `choice` (by what the two were told apart), `verdict`, `stages` (computed and reused by stage), `member_trainings`,
        `members_used`, `notes`. Accuracies are fractions, latencies milliseconds. `latency_ms` is
        the mean over the validation images; its interval stands under `latency`. `fresh` is the
        same attack on images that no decision of the search has seen, or null. `front_probability` is
        how sure it is that a point is on the true frontier of these trials. `difference_to_base` and the verdict rest on
        images that chose nothing, all of them together at 95 %; `chose_difference_to_base` and `chose` rest on those
        that ranked the trials, which prove nothing. `attacked_speedup` is what the
        slower of two attacks leaves of the speed-up; `costs` has both, beside the clean and the worst case.
        `checked` and `claim` are what `eed-search attack` found at tier 1 and 2, or null; `badges` has the
        frontier by each badge alone (null until all points of the frontier have it), `other_attacks` what
        fits in neither.
    """
    view, verdict, found = summary.view, summary.verdict, summary.frontier
    stages = view.stage_counts()
    trained, reused = stages.get("member", (0, 0))
    return with_old_fields(
        {
            "schema_version": SCHEMA_VERSION,
            "run": view.name,
            "state": view.state,
            "seconds": round(view.seconds, 3),
            "num_trials": view.num_trials(),
            "data": view.facts.get("data"),
            "hypervolume": summary.hypervolume,
            "latency_objective": summary.latency_kind,
            "base": None if view.base is None else _reference(summary, view.base),
            "baselines": [_reference(summary, baseline) for baseline in view.baselines],
            "frontier": [
                _point(summary, point, found.probability[point.id], summary.gains.get(point.id))
                for point in found.front
            ],
            "uncertain": [_point(summary, point, found.probability[point.id]) for point in found.uncertain],
            "choice": _choice(summary),
            "verdict": {**asdict(verdict), "comparisons": [asdict(comparison) for comparison in verdict.comparisons]},
            **badge_facts(summary),
            "stages": {name: {"computed": new, "reused": old} for name, (new, old) in sorted(stages.items())},
            "member_trainings": trained,
            "members_used": trained + reused,
            "notes": list(view.notes),
        }
    )


def _choice(summary: RunSummary) -> dict[str, Any]:
    """Say by what the frontier was chosen, and what chose nothing."""
    found = summary.frontier
    validation_rounds = found.plan.validation_rounds[: found.num_rounds_taken]
    return {
        "threshold": found.threshold,
        "reached": found.reached,
        "decided": found.decided,
        "fresh_images_that_chose": validation_rounds[-1][1] if validation_rounds else 0,
        "fresh_images_that_chose_nothing": found.plan.last[1] - found.plan.last[0],
        "validation_rounds": [asdict(one) for one in summary.view.validation_rounds],
    }


def _point(summary: RunSummary, point: Point, sure: float, gain: Gain | None = None) -> dict[str, Any]:
    return {
        "id": point.id,
        "trial": point.trial,
        "params": dict(point.params),
        **_measured(point.measurement),
        "front_probability": sure,
        "difference_to_base": None if gain is None else asdict(gain.difference),
        "difference_to_base_on": None if gain is None else {k: v for k, v in asdict(gain).items() if k != "difference"},
        "fresh": _fresh(summary, point.id),
        **point_facts(summary, point.id),
    }


def _reference(summary: RunSummary, reference: Reference) -> dict[str, Any]:
    return {
        "name": reference.name,
        "size": reference.size,
        "recipe": reference.recipe,
        "seconds": reference.seconds,
        **_measured(summary.references[reference.name]),
        "difference_to_base": None,
        "fresh": _fresh(summary, reference.name),
        **point_facts(summary, reference.name),
    }


def _fresh(summary: RunSummary, id_: str) -> dict[str, Any] | None:
    check = summary.view.fresh.get(id_)
    if check is None:
        return None
    return {"robust_accuracy": asdict(check.robust_accuracy), "clean_accuracy": asdict(check.clean_accuracy)}


def _measured(m: Measurement) -> dict[str, Any]:
    latency = m.latency
    return {
        "robust_accuracy": asdict(m.robust_accuracy),
        "clean_accuracy": asdict(m.clean_accuracy),
        "latency_ms": latency.latency_ms.value,
        "speedup": asdict(latency.speedup),
        "attacked_speedup": attacked_speedup(m),
        "worst_case_speedup": latency.worst_case_speedup,
        "mean_members_run": m.mean_members_run,
        "num_members": m.num_members,
        "macs": m.macs,
        "worst_case_macs": m.worst_case_macs,
        "size_bytes": m.size_bytes,
        "latency": {
            "low_ms": latency.latency_ms.low,
            "high_ms": latency.latency_ms.high,
            "p50_ms": latency.p50_ms,
            "p95_ms": latency.p95_ms,
            "worst_case_ms": latency.worst_case_ms,
            "method": latency.method,
            "denominator": latency.denominator,
            "script_speedup": None if latency.script_speedup is None else asdict(latency.script_speedup),
            "noisy": latency.noisy,
            "num_calls": latency.num_calls,
            "images_per_second": None if latency.images_per_second is None else asdict(latency.images_per_second),
        },
        "chose_difference_to_base": None if m.difference_to_base is None else asdict(m.difference_to_base),
        "exit_shares": list(m.exit_shares),
        "costs": asdict(costs(m)),
        "slowed_by": None if m.under_attack is None else m.under_attack.attack,
    }


# ---------------------------------------------------------------- files


def write_report(summary: RunSummary, folder: Path) -> dict[str, Path]:
    """Write the page, the table and the JSON; each file appears whole or not at all.

    Args:
        summary: Summary of the run.
        folder: Where to; made if absent. Files of an earlier report are replaced.

    Returns:
        The paths under `html`, `csv` and `json`.

    Raises:
        StoreError: If the folder cannot be written.
    """
    from eed_search.tracking.page import page  # here: plotly takes a while to import

    facts = as_json(summary)
    paths = {"html": folder / HTML_NAME, "csv": folder / CSV_NAME, "json": folder / JSON_NAME}
    write_atomic(
        paths["json"],
        (json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace"),
    )
    write_atomic(paths["csv"], _csv(facts).encode("utf-8", "backslashreplace"))
    write_atomic(paths["html"], page(summary).encode("utf-8", "backslashreplace"))
    return paths


def _csv(facts: dict[str, Any]) -> str:
    """Write frontier, uncertain points, base and baselines as one flat table, nested names joined by dots."""
    rows = [{"kind": "frontier", "name": point["id"], **flatten(point)} for point in facts["frontier"]]
    rows += [{"kind": "uncertain", "name": point["id"], **flatten(point)} for point in facts["uncertain"]]
    if facts["base"] is not None:
        rows.append({"kind": "base", **flatten(facts["base"])})
    rows += [{"kind": "baseline", **flatten(baseline)} for baseline in facts["baselines"]]
    columns: dict[str, None] = dict.fromkeys(["kind", "name"])
    for row in rows:
        columns.update(dict.fromkeys(row))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
