"""What a trial's end means: records, exceptions, and the light import of the package."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from eed_search.core.errors import Diverged, TrialFailure
from eed_search.runs.records import (
    Accuracy,
    FreshCheck,
    Interval,
    Measurement,
    RungResult,
    SweptPoint,
    TrialRecord,
    to_json,
)
from eed_search.search.outcome import (
    REPORT_KEY,
    attempt,
    failure_of,
    memory_note,
    number_problems,
    problem_of,
    record_of,
)
from tests.search.stub_pipeline import latency, measurement
from tests.tracking.factories import make_trial


class OutOfMemoryError(RuntimeError):
    """As torch and Ray call theirs."""


RayError = type("RayError", (Exception,), {})
WorkerDied = type("ActorDiedError", (RayError,), {})


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (ValueError("no\nmore"), "error", "ValueError: no"),
        (ValueError(), "error", "ValueError"),
        (MemoryError("full"), "oom", "MemoryError: full"),
        (OutOfMemoryError("cuda"), "oom", "OutOfMemoryError: cuda"),
        (WorkerDied("gone"), "infrastructure", "ActorDiedError: gone"),
        (Diverged("loss is nan"), "diverged", "loss is nan"),
        (TrialFailure("timeout", "too long"), "timeout", "too long"),
    ],
)
def test_an_exception_has_a_reason_and_one_line(error: Exception, reason: str, message: str) -> None:
    """By kind, not by text."""
    assert failure_of(error) == (reason, message)


def test_a_record_keeps_its_proposal() -> None:
    """Number and parameters are those that were proposed, whatever the trial says."""
    record = TrialRecord(99, {"beta": 2.0}, "done", measurement=measurement(0.8, 0.5))
    judged = record_of(3, {"beta": 1.0}, {"record": record})
    assert (judged.number, judged.params, judged.outcome) == (3, {"beta": 1.0}, "done")


def test_a_number_that_json_cannot_hold_fails_the_trial_by_its_path() -> None:
    """Deep inside, not only in the objectives."""
    made = measurement(0.8, 0.5)
    made = replace(made, latency=replace(made.latency, p95_ms=float("inf")))
    judged = record_of(0, {}, {"record": TrialRecord(0, {}, "done", measurement=made)})
    assert (judged.outcome, judged.reason) == ("failed", "diverged")
    assert judged.message == "measurement.latency.p95_ms is inf, not a finite number"
    to_json(judged)


def test_a_finite_record_has_no_problems() -> None:
    """The walk finds nothing in a sound record."""
    assert list(number_problems("", TrialRecord(0, {}, "done", measurement=measurement(0.8, 0.5)))) == []


SOUND = Interval(0.5, 0.4, 0.6)
HALF = Accuracy(0.5, 0.4, 0.6, 100)


def reading(robust: Accuracy = HALF, latency_ms: Interval = SOUND) -> RungResult:
    return RungResult(0, robust, latency_ms, "00")


def check(robust: float) -> FreshCheck:
    made = measurement(0.8, 0.5)
    return FreshCheck(made.clean_accuracy, replace(made.robust_accuracy, value=robust), "00")


def untimed() -> Measurement:
    """A measurement whose latency has an interval that reaches below 0."""
    made = measurement(0.8, 0.5)
    return replace(made, latency=replace(made.latency, latency_ms=Interval(0.5, -0.1, 1.1)))


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (reading(), ""),
        (reading(robust=replace(HALF, value=7.0)), "robust_accuracy is 7, outside 0..1"),
        (reading(latency_ms=replace(SOUND, value=-1.0)), "latency_ms is -1, not above 0"),
        (reading(latency_ms=replace(SOUND, low=0.0)), "latency_ms.low is 0, not above 0"),
        (reading(robust=replace(HALF, high=float("nan"))), "robust_accuracy.high is nan, not a finite number"),
        (latency(0.5), ""),
        (replace(latency(0.5), latency_ms=Interval(0.0, 0.0, 0.0)), "latency_ms is 0, not above 0"),
        (replace(latency(0.5), worst_case_ms=-3.0), "worst_case_ms is -3, not above 0"),
        (check(0.8), ""),
        (check(1.5), "robust_accuracy is 1.5, outside 0..1"),
        (measurement(-0.1, 0.5), "robust_accuracy is -0.1, outside 0..1"),
        (untimed(), "latency_ms.low is -0.1, not above 0"),
    ],
)
def test_whatever_is_measured_is_held_to_its_range(found: object, problem: str) -> None:
    """Readings at rungs, final latencies, checks on fresh images, confirmations."""
    assert problem_of(found) == problem


def test_a_swept_point_out_of_range_fails_its_trial() -> None:
    """It would rank as the trial's own point does; the record can be written down all the same."""
    swept = (SweptPoint(0.2, measurement(0.7, 0.3)), SweptPoint(0.4, measurement(float("nan"), 0.4)))
    for one, problem in (
        (swept[1], "nan, not a finite number"),
        (SweptPoint(0.4, measurement(2.0, 0.4)), "2, outside 0..1"),
    ):
        record = TrialRecord(0, {}, "done", measurement=measurement(0.8, 0.5), swept=(swept[0], one))
        judged = record_of(0, {}, {REPORT_KEY: record})
        assert (judged.outcome, judged.reason, judged.swept) == ("failed", "diverged", ())
        assert judged.message == f"swept[1].robust_accuracy is {problem}"
        to_json(judged)


def test_a_reading_out_of_range_fails_its_trial_before_the_race_sees_it() -> None:
    class Pipeline:
        @staticmethod
        def run(*arguments: object) -> RungResult:
            return reading(robust=replace(HALF, value=7.0))

    found = attempt(Pipeline, 3, make_trial(3).params, None, None, print, 0)  # type: ignore[arg-type]
    judged = record_of(3, {}, found)
    assert (judged.outcome, judged.reason) == ("failed", "diverged")
    assert judged.message == "at rung 0: robust_accuracy is 7, outside 0..1"


def test_the_package_loads_neither_ray_nor_optuna_nor_torch() -> None:
    """The command line imports it to show its help."""
    heavy = "{'ray', 'optuna', 'torch', 'mlflow'}"
    code = f"import sys, eed_search.search, eed_search.search.driver; print({heavy} & sys.modules.keys())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "set()\n"


def test_a_process_killed_for_memory_is_named() -> None:
    """Only where the system has counted one meanwhile."""
    assert memory_note(0) == ""
    assert "want of memory: take smaller images or batches" in memory_note(1)
