"""The cascade's time: draws of exits by law, real cascades on real onnxruntime sessions.

No test asserts a time: those that measure one compare what lies far apart in one run, by a clock that does not count
how long others had the processor.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eed_search.deployment.runtime import GatedClassifier, GateSettings
from eed_search.evaluation import cascade, timing
from eed_search.evaluation.cascade import Cascade, mix_of_exits, stratified, throughput, time_in_process
from eed_search.evaluation.timing import Block
from eed_search.runs.records import Interval
from tests.evaluation.clocks import COMPUTING, ticking
from tests.evaluation.networks import DENSE, HALF, QUARTER, SHAPE, SPEC


@pytest.fixture(autouse=True)
def _short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARM_UP_S", 0.05)


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(lambda c: sum(c) > 0),
    size=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_draw_keeps_the_shares_of_the_exits(counts: list[int], size: int, seed: int) -> None:
    """Each exit occurs as often as its share says, but for one, in any draw."""
    depths = np.repeat(np.arange(1, len(counts) + 1), counts)
    picks = stratified(depths, size, np.random.default_rng(seed))
    assert len(picks) == size
    found = np.bincount(depths[picks], minlength=len(counts) + 1)[1:]
    assert (np.abs(found - np.array(counts) * size / sum(counts)) < 1 + 1e-9).all()


def test_draw_takes_every_image_equally_often() -> None:
    """Over many draws no image is preferred, and a whole set is drawn without a repeat."""
    depths = np.array([1] * 7 + [2] * 2 + [3])
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([stratified(depths, 3, rng) for _ in range(5000)]), minlength=10)
    assert np.abs(counts - 1500).max() < 6 * math.sqrt(1500)
    assert sorted(stratified(depths, 10, rng)) == list(range(10))


def test_each_exit_weighs_its_exact_share() -> None:
    """Exits cost 1 and 3 ms in shares 3:1, so 1.5 ms against a base of 2 ms, whatever a round drew."""
    rounds = [
        {"candidate": _block(1, 1, 1, 3), "reference": _block(2)},
        {"candidate": _block(1, 3), "reference": _block(2)},
        {"candidate": _block(1, 1, 9, 3), "reference": _block(2)},  # a call that was interrupted does not count
        {"candidate": _block(2, 2), "reference": _block(4)},  # drew no second exit: that of the other rounds
    ]
    exits = [np.array(one) for one in ([1, 1, 1, 2], [1, 2], [1, 1, 1, 2], [1, 1])]
    assert mix_of_exits(rounds, exits, np.array([0.0, 0.75, 0.25])) == pytest.approx([0.75] * 4)


def test_an_exit_that_no_round_drew_weighs_nothing() -> None:
    rounds = [{"candidate": _block(1, 3), "reference": _block(2)}]
    found = mix_of_exits(rounds, [np.array([1, 2])], np.array([0.0, 0.74, 0.25, 0.01]))
    assert found == pytest.approx([(0.74 * 0.5 + 0.25 * 1.5) / 0.99])


def _block(*ms: float) -> Block:
    return Block(float(np.mean(ms)), np.array(ms, float), np.array(ms, float))


@pytest.mark.realtime
def test_cascade_lies_between_first_member_and_all() -> None:
    """Half of the images stop at the first member: dearer than one member, cheaper than both."""
    images = np.random.default_rng(0).random((40, *SHAPE), dtype=np.float32)
    members = [QUARTER, HALF]
    stop = GatedClassifier.from_onnx([QUARTER], GateSettings("threshold", 2, 1, 1)).predict(images).probabilities
    middle = float(np.median((stop.max(axis=1) - 0.25) / 0.75))

    gates = [GateSettings("threshold", threshold, 1.0, 1.0) for threshold in (0.0, middle, 2.0)]
    first, mixed, both = time_in_process(
        [Cascade(members, gate) for gate in gates], images, DENSE, HALF, SPEC, 2.0, COMPUTING
    ).latencies
    assert first.latency_ms.value < mixed.latency_ms.value < both.latency_ms.value
    assert mixed.p50_ms is not None
    assert mixed.p95_ms is not None
    assert mixed.p50_ms <= mixed.p95_ms
    assert mixed.num_calls >= 1000
    assert 0.5 * mixed.worst_case_ms < both.latency_ms.value < 2 * mixed.worst_case_ms
    assert mixed.speedup.value == pytest.approx(2.0 / mixed.latency_ms.value)
    assert mixed.speedup.low <= mixed.speedup.value <= mixed.speedup.high
    assert mixed.method == "cascade"
    assert first.images_per_second is not None
    assert both.images_per_second is not None
    assert first.images_per_second.value > both.images_per_second.value


@pytest.mark.realtime
def test_cascade_of_the_dense_base_alone() -> None:
    """A team of one runs without a gate; its worst case is its latency."""
    images = np.random.default_rng(0).random((10, *SHAPE), dtype=np.float32)
    alone = Cascade([DENSE], GateSettings("map", 0.5, 1, 1))
    (found,) = time_in_process([alone], images, DENSE, None, SPEC, 3.0, COMPUTING).latencies
    assert 0.5 < found.speedup.value < 2
    assert found.worst_case_ms == found.latency_ms.value


def test_equal_calls_cost_what_their_number_says() -> None:
    """By a clock on which every call takes one step: no interval, no noise, the base's own time for each exit."""
    images = np.random.default_rng(0).random((10, *SHAPE), dtype=np.float32)
    team = Cascade([QUARTER, HALF], GateSettings("threshold", 2.0, 1, 1))
    (found,) = time_in_process([team], images, DENSE, HALF, SPEC, 3.0, ticking()).latencies
    assert (found.latency_ms, found.noisy) == (Interval(3.0, 3.0, 3.0), False)
    assert found.p50_ms == found.p95_ms == found.worst_case_ms == 3.0
    assert found.images_per_second == Interval(*[pytest.approx(640_000)] * 3)  # 64 images in a step of 0.1 ms


@pytest.mark.realtime
def test_throughput_of_a_smaller_network_is_higher() -> None:
    """Images per second in batches of 64, from fewer images than a batch holds."""
    images, first = np.random.default_rng(0).random((10, *SHAPE), dtype=np.float32), np.ones(10, np.int64)
    quarter, dense = (
        throughput(GatedClassifier.from_onnx([one], GateSettings("map", 0.5, 1, 1)), images, first, SPEC, COMPUTING)
        for one in (QUARTER, DENSE)
    )
    assert 0 < quarter.low <= quarter.value <= quarter.high
    assert quarter.value > dense.value


@pytest.mark.parametrize(
    ("call_ms", "size"),
    [(0.5, 200), pytest.param(0.1, 200, marks=pytest.mark.whole), pytest.param(0.02, 400, marks=pytest.mark.slow)],
)
def test_who_has_settled_leaves_and_the_others_go_on(
    call_ms: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds double for those alone whose interval is wide; each is summed up over its own rounds.

    A round holds a fifth of the thousand calls that are wanted, and more where these would not fill a block of 8 ms.
    """
    taken: list[set[tuple[int, str]]] = []
    real = cascade.take_rounds

    def spy(calls, images, num_rounds, rng, *, by_cpu, clock):
        taken.append(set(calls))
        assert num_rounds == (5, 5, 10)[len(taken) - 1]
        return real(calls, images, num_rounds, rng, by_cpu=by_cpu, clock=clock)

    monkeypatch.setattr(cascade, "take_rounds", spy)
    monkeypatch.setattr(
        cascade._Contest, "settled", lambda one, limit: len(one.entrants) == 1
    )  # the team of two never does
    images = np.random.default_rng(0).random((10, *SHAPE), dtype=np.float32)
    gate = GateSettings("threshold", 0.5, 1.0, 1.0)
    alone, team = time_in_process(
        [Cascade([HALF], gate), Cascade([QUARTER, HALF], gate)],
        images,
        DENSE,
        None,
        SPEC,
        3.0,
        ticking(lambda: call_ms),
    ).latencies
    shared = {(-1, "reference"), (-1, "script"), (1, "candidate"), (1, "worst")}
    assert taken[0] == shared | {(0, "candidate")}
    assert [{role for _, role in one} for one in taken[1:]] == [{"reference", "script", "candidate", "worst"}] * 2
    assert (alone.noisy, team.noisy) == (False, True)
    assert alone.num_calls == 5 * size  # all of its five rounds
    assert team.num_calls == 20 * size  # all of its twenty, for every one was quiet


@pytest.mark.whole
def test_the_speed_up_divides_by_a_plain_run_of_the_base() -> None:
    """What is timed as the reference never enters the script; the base through the script stands beside it."""
    seen: list[str] = []
    images = np.random.default_rng(0).random((10, *SHAPE), dtype=np.float32)
    real_run, real_predict = cascade.plain_call, GatedClassifier.predict

    def plain(session, given):
        seen.append("plain")
        return real_run(session, given)

    gate = GateSettings("threshold", 0.5, 1.0, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "plain_call", plain)
        patch.setattr(
            GatedClassifier, "predict", lambda team, image: seen.append("script") or real_predict(team, image)
        )
        (new,) = time_in_process(
            [Cascade([DENSE], gate, plain=True)], images, DENSE, None, SPEC, 3.0, ticking()
        ).latencies
    assert seen.count("plain") == 2  # the reference, and a base or baseline as the candidate
    assert "script" in seen
    assert (new.denominator, new.speedup.value) == ("plain", pytest.approx(1.0))
    assert new.script_speedup is not None
    (old,) = time_in_process([Cascade([DENSE], gate)], images, DENSE, None, SPEC, 3.0, ticking(), "script").latencies
    assert (old.denominator, old.script_speedup) == ("script", None)
