"""Several fresh processes for one latency: which count, what they agree on, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eed_search.deployment.runtime import GateSettings
from eed_search.evaluation import latency_processes
from eed_search.evaluation.cascade import Cascade, ProcessTiming, time_in_process
from eed_search.evaluation.latency_processes import agreed, cascade_latencies, undisturbed
from eed_search.runs.records import Interval, Latency
from tests.evaluation.networks import DENSE, HALF, QUARTER, SHAPE, SPEC
from tests.waiting import HANGS_S

GATE = GateSettings("threshold", 0.5, 1.0, 1.0)
IMAGES = np.random.default_rng(0).random((10, *SHAPE), dtype=np.float32)


def _latency(ms: float, **changes: Any) -> Latency:
    found = Latency(
        latency_ms=Interval(ms, 0.99 * ms, 1.01 * ms),
        p50_ms=ms,
        p95_ms=2 * ms,
        worst_case_ms=3 * ms,
        speedup=Interval(1 / ms, 1 / ms, 1 / ms),
        worst_case_speedup=1 / (3 * ms),
        method="cascade",
        images_per_second=Interval(100 * ms, 90 * ms, 110 * ms),
        num_calls=300,
        exit_ms=(ms, 3 * ms),
    )
    return replace(found, **changes)


def test_a_process_whose_base_was_slow_is_disturbed() -> None:
    """Within 3 % of the fastest one."""
    all_ = [ProcessTiming((), base_ms) for base_ms in (1.0, 1.029, 1.031, 1.5)]
    assert undisturbed(all_) == all_[:2]
    assert undisturbed([]) == []


def test_processes_agree_on_medians() -> None:
    """The interval is what five of them span; calls add up; the base takes 2 ms."""
    found = agreed([_latency(ms) for ms in (0.5, 0.52, 0.4, 0.48, 0.51)], 2.0, all_undisturbed=True)
    assert found.latency_ms == Interval(0.5, 0.4, 0.52)
    assert found.speedup.value == pytest.approx(4)
    assert (found.speedup.low, found.speedup.high) == pytest.approx((2 / 0.52, 5))
    assert (found.p50_ms, found.p95_ms, found.worst_case_ms, found.num_calls) == (0.5, 1.0, 1.5, 1500)
    assert found.worst_case_speedup == pytest.approx(2 / 1.5)
    assert found.exit_ms == (0.5, 1.5)
    assert found.images_per_second is not None
    assert found.images_per_second.value == 50
    assert (found.method, found.noisy) == ("cascade", False)


def test_what_one_process_does_not_know_is_not_told() -> None:
    """A quantile that one of them had too few calls for; noise anywhere is noise."""
    few = _latency(0.5, p95_ms=None, images_per_second=None, noisy=True)
    found = agreed([_latency(0.5), few], 1.0, all_undisturbed=True)
    assert (found.p50_ms, found.p95_ms, found.noisy) == (0.5, None, True)
    assert agreed([_latency(0.5)], 1.0, all_undisturbed=False).noisy


@pytest.mark.parametrize(
    ("base_ms", "used", "noisy"),
    [
        ([1.0, 1.01, 1.02], [1, 2, 3], False),
        ([1.3, 1.0, 1.2, 1.01, 1.02], [2, 4, 5], False),  # two were disturbed, two more took their place
        ([1.3, 1.0, 1.2, 1.4, 1.1, 1.01], [2, 5, 6], True),  # three to spare, and still one too few
    ],
)
def test_another_process_takes_the_place_of_a_disturbed_one(
    base_ms: list[float], used: list[int], noisy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as wanted, the fastest bases; never more than three beyond."""
    said: list[str] = []
    made = iter(ProcessTiming((_latency(float(n)),), ms) for n, ms in enumerate(base_ms, start=1))
    monkeypatch.setattr(latency_processes, "in_fresh_process", lambda job, at: next(made))
    spec = SPEC.model_copy(update={"final_processes": 3})
    (found,) = cascade_latencies([Cascade([HALF], GATE)], IMAGES, DENSE, None, spec, 1.0, said.append)
    assert (found.latency_ms.value, found.noisy) == (float(np.median(used)), noisy)
    places = ["1 of 3", "2 of 3", "3 of 3", *(f"{n}, for a disturbed one of 3" for n in range(4, 7))]
    assert said == [f"process {place}" for place in places[: len(base_ms)]]


@pytest.mark.whole
@pytest.mark.realtime
@pytest.mark.timeout(900)
def test_real_processes_time_what_they_are_given() -> None:
    """A smaller network and a team of two, in two interpreters: each does half of the rounds and calls."""
    spec = SPEC.model_copy(update={"final_processes": 2, "final_rounds": 6, "final_calls": 1200})
    cascades = [Cascade([QUARTER], GATE), Cascade([QUARTER, HALF], GateSettings("threshold", 2.0))]
    small, team = cascade_latencies(cascades, IMAGES, DENSE, HALF, spec, 2.0)
    assert small.latency_ms.low <= small.latency_ms.value <= small.latency_ms.high
    assert small.latency_ms.value < team.latency_ms.value
    assert small.speedup.value == pytest.approx(2.0 / small.latency_ms.value)
    assert small.num_calls >= 1000
    assert small.p95_ms is not None
    assert len(team.exit_ms) == 2
    assert team.images_per_second is not None


@pytest.mark.parametrize("sentinel", [None, HALF])
def test_a_job_travels_as_plain_data(tmp_path: Path, sentinel: bytes | None) -> None:
    """Everything comes back; its files hold no pickle, so that nobody who writes there can run code."""
    cascades = (Cascade([QUARTER, HALF], GateSettings("margin", 1.5)), Cascade([HALF], GATE, plain=True))
    job = latency_processes.Job(cascades, IMAGES, DENSE, sentinel, SPEC, 2.0, "plain")
    job.write(tmp_path)
    found = latency_processes.Job.read(tmp_path)
    assert (found.images == IMAGES).all()
    assert [list(one.member_onnx) for one in found.cascades] == [[QUARTER, HALF], [HALF]]
    assert [(one.gate, one.plain) for one in found.cascades] == [(one.gate, one.plain) for one in cascades]
    assert (found.reference_onnx, found.sentinel_onnx, found.spec) == (DENSE, sentinel, SPEC)
    assert (found.reference_ms, found.denominator) == (2.0, "plain")


def test_a_process_says_at_which_round_it_is(tmp_path: Path) -> None:
    """Whoever waits hears of each word once; of one that has written nothing, nothing."""
    code = (
        "import sys, time, pathlib\n"
        "for done in (3, 7):\n    pathlib.Path(sys.argv[1]).write_text(f'{done}/16')\n    sys.stdin.readline()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "at")], stdin=subprocess.PIPE)
    assert process.stdin is not None
    heard: list[tuple[int, int]] = []

    def at(done: int, of: int) -> None:
        heard.append((done, of))
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()

    latency_processes._wait(process, tmp_path / "at", at)
    process.stdin.close()
    assert heard == [(3, 16), (7, 16)]


def test_rounds_are_told_one_by_one() -> None:
    """Before each of them how many are done, of at least as many as the protocol asks for."""
    told: list[tuple[int, int]] = []
    spec = SPEC.model_copy(update={"final_processes": 1, "final_rounds": 6, "final_calls": 100})
    time_in_process([Cascade([QUARTER], GATE)], IMAGES, DENSE, None, spec, 2.0, tell=lambda *at: told.append(at))
    assert [done for done, _ in told] == list(range(len(told)))
    assert all(done < of for done, of in told)


def test_a_process_that_breaks_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)final latencies ended with 1: .*protobuf"):
        cascade_latencies(
            [Cascade([b"no network"], GATE)], IMAGES, DENSE, None, SPEC.model_copy(update={"final_processes": 2}), 1.0
        )


def test_a_process_ends_with_who_started_it(tmp_path: Path) -> None:
    """Here it waits for its job for ever; the pipe's end is the starter's."""
    os.mkfifo(tmp_path / "job.json")
    command = [sys.executable, "-m", latency_processes.__name__, str(tmp_path)]
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root})
    assert process.stdin is not None
    with (tmp_path / "job.json").open("wb"):  # opens once the process has it open too, and begins to read
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(HANGS_S) == 1
