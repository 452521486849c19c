"""Before the trials: the images are read, and the dense base is trained or loaded, and measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eed_search.core.errors import TrialFailure
from eed_search.frontier.static_constraints import to_facts
from eed_search.runs.data_facts import DataFacts
from eed_search.runs.events import RunDescribed
from eed_search.runs.records import Reference
from eed_search.search import provenance
from eed_search.search.outcome import problem_of
from eed_search.search.phase_context import PhaseContext
from eed_search.search.remaining import work_left

if TYPE_CHECKING:
    from eed_search.pipeline.search_context import SearchContext

_SLOWER = 0.1  # by this share may the dense base's latency differ at a resume, unsaid


def prepare(context: PhaseContext) -> SearchContext | None:
    """Get the dense base; none where nothing is left to do that needs it."""
    before = context.view.base
    if before is not None and not work_left(context.view, context.spec):
        context.open_tracker()
        return None
    _read_data(context)
    context.journal.stage("dense base")
    opened = False

    def poll() -> None:
        # All that takes seconds: better beside the base's training than after it. A wrong
        # tracking.uri shows before much of it is done.
        nonlocal opened
        if not opened:
            opened = True
            context.open_tracker()
            from eed_search.search.sampling.portfolio import load

            load(context.spec)
        context.poll()

    given = {"spec": context.spec, "store_root": context.home / "store"}
    try:
        setting: SearchContext = context.alone("prepare", given, "dense base", poll)
    except TrialFailure as error:
        if error.reason != "timeout":
            raise
        raise TrialFailure("timeout", f"dense base: {error}") from error
    poll()
    if problem := problem_of(setting.base.measurement):
        raise TrialFailure("diverged", f"dense base: {problem}; take a lower base.lr or base.clip_norm")
    if before is not None:
        return _as_before(context, setting, before)
    _keep(context, setting)
    return setting


def _read_data(context: PhaseContext) -> None:
    """Read the images first, and say what was read before anything is trained on them."""
    view = context.view
    if "data" in view.facts:
        return
    context.journal.stage("data")
    facts: DataFacts = context.alone(
        "read_data", {"spec": context.spec, "store_root": context.home / "store"}, "data", context.poll
    )
    measured = view.facts | {"data": facts.to_plain()}
    context.journal.data(RunDescribed(view.name, view.spec, measured, view.home, view.uid), facts)


def _keep(context: PhaseContext, setting: SearchContext) -> None:
    measured: dict[str, Any] = {
        "num_classes": setting.num_classes,
        "image_shape": list(setting.image_shape),
        "reference_ms": setting.base.measurement.latency.latency_ms.value,
        "gate_ms": setting.gate_ms,
    }
    if setting.profiles:
        measured["forms"] = to_facts(setting.profiles)
    view = context.view
    # The data's files are hashed now: a source may have been downloaded only just before.
    of = provenance.origin(context.spec)
    context.journal.append(RunDescribed(view.name, view.spec, view.facts | measured, view.home, view.uid, of))
    context.journal.base(setting.base)
    for note in setting.notes:
        context.journal.note(note)


def _as_before(context: PhaseContext, setting: SearchContext, base: Reference) -> SearchContext:
    """Go on with the base and the reference latency that all finished trials were measured against."""
    took, takes = (one.measurement.latency.latency_ms.value for one in (base, setting.base))
    if abs(takes / took - 1) > _SLOWER:
        context.journal.note(
            f"at the resume the dense base took {takes:.4g} ms, at the start {took:.4g} ms; latencies are ratios to"
            " it and stay on the first scale"
        )
    if setting.base.measurement.artifact != base.measurement.artifact:
        context.journal.note("at the resume the dense base was another one than at the start")
    for note in setting.notes:  # such as a base that was altered, and made again
        context.journal.note(note)
    return replace(setting, base=base, gate_ms=context.view.facts.get("gate_ms", setting.gate_ms))
