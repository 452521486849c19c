"""The repeatability benchmark's verdict, by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """Load the script, which is no part of the package."""
    path = Path(__file__).parents[2] / "benchmarks" / "latency_repeatability.py"
    spec = importlib.util.spec_from_file_location("latency_repeatability", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _process(same: list[float], slowed_low: list[float], ladder: list[float]) -> dict[str, Any]:
    return {
        "same": [{"ratio": ratio, "noisy": False} for ratio in same],
        "slowed": [{"low": low, "noisy": low < 1} for low in slowed_low],
        "ladder": {str(i): {"ratio": ratio} for i, ratio in enumerate(ladder)},
    }


def test_verdict_counts_each_process(benchmark: ModuleType) -> None:
    """A/A within two per cent, slow-downs whose interval lies above 1.02, and τ over the ladder."""
    first = _process([1.0, 1.019, 0.981, 1.021], [1.03, 1.02, 1.04, 0.99], [0.1, 0.2, 0.3, 0.4])
    second = _process([1.0] * 4, [1.021] * 4, [0.1, 0.2, 0.4, 0.3])
    verdict = benchmark.evaluate_robustness([first, second])
    assert verdict["same_within"] == [3, 4]
    assert verdict["slow_down_found"] == [2, 4]
    assert verdict["noisy"] == [1, 0]
    assert verdict["kendall_tau"] == pytest.approx(4 / 6, abs=1e-4)
    assert not benchmark.passed(verdict)


@pytest.mark.parametrize(("within", "tau", "holds"), [(19, 0.95, True), (18, 1.0, False), (20, 0.94, False)])
def test_demands(benchmark: ModuleType, within: int, tau: float, holds: bool) -> None:
    """19 of 20 and τ 0.95 are enough, less is not."""
    verdict = {"same_within": [within, 20], "slow_down_found": [20, 20], "repeats": 20, "kendall_tau": tau}
    assert benchmark.passed(verdict) is holds
