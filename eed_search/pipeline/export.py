"""What leaves a search: the bundle that deploys one of its points, and the file that runs just that point again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eed_search.config.loader import parse, to_text
from eed_search.config.params import TrialParams
from eed_search.config.spec import Choice, Spec
from eed_search.deployment.gates import gate_of
from eed_search.evaluation.deploy import deploy
from eed_search.frontier.testimony import claim_over_base
from eed_search.pipeline.context import Report, open_context
from eed_search.pipeline.team import find_networks
from eed_search.runs.cost import attacked_speedup, costs
from eed_search.runs.ledger import RunView
from eed_search.runs.records import (
    Point,
    to_json,
)
from eed_search.tracking.badges import point_facts
from eed_search.tracking.summary import summarise


def export_point(view: RunView, point: Point, home: Path, out: Path, report: Report = lambda text: None) -> Path:
    """Write the bundle that deploys one point; networks that the store has lost are made again.

    Args:
        view: The run.
        point: One of its points.
        home: Where its store lies.
        out: Folder of the bundle; must not exist.
        report: Told what is made again, and how far it is.

    Returns:
        The folder.

    Raises:
        BundleError: If the folder exists.
        StoreError: If the trained team is no longer in the store and this code makes another one.
        ModelError: If a member cannot be exported.
    """
    spec = parse(view.spec, f"run {view.name}")
    summary = summarise(view)
    context = open_context(spec, home / "store", report)
    params = TrialParams.from_flat(point.params)
    team = context.read_members(find_networks(context, point.measurement.artifact, params))
    return deploy(
        [m.model for m in team],
        gate_of(spec.gate, params.gate_threshold),
        context.data.validation.images,
        out,
        claims={
            "run": view.name,
            "point": point.id,
            **to_json(point.measurement),
            **claim_over_base(view, summary.frontier.front, point),
            "attacked_speedup": attacked_speedup(point.measurement),
            "costs": to_json(costs(point.measurement)),
            **point_facts(summary, point.id),
            "dense_base": to_json(view.base) if view.base else None,
            "data": spec.data.source,
            "split": "validation",
            "machine": view.facts.get("machine", {}).get("processor"),
            "threads": spec.latency.threads,
        },
        config={"params": point.params, "spec": spec.to_plain()},
        search_space_yaml=rerun_file(spec, point),
        class_names=context.data.facts.class_names if context.data.facts else None,
    )


def rerun_file(spec: Spec, point: Point) -> str:
    """Write the search-space file that runs exactly this point again: one trial, every choice fixed."""
    params = dict(point.params)
    plain = spec.to_plain()
    if spec.search.space.method != Choice(values=("prune",)):
        for i in range(1, int(params["num_members"]) + 1):
            params.setdefault(f"member{i}.method", "prune")  # said of the others only
        used = {str(v) for k, v in params.items() if k.endswith(".method")}
        plain["search"]["space"]["method"] = sorted(used)
    sizes = {float(v) for k, v in params.items() if k.endswith(".size")}
    scores = {str(v) for k, v in params.items() if k.endswith(".score")}
    fixed: dict[str, Any] = {k: v for k, v in params.items() if "." not in k}
    if spec.team.mode == "pool":
        fixed.pop("num_members")
        scores = set()
    plain["search"]["space"] |= fixed | {"size": sorted(sizes)} | ({"score": sorted(scores)} if scores else {})
    members = {k: v for k, v in params.items() if "." in k} if spec.team.mode == "direct" else {}
    plain["search"] |= {"trials": 1, "racing": False, "image_racing": False, "first": [members] if members else []}
    plain["name"] = f"{spec.name}-{point.id}"
    return to_text(parse(plain, "rerun"))
