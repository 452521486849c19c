"""Where a search's slots spend their time, added up by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eed_search.core.errors import RunError
from eed_search.runs.ledger import Event


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """Load the script, which is no part of the package."""
    path = Path(__file__).parents[2] / "benchmarks" / "orchestration.py"
    spec = importlib.util.spec_from_file_location("orchestration", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def _event(kind: Any, at: float, **data: Any) -> Event:
    return Event(1, kind, None, data, at)


def _run() -> list[Event]:
    stages = [{"stage": "member.1", "key": "a", "hit": False, "seconds": 20.0}]
    waited = [*stages, {"stage": "scores.1", "key": "b", "hit": True, "seconds": 1.5}]
    return [
        _event("stage", 100.0, text="baselines and trials"),
        _event("control", 130.0),
        _event("result", 140.0, seconds=25.0, stages=stages),
        _event("result", 150.0, seconds=22.0, stages=waited),
        _event("stage", 150.0, text="finals"),
    ]


def test_what_no_stage_accounts_for_is_orchestration(benchmark: ModuleType) -> None:
    """Two slots for 50 s: 30 s for a baseline, 40 s in stages, so 30 of 100 slot seconds are left, a wait among them."""
    found = benchmark.account(_run(), slots=2)
    assert (found.phase_s, found.controls_s, found.stages_s, found.trials_s) == (50.0, 30.0, 40.0, 47.0)
    assert found.found_s == 1.5
    assert found.share == pytest.approx(0.30)


def test_a_run_that_was_taken_up_again_is_refused(benchmark: ModuleType) -> None:
    with pytest.raises(RunError, match="interrupted or is not finished"):
        benchmark.account([*_run(), _event("resume", 160.0)], slots=2)
    with pytest.raises(RunError):
        benchmark.account(_run()[:-1], slots=2)
