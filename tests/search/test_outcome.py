"""What a trial's end means: records, exceptions, and the light import of the package."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from eed_search.core.errors import Diverged, TrialFailure
from eed_search.core.records import TrialRecord, to_json
from eed_search.search.outcome import failure_of, judge, number_problems
from tests.search.stub_pipeline import measurement


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
    judged = judge(3, {"beta": 1.0}, {"record": record})
    assert (judged.number, judged.params, judged.outcome) == (3, {"beta": 1.0}, "done")


def test_a_number_that_json_cannot_hold_fails_the_trial_by_its_path() -> None:
    """Deep inside, not only in the objectives."""
    made = measurement(0.8, 0.5)
    made = replace(made, latency=replace(made.latency, p95_ms=float("inf")))
    judged = judge(0, {}, {"record": TrialRecord(0, {}, "done", measurement=made)})
    assert (judged.outcome, judged.reason) == ("failed", "diverged")
    assert judged.message == "measurement.latency.p95_ms is inf, not a finite number"
    to_json(judged)


def test_a_finite_record_has_no_problems() -> None:
    """The walk finds nothing in a sound record."""
    assert list(number_problems("", TrialRecord(0, {}, "done", measurement=measurement(0.8, 0.5)))) == []


def test_the_package_loads_neither_ray_nor_optuna_nor_torch() -> None:
    """The command line imports it to show its help."""
    heavy = "{'ray', 'optuna', 'torch', 'mlflow'}"
    code = f"import sys, eed_search.search, eed_search.search.driver; print({heavy} & sys.modules.keys())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "set()\n"
