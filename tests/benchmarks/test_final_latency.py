"""The benchmark of final latencies' intervals: what its table counts."""

from __future__ import annotations

import pytest

from benchmarks.final_latency import Timing, main, table
from eed_search.runs.records import Interval


def _ratios(value: float, half: float) -> tuple[Interval, ...]:
    return (Interval(value, value - half, value + half),) * 3


def test_intervals_that_hold_the_median_of_all_undisturbed_are_counted() -> None:
    """Processes found 0.20, 0.21 and 0.22; 0.30 beside a slow base does not count for the truth, but as a miss."""
    first = Timing(((1.0, _ratios(0.20, 0.002)), (1.5, _ratios(0.30, 0.002))), _ratios(0.21, 0.02), False)
    second = Timing(((1.0, _ratios(0.21, 0.002)), (1.02, _ratios(0.22, 0.002))), _ratios(0.215, 0.001), True)
    text = table([first, second])
    assert text.count("| one process | 1.500 | 0.9 % | 1 of 4 |") == 3
    assert text.count("| several | 1.024 | 5.0 % | 1 of 2 |") == 3
    assert text.endswith("2 measurements, 4 processes; 1 called noisy.")


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--processes", "1"])
    assert "2 or more processes" in capsys.readouterr().err


@pytest.mark.whole
def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Once, with a small base, two processes."""
    assert main(["--repeats", "1", "--processes", "2", "--width", "16"]) == 0
    assert "1 measurements" in capsys.readouterr().out
