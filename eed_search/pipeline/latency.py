"""Stages that measure time: single networks in the search, deployed cascades at its end."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from torch import nn

from eed_search.compression.member import Member
from eed_search.core.errors import ModelError
from eed_search.deployment.gates import to_settings
from eed_search.deployment.onnx_export import to_onnx
from eed_search.ensemble.gate import DeployedGate
from eed_search.evaluation.cascade import Cascade
from eed_search.evaluation.latency import Probe, RatioEstimate
from eed_search.evaluation.latency_processes import cascade_latencies
from eed_search.models import signature
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.stage import Stage
from eed_search.runs.records import Denominator, Latency, from_json, to_json
from eed_search.storage.store import Artifact, Stored


@dataclass(frozen=True)
class Deployed:
    """Members in gate order with their gate, and where they lie in the store."""

    members: Sequence[Member]
    gate: DeployedGate
    artifact: str
    plain: bool = False  # a base or baseline, which a practitioner would run without a script


def latency_stage(
    context: StageContext, model: nn.Module, probe: Probe, reference_signature: str
) -> Stage[RatioEstimate]:
    """Latency of a network against the dense base, once for each architecture on each machine."""
    settings = {
        "architecture": signature(model, context.data.image_shape),
        "reference": reference_signature,
        "runtime": _runtime_version(),
        "protocol": context.spec.latency.model_dump(exclude={"final_rounds", "final_calls", "final_processes", "node"}),
        "machine": getattr(probe, "machine", "") or machine_name(),  # the probe may be on another node
    }

    def compute(seed: int) -> Artifact:
        context.report("latency")
        return Artifact(meta={"estimate": asdict(probe.measure(to_onnx(model, context.data.image_shape)))})

    def decode(stored: Stored) -> RatioEstimate:
        return from_json(RatioEstimate, stored.artifact.meta["estimate"])

    return Stage("latency", settings, decode, compute, keeps=lambda found: not found.meta["estimate"]["noisy"])


def latency_ratio(context: StageContext, model: nn.Module, probe: Probe, reference_signature: str) -> RatioEstimate:
    """Measure a network's latency against the dense base, or read it."""
    return latency_stage(context, model, probe, reference_signature).made_in(context.store)


def cascades(
    context: StageContext,
    teams: Sequence[Deployed],
    base: nn.Module,
    dense_ms: float,
    repeats: Sequence[int] | None = None,
    denominator: Denominator = "plain",
) -> list[Latency]:
    """Time deployed cascades together on the validation images; those in the store are not timed again.

    Args:
        context: The search's file, data, device and store.
        teams: What is deployed; equal single networks are timed once.
        base: The dense base.
        dense_ms: Its latency in this search.
        repeats: How often each was timed before: for that number it is timed once. 0 for all by default.
        denominator: How the dense base runs.
    """
    stages = [
        cascade_stage(context, team, base, dense_ms, repeat, denominator)
        for team, repeat in zip(teams, repeats or [0] * len(teams), strict=True)
    ]
    keys = [stage.key(context.store) for stage in stages]
    untimed = {
        key: team
        for key, stage, team in zip(keys, stages, teams, strict=True)
        if not context.store.has(stage.versioned, key)
    }
    timed = _time_cascades(context, list(untimed.values()), base, dense_ms, denominator) if untimed else []
    found = {key: to_json(one) for key, one in zip(untimed, timed, strict=True)}

    def kept(key: str, stage: Stage[Latency]) -> Latency:
        return replace(stage, compute=lambda seed: Artifact(meta=found[key])).made_in(context.store)

    return [kept(key, stage) for key, stage in zip(keys, stages, strict=True)]


def cascade_stage(
    context: StageContext, team: Deployed, base: nn.Module, dense_ms: float, repeat: int, denominator: Denominator
) -> Stage[Latency]:
    """Latency of a deployed cascade; timed together with others, so it has nothing to compute by itself."""
    shape = context.data.image_shape
    settings = {
        "reference": signature(base, shape),
        "dense_ms": dense_ms,
        "runtime": _runtime_version(),
        "protocol": context.spec.latency.model_dump(exclude={"node"}),
        "machine": machine_name(),
        "networks": [signature(m.model, shape) for m in team.members],
        # a single network's time depends on its architecture, a team's on whom the gate asks too
        "team": [team.artifact, asdict(team.gate), context.data.key] if len(team.members) > 1 else None,
    }
    settings |= {"repeat": repeat} if repeat else {}
    settings |= {"denominator": "plain"} if denominator == "plain" else {}
    settings |= {"plain": True} if team.plain else {}
    # noisy ones are kept too: `dense_ms` is this search's own, so the time is not carried to another
    return Stage("cascade", settings, lambda stored: from_json(Latency, stored.artifact.meta))


def _time_cascades(
    context: StageContext, teams: Sequence[Deployed], base: nn.Module, dense_ms: float, denominator: Denominator
) -> list[Latency]:
    shape = context.data.image_shape
    cascades = [
        Cascade(
            [to_onnx(m.model, shape) for m in team.members],
            to_settings(team.gate),
            team.plain,
        )
        for team in teams
    ]
    images = context.data.validation.images.numpy()
    return cascade_latencies(
        cascades,
        images,
        to_onnx(base, shape),
        sentinel(context),
        context.spec.latency,
        dense_ms,
        context.report,
        denominator,
    )


def sentinel(context: StageContext) -> bytes:
    """A half-width network: if it does not time as half, the machine is not to be trusted."""
    try:
        network = context.architecture(0.5)
    except ModelError:  # no channel of it can be removed; any network of unchanging cost will do
        network = context.untrained(0)
    return to_onnx(network, context.data.image_shape)


@lru_cache(maxsize=1)
def machine_name() -> str:
    """Name the kind of machine that latencies belong to: processor model and host."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            line.partition(":")[2].strip()
            for line in info.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.startswith("model name")
        ]
        processor = models[0] if models else processor
    return f"{processor} at {platform.node()}"


def _runtime_version() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"
