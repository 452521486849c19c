"""One trial, from parameters to record: the page to read first.

    base → scores → members → order and robust diversity → joint fine-tune → gate → evaluation

Knows nothing of Ray, Optuna or MLflow: `search` calls these functions on its workers, tests call
them directly. Each stage lies in `pipeline`, the finals too; whatever an earlier trial made is read from the store.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from eed_search.compression.member import Member
from eed_search.config.params import TrialParams
from eed_search.config.spec import Spec
from eed_search.core.errors import TrialFailure
from eed_search.deployment.gates import gate_of, to_settings
from eed_search.deployment.onnx_export import to_onnx
from eed_search.ensemble.diversity import robust_diversity
from eed_search.ensemble.gate import RUNS_ALL, Gate
from eed_search.evaluation.image_race import ImageRace
from eed_search.evaluation.latency import LatencyProbe, Probe, additive_latency
from eed_search.evaluation.sequential_test import DOMINATED, Incumbent
from eed_search.evaluation.timing import MACHINE, Clock
from eed_search.frontier.points import violations
from eed_search.frontier.static_constraints import ArchitectureProfile, static_violations
from eed_search.models import signature
from eed_search.pipeline.context import Report, StageContext, open_context
from eed_search.pipeline.gpu_share import share_gpus
from eed_search.pipeline.latency import latency_ratio, machine_name, sentinel
from eed_search.pipeline.measurement import exit_shares, measure, measure_base, worthwhile_thresholds
from eed_search.pipeline.revalidation import confirm, final_latencies, recheck
from eed_search.pipeline.robustness import robust_evaluation, slow_down, transfer_failures
from eed_search.pipeline.search_context import SearchContext
from eed_search.pipeline.stage import artifact_name
from eed_search.pipeline.team import assemble
from eed_search.pipeline.training import (
    baseline_stage,
    check_sizes,
    dense_base,
    known_profile,
    known_profiles,
    team_stage,
)
from eed_search.runs.cost import moved, scaled
from eed_search.runs.data_facts import DataFacts
from eed_search.runs.records import Accuracy, Denominator, Reference, RungResult, TrialRecord, pack_bits
from eed_search.runs.undertrained import too_brief

__all__ = [
    "baseline",
    "confirm",
    "final_latencies",
    "make_probe",
    "prepare",
    "read_data",
    "recheck",
    "run",
    "share_gpus",
    "train_base",
]

_RUNG_SHARE = 0.5  # share of the images, and of the attack's steps, at a rung


def read_data(spec: Spec, store_root: Path, report: Report) -> DataFacts:
    """Read the images and say what was read, before anything is trained.

    Raises:
        DataError: If they cannot be read.
        ModelError: If the base cannot take them.
    """
    report("data")
    context = open_context(spec, store_root, report)
    check_sizes(context)
    assert context.data.facts is not None
    return context.data.facts


def train_base(spec: Spec, store_root: Path, report: Report) -> None:
    """Train the dense base and evaluate it, where `prepare` is called on another machine: it finds both in the store."""
    report("data")
    context = open_context(spec, store_root, report, whole_machine=True)
    check_sizes(context)
    base, base_key = dense_base(context)
    robust_evaluation(context, [base], base_key, Gate(), name="the dense base")


def prepare(spec: Spec, store_root: Path, report: Report) -> SearchContext:
    """Train the dense base, evaluate it, and take the reference latency.

    Called once, with the whole machine to itself, before any worker starts: the reference latency
    is wall-clock time from a quiet window, and so are the latencies of the space's sizes.

    Args:
        spec: The search-space file.
        store_root: Folder of the stage store.
        report: Told which stage runs.

    Raises:
        DataError: If the data cannot be read.
        Diverged: If the base's training does.
        ModelError: If the base cannot be exported, or no member can have a size of the space.
    """
    report("data")
    context = open_context(spec, store_root, report, whole_machine=True)
    notes = check_sizes(context)
    start = time.perf_counter()
    base, base_key = dense_base(context)
    trained = context.store.load(artifact_name("base", base_key))
    seconds = trained.seconds or time.perf_counter() - start
    judged = robust_evaluation(context, [base], base_key, Gate(), name="the dense base")
    report("reference latency")
    probe = _probe(context, base, "plain")
    reference = probe.reference_ms()
    gate_ms = probe.gate_ms(context.data.num_classes, to_settings(gate_of(spec.gate, RUNS_ALL)))
    measurement = measure_base(base, base_key, judged, reference, context)
    brief = too_brief(
        trained.artifact.meta.get("losses", ()),  # not there where an earlier version trained it
        measurement.clean_accuracy,
        measurement.robust_accuracy,
        num_classes=context.data.num_classes,
        epochs=spec.base.epochs,
        decays=spec.base.schedule != "constant",
    )
    profiles = []
    for size, network in known_profiles(context):
        estimate = latency_ratio(context, network, probe, _reference(base, context.data.image_shape, "plain"))
        if size is not None:
            profiles.append(ArchitectureProfile(size, estimate.ratio.value, Member(network).size_bytes))
    return SearchContext(
        spec,
        str(store_root),
        Reference("dense base", measurement, seconds, 1.0, "labels"),
        gate_ms,
        context.data.num_classes,
        context.data.image_shape,
        machine_name(),
        (*notes, *([brief] if brief else ()), *context.store.notes, *context.store.remade),
        tuple(profiles),
    )


def make_probe(setting: SearchContext, clock: Clock = MACHINE) -> LatencyProbe:
    """Build the latency probe that compares candidates with the search's dense base."""
    context = open_context(setting.spec, setting.store_root, lambda text: None)
    return _probe(context, dense_base(context)[0], setting.denominator, clock)


def run(
    number: int,
    params: TrialParams,
    setting: SearchContext,
    probe: Probe,
    report: Report,
    rung: int | None = None,
    incumbents: Sequence[Incumbent] = (),
) -> TrialRecord | RungResult:
    """Run one trial, to its end or to a rung on the way.

    A trial that goes on from a rung begins anew and finds what it had done in the store.

    Args:
        number: Number of the trial, for the record.
        params: What the search chose.
        setting: What all trials share.
        probe: Measures the latency of a network against the dense base.
        report: Told which stage runs.
        rung: Where to stop: 0 with the recovered members, 1 after the joint fine-tune; none: at its end.
        incumbents: Points that the trained team is held against while it is attacked; none: to its end.

    Returns:
        At a rung what was measured there. Else, and where it ends before, a record: `done` with its
        measurement; `infeasible` with the constraint it breaks, found before any training where
        latency or size alone say so; `pruned` where the attack was given up; `failed` with its reason.
    """
    start = time.perf_counter()
    context = open_context(setting.spec, setting.store_root, report)
    record = TrialRecord(number, params.to_flat(), "done")
    try:
        found = _run(record, params, setting, context, probe, rung, incumbents)
        if isinstance(found, RungResult):
            return replace(found, stages=tuple(context.store.uses), seconds=time.perf_counter() - start)
        record = found
    except TrialFailure as failure:
        record = replace(record, outcome="failed", reason=failure.reason, message=str(failure))
    except (torch.OutOfMemoryError, MemoryError) as error:
        record = replace(
            record,
            outcome="failed",
            reason="oom",
            message=f"out of memory: {str(error).splitlines()[0] if str(error) else 'host'}; lower the batch sizes",
        )
    remade = tuple(context.store.remade)
    made = [note for note in context.store.notes if note not in setting.notes]  # where the base's are
    record = replace(record, notes=(*record.notes, *made, *remade), remade=remade)
    return replace(record, stages=tuple(context.store.uses), seconds=time.perf_counter() - start)


def _run(
    record: TrialRecord,
    params: TrialParams,
    setting: SearchContext,
    context: StageContext,
    probe: Probe,
    rung: int | None,
    incumbents: Sequence[Incumbent],
) -> TrialRecord | RungResult:
    spec = setting.spec
    base, base_key = dense_base(context)
    reference = _reference(base, setting.image_shape, setting.denominator)
    violation = _static_violations(params, setting, context, probe, reference)
    if any(value > 0 for value in violation.values()):
        return _infeasible(record, violation)

    found = assemble(context, params, base)
    members, diversity, notes = found.members, found.diversity, list(found.notes)
    if len(members) > 1:
        transfer = np.stack([transfer_failures(context, base, base_key, member) for member in members])
        notes.append(
            f"robust diversity {diversity:.2f} on each member's own attack, {robust_diversity(transfer):.2f} on images attacked on the dense base"
        )
    if rung == 0:
        apart = "+".join(m.key for m in members)
        return _reading(0, [m.member.model for m in members], apart, params, setting, context, probe)
    stored = team_stage(context, members, params).made_in(context.store)
    team = context.read_members(stored)
    if rung == 1:
        return _reading(1, [m.model for m in team], stored.key, params, setting, context, probe)
    gate = gate_of(spec.gate, params.gate_threshold)
    ratios = [latency_ratio(context, m.model, probe, reference) for m in team]
    dense_ms = setting.base.measurement.latency.latency_ms.value
    race = ImageRace(incumbents, ratios, dense_ms, setting.gate_ms, spec.search.latency_objective)
    judged = robust_evaluation(
        context,
        [m.model for m in team],
        stored.key,
        gate,
        name="the team",
        sweep=spec.gate.sweep > 0,
        sequential=spec.search.image_racing,
        beaten=race.beaten_by,
    )
    if not judged.finished:
        stop = race.stop(judged)
        record = replace(record, outcome="pruned", reason=DOMINATED, message=stop.message, stop=stop)
        return replace(record, robust_diversity=diversity, notes=tuple(notes))
    slow = slow_down(context, [m.model for m in team], stored.key, gate, name="the team", thresholds=judged.thresholds)
    measurement = measure(team, judged, slow, ratios, setting, artifact=artifact_name("team", stored.key))
    kind = float(judged.executed_right.mean() - judged.robust_right.mean())
    if len(team) > 1:
        notes = [
            *notes,
            f"the executed path alone would say {100 * judged.executed_right.mean():.1f} % robust, {100 * kind:.1f} points too kind",
        ]
    swept = worthwhile_thresholds(team, judged, slow, ratios, setting, measurement)
    record = replace(record, measurement=measurement, robust_diversity=diversity, notes=tuple(notes), swept=swept)
    return _infeasible(record, violations(dict(spec.search.constraints), measurement, setting.base))


def _static_violations(
    params: TrialParams, setting: SearchContext, context: StageContext, probe: Probe, reference: str
) -> dict[str, float]:
    """By how much a team breaks the limits that need no training; nothing where its form is not known before."""
    spec = setting.spec
    networks = [network for choice in params.members if (network := known_profile(context, choice)) is not None]
    if len(networks) < len(params.members) or spec.team.mode != "direct":
        return {}
    profiles = [
        ArchitectureProfile(
            choice.size, latency_ratio(context, network, probe, reference).ratio.value, Member(network).size_bytes
        )
        for choice, network in zip(params.members, networks, strict=True)
    ]
    dense_ms = setting.base.measurement.latency.latency_ms.value
    return static_violations(profiles, spec.search.constraints, dense_ms, setting.gate_ms)


def _reading(
    rung: int,
    team: Sequence[nn.Module],
    key: str,
    params: TrialParams,
    setting: SearchContext,
    context: StageContext,
    probe: Probe,
) -> RungResult:
    """Measure a team on its way: a part of the images under a part of the steps, no sweep."""
    spec = setting.spec
    gate = gate_of(spec.gate, params.gate_threshold)
    judged = robust_evaluation(context, team, key, gate, name=f"the team at rung {rung}", share=_RUNG_SHARE)
    reference = _reference(dense_base(context)[0], setting.image_shape, setting.denominator)
    shares = exit_shares(judged.members_run, len(team))
    latency = additive_latency(
        [latency_ratio(context, model, probe, reference) for model in team],
        shares,
        setting.base.measurement.latency.latency_ms.value,
        setting.gate_ms,
        setting.denominator,
    )
    ranks = latency.latency_ms
    if spec.search.latency_objective == "worst_case":
        ranks = scaled(ranks, latency.worst_case_ms)
    elif spec.search.latency_objective == "attacked":
        slow = slow_down(context, team, key, gate, name=f"the team at rung {rung}", share=_RUNG_SHARE)
        runs = (exit_shares(run, len(team)) for run in (judged.attacked_run, slow.run))
        ranks = scaled(ranks, max(moved(latency, shares, run) for run in runs))
    return RungResult(rung, Accuracy.of(judged.robust_right), ranks, pack_bits(judged.robust_right))


def _infeasible(record: TrialRecord, violation: Mapping[str, float]) -> TrialRecord:
    broken = {name: value for name, value in violation.items() if value > 0}
    record = replace(record, constraints=dict(violation))
    if not broken:
        return record
    name = next(iter(broken))
    when = "before any training" if record.measurement is None else "after measuring"
    return replace(record, outcome="infeasible", reason=name, message=f"breaks {', '.join(broken)} ({when})")


# ---------------------------------------------------------------- beside the trials


def baseline(size: float, setting: SearchContext, probe: Probe, report: Report) -> Reference:
    """Train small networks from scratch, one for each recovery, and keep the more robust one.

    The baseline that every point must beat: the architecture of a channel member of this size,
    trained for as many epochs as base, member and joint fine-tune together.

    Args:
        size: Fraction of channels, in (0, 1].
        setting: What all trials share.
        probe: Measures latency.
        report: Told which stage runs.
    """
    spec = setting.spec
    context = open_context(spec, setting.store_root, report)
    base, _ = dense_base(context)
    found = []
    for recovery in spec.baselines.recoveries:
        stored = baseline_stage(context, size, recovery, base).made_in(context.store)
        network = context.read_members(stored)[0]
        judged = robust_evaluation(context, [network.model], stored.key, Gate(), name="the baseline")
        found.append(
            (float(judged.robust_right.mean()), float(judged.clean_right.mean()), recovery, stored, network, judged)
        )
    _, _, recovery, stored, network, judged = max(found, key=lambda row: row[:2])
    ratio = latency_ratio(context, network.model, probe, _reference(base, setting.image_shape, setting.denominator))
    slow = slow_down(context, [network.model], stored.key, Gate(), name="the baseline")
    measurement = measure([network], judged, slow, [ratio], setting, artifact=artifact_name("control", stored.key))
    name = f"from scratch {round(100 * size)} % ({recovery})"
    return Reference(name, measurement, stored.seconds, size, recovery, (*context.store.remade, *context.store.notes))


def _probe(context: StageContext, base: nn.Module, denominator: Denominator, clock: Clock = MACHINE) -> LatencyProbe:
    shape = context.data.image_shape
    return LatencyProbe(to_onnx(base, shape), sentinel(context), shape, context.spec.latency, clock, denominator)


def _reference(base: nn.Module, shape: tuple[int, int, int], denominator: Denominator) -> str:
    """Name what latencies are compared with: the dense base's form, and how it runs."""
    return signature(base, shape) + (", plain" if denominator == "plain" else "")
