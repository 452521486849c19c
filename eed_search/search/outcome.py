"""What a trial's end means: the one place that turns what came back into a record.

Everything that a trial reports passes here before the ledger, Optuna or the listener sees it: a
number that is missing, NaN, infinite or out of range makes the trial failed (diverged), a broken
limit makes it infeasible, a trial without a report was stopped, and an error of Ray's is a failure
of the infrastructure. What is measured at a rung or in the finals is held to the same ranges.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from eed_search.config.params import ParamValue, TrialParams
from eed_search.core.errors import FailureReason, StorageError, TrialFailure
from eed_search.evaluation.sequential_test import Incumbent
from eed_search.runs.ledger import BUDGET, STOPPED
from eed_search.runs.records import FreshCheck, Latency, Measurement, RungResult, TrialRecord, metric_problem
from eed_search.system.machine_faults import machine_fault
from eed_search.system.memory import memory_kills

if TYPE_CHECKING:
    from eed_search.evaluation.latency import Probe
    from eed_search.pipeline.search_context import SearchContext

REPORT_KEY, RUNG_KEY, TRACEBACK_KEY = "record", "rung", "traceback"
FAULT_KEY = "fault"  # what is wrong with the machine: the trial has neither a record nor an end

_KILLS_BEFORE = memory_kills()


def attempt(
    pipeline: Any,
    number: int,
    params: Mapping[str, ParamValue],
    setting: SearchContext,
    probe: Probe,
    report: Callable[[str], None],
    rung: int | None = None,
    incumbents: Sequence[Incumbent] = (),
) -> dict[str, Any]:
    """Run one trial to a rung, or to its end; an exception becomes a failed record and its traceback.

    Returns:
        What `record_of` reads: the record, and the traceback where there is one; at a rung the reading; where the machine
        is at fault, what is wrong with it.
    """
    trace = ""
    try:
        record = pipeline.run(number, TrialParams.from_flat(params), setting, probe, report, rung, incumbents)
    except Exception as error:
        if fault := machine_fault(error):
            return {FAULT_KEY: fault, TRACEBACK_KEY: traceback.format_exc()}
        record, trace = failure(number, params, *failure_of(error)), traceback.format_exc()
    if isinstance(record, RungResult) and record.rung == rung:
        if not (problem := problem_of(record)):
            return {RUNG_KEY: record}
        record = failure(number, params, "diverged", f"at rung {rung}: {problem}", record.seconds)
    if not isinstance(record, TrialRecord):
        record = failure(number, params, "error", f"gave {type(record).__name__}, not a TrialRecord")
    return {REPORT_KEY: record, TRACEBACK_KEY: trace}


def record_of(number: int, params: Mapping[str, ParamValue], result: Mapping[str, Any] | None) -> TrialRecord:
    """Turn what a trial reported into the record that everyone gets.

    Args:
        number: The trial's number, as proposed.
        params: Its flat parameters, as proposed; they replace what the trial says they were.
        result: What came from Ray; the trial's record is under `record`. Without one, the trial
            was stopped before its end.

    Returns:
        A record whose numbers are all finite and in range, so that it can be written as JSON.
    """
    record = (result or {}).get(REPORT_KEY)
    if record is None:
        return TrialRecord(number, dict(params), "pruned", STOPPED, "stopped before its end")
    if not isinstance(record, TrialRecord):
        return failure(number, params, "error", f"reported {type(record).__name__}, not a TrialRecord")
    record = replace(record, number=number, params=dict(params))
    problem = _problem(record)
    if problem:
        kept = replace(record, measurement=None, swept=(), stop=None, constraints={}, robust_diversity=None)
        kept = replace(kept, seconds=0.0, stages=())
        return replace(kept, outcome="failed", reason="diverged", message=problem)
    broken = [name for name, violation in record.constraints.items() if violation > 0]
    if record.outcome == "done" and broken:
        return replace(record, outcome="infeasible", reason=broken[0])
    return record


def out_of_time(
    number: int, params: Mapping[str, ParamValue], how: str = "waited at a rung when search.time_budget_s was over"
) -> TrialRecord:
    """Write down a trial that had not come to its end when the time budget was over: nobody has judged it."""
    return TrialRecord(number, dict(params), "pruned", BUDGET, f"{how}; a resume with more time goes on with it")


def failure(
    number: int, params: Mapping[str, ParamValue], reason: FailureReason, message: str, seconds: float = 0.0
) -> TrialRecord:
    """Write down a trial that went wrong."""
    return TrialRecord(number, dict(params), "failed", reason, message, seconds=seconds)


def failure_of(error: BaseException) -> tuple[FailureReason, str]:
    """Say what kind of failure an exception is, and what happened in one line.

    Memory that ran out on the processor or on a device is `oom`; what Ray reports about its own
    processes (a worker died, an object was lost) is `infrastructure`; all else is `error`.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, TrialFailure):
        return error.reason, text
    if isinstance(error, StorageError):
        return "infrastructure", text
    if kinds & {"MemoryError", "OutOfMemoryError"}:
        return "oom", message
    if kinds & {"RayTaskError"}:
        return "error", message
    if kinds & {"RayError", "TuneError", "_TuneNoNextExecutorEventError", "WorkerCrashedError"}:
        return "infrastructure", message + memory_note(memory_kills() - _KILLS_BEFORE)
    return "error", message


def memory_note(num_kills: int) -> str:
    """Name what ends processes without a word, where the system has counted it since this one started."""
    if num_kills <= 0:
        return ""
    return (
        "; meanwhile the system has killed a process for want of memory: take smaller images or batches, or fewer trials at"
        " once (larger resources.cpu)"
    )


def problem_of(value: object) -> str:
    """Say what is wrong with anything that was measured, or nothing: the one validator.

    Args:
        value: A trial's record, its swept points included; a reading at a rung; a measurement, a latency or a check on
            fresh images.

    Returns:
        The first number that is missing, not finite or out of its range, by its path; else an empty text.
    """
    return next(_range_problems("", value), "") or next(number_problems("", value), "")


def _problem(record: TrialRecord) -> str:
    if record.outcome == "done" and record.measurement is None:
        return "robust_accuracy is missing; latency_ms is missing"
    return problem_of(record)


_SHARE, _ABOVE_0 = (0.0, 1.0), (1e-9, float("inf"))
_ACCURACIES = {"robust_accuracy": _SHARE, "clean_accuracy": _SHARE}
_RANGES: dict[type, dict[str, tuple[float, float]]] = {
    Measurement: _ACCURACIES,
    FreshCheck: _ACCURACIES,
    RungResult: {"robust_accuracy": _SHARE, "latency_ms": _ABOVE_0},
    Latency: {"latency_ms": _ABOVE_0, "worst_case_ms": _ABOVE_0, "speedup": _ABOVE_0, "worst_case_speedup": _ABOVE_0},
}
_UNNAMED = frozenset({"measurement", "latency"})  # passed over in a path: what is in them is known by its own name


def _range_problems(path: str, value: object) -> Iterator[str]:
    """Walk through a record and describe each objective or part of it that is out of its range."""
    if isinstance(value, tuple | list):
        for i, inner in enumerate(value):
            yield from _range_problems(f"{path}[{i}]", inner)
    elif is_dataclass(value):
        for name, (low, high) in _RANGES.get(type(value), {}).items():
            yield from _outside(f"{path}.{name}".lstrip("."), getattr(value, name), low, high)
        for one in fields(value):
            inner = path if one.name in _UNNAMED else f"{path}.{one.name}".lstrip(".")
            yield from _range_problems(inner, getattr(value, one.name))


def _outside(name: str, value: object, low: float, high: float) -> Iterator[str]:
    """Compare a number, or a value and both ends of its interval, with a range."""
    ends: dict[str, Any] = {name: getattr(value, "value", value)}
    ends |= {f"{name}.{end}": getattr(value, end) for end in ("low", "high") if hasattr(value, end)}
    for end, number in ends.items():
        if problem := metric_problem(end, number):
            yield problem
        elif not low <= number <= high:
            yield f"{end} is {number:g}, {'outside 0..1' if high == 1 else 'not above 0'}"


def number_problems(path: str, value: object) -> Iterator[str]:
    """Walk through a record and describe each number that is not finite: JSON cannot hold it."""
    if isinstance(value, float):
        if problem := metric_problem(path, value):
            yield problem
    elif is_dataclass(value):
        for one in fields(value):
            yield from number_problems(f"{path}.{one.name}".lstrip("."), getattr(value, one.name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from number_problems(f"{path}.{key}".lstrip("."), inner)
    elif isinstance(value, tuple | list):
        for i, inner in enumerate(value):
            yield from number_problems(f"{path}[{i}]", inner)
