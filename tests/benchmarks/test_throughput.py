"""The throughput benchmark's figure, by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """Load the script, which is no part of the package."""
    path = Path(__file__).parents[2] / "benchmarks" / "throughput.py"
    spec = importlib.util.spec_from_file_location("throughput", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_slots_without_a_gap_are_wholly_busy(benchmark: ModuleType) -> None:
    """What lies before they were all in use, and after the last trial began, does not count."""
    spans = [(0.0, 10.0), (4.0, 10.0), (10.0, 20.0), (10.0, 21.0)]
    assert benchmark.busy_share(spans, 2) == (1.0, 6.0)


def test_a_gap_between_two_trials_counts(benchmark: ModuleType) -> None:
    """One of two slots empty for two of ten seconds: a tenth."""
    spans = [(0.0, 10.0), (0.0, 8.0), (10.0, 15.0), (10.0, 15.0)]
    assert benchmark.busy_share(spans, 2) == (pytest.approx(0.9), 10.0)


def test_slots_that_were_never_all_in_use_give_nothing(benchmark: ModuleType) -> None:
    """There is no window."""
    assert benchmark.busy_share([(0.0, 1.0), (2.0, 3.0)], 2) == (0.0, 0.0)
