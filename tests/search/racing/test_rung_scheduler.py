"""The race of a search: who waits, who goes on, and that all of it follows from the ledger."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eed_search.config.params import LatencyKind
from eed_search.config.spec import Baselines, Search, Spec, Threat
from eed_search.frontier.points import frontier
from eed_search.runs.ledger import FILE_NAME, Event, Ledger, RungRecord, RunView, fold, read_run
from eed_search.runs.records import Exits, TrialRecord, UnderAttack, pack_bits
from eed_search.search import LocalWorkers, Silent
from eed_search.search.driver import run
from eed_search.search.racing.rung_scheduler import DOMINATED, RUNGS, RungScheduler, dominated_record, with_earlier
from eed_search.search.resume import resume
from eed_search.storage.store import StageUse
from tests.runs.ledgers import cut
from tests.search import stub_pipeline
from tests.tracking.factories import make_measurement, make_trial

pytestmark = [  # MLflow and what it brings leave connections to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NUM_TRIALS = 12


def at(rung: int, robust: float, latency: float, arm: float = 0.01, num: int = 1000, offset: int = 0) -> RungRecord:
    """A report whose first images, from an offset on, are the ones that stayed right."""
    metrics = {
        "robust_accuracy": robust,
        "robust_accuracy_low": robust - arm,
        "robust_accuracy_high": robust + arm,
        "latency_ms": latency,
        "latency_ms_low": latency,
        "latency_ms_high": latency,
    }
    right = np.roll(np.arange(num) < round(num * robust), offset)
    return RungRecord(rung, metrics, robust_hex=pack_bits(right), num_samples=num)


# ---------------------------------------------------------------- by hand


@pytest.mark.parametrize(("kind", "reading"), [("clean", 0.2), ("attacked", 0.35), ("worst_case", 0.5)])
def test_an_end_is_read_by_the_latency_that_ranks(kind: LatencyKind, reading: float) -> None:
    """Half of the images pushed to the end cost half of the way there."""
    measured = make_measurement(0.8, 0.2, members=2)
    latency = replace(measured.latency, worst_case_ms=0.5, exit_ms=())
    half = Exits((0.0, 1.0), (measured.macs + measured.worst_case_macs) // 2)
    under = UnderAttack(half, half, "S1")
    racing = RungScheduler(3, kind)
    racing.proposed(0)
    racing.ended(make_trial(0, measurement=replace(measured, latency=latency, under_attack=under)))
    ((_, rung, (robust, ms)),) = racing.readings()
    assert (rung, robust, ms) == (len(RUNGS), -0.8, pytest.approx(reading, rel=1e-3))


def test_one_in_three_goes_on_and_the_others_wait() -> None:
    racing = RungScheduler(3)
    for number in range(3):
        racing.proposed(number)
    assert racing.next_rung(0) == 0
    assert racing.reported(0, at(0, 0.6, 0.5)) == "pause"
    assert racing.reported(1, at(0, 0.5, 0.6)) == "pause"
    assert racing.reported(2, at(0, 0.7, 0.4)) == "continue"  # better in both than the two before
    assert (racing.next_rung(2), racing.next_rung(0)) == (1, 1)
    assert racing.paused() == [0, 1]
    assert racing.to_resume(nothing_new=False) is None


def test_in_the_end_those_go_on_that_may_still_belong_to_the_frontier() -> None:
    """Trial 0 trades accuracy for speed, trial 1 is beaten in both by far more than its interval."""
    racing = RungScheduler(3)
    for number in range(4):
        racing.proposed(number)
    for rung in range(len(RUNGS)):
        for number, robust, latency in ((2, 0.8, 0.5), (3, 0.79, 0.49)):
            if racing.reported(number, at(rung, robust, latency)) == "pause":
                racing.resumed(number)
    racing.reported(0, at(0, 0.6, 0.1))
    racing.reported(1, at(0, 0.3, 0.9))
    for number, robust, latency in ((2, 0.8, 0.5), (3, 0.79, 0.49)):
        racing.ended(make_trial(number, measurement=make_measurement(robust, latency)))
    assert racing.to_resume(nothing_new=True) == 0
    racing.resumed(0)
    racing.ended(make_trial(0, measurement=make_measurement(0.6, 0.1)))
    assert racing.to_resume(nothing_new=True) is None
    assert racing.paused() == [1]


@pytest.mark.parametrize(
    ("robust", "latency", "offset", "goes_on"),
    [
        (0.76, 0.5, 0, False),  # its images are a part of the other's: 4 points behind for sure
        (0.76, 0.5, 300, True),  # other images: 4 points behind may be chance
        (0.76, 0.3, 0, True),  # faster than any that is finished
        (0.8, 0.5, 0, True),  # as good as the other
    ],
)
def test_who_is_behind_image_by_image_is_given_up(robust: float, latency: float, offset: int, goes_on: bool) -> None:
    """Its own interval, 5 points wide on each side, would have kept it; that of the difference does not."""
    racing = RungScheduler(3)
    for number in range(4):
        racing.proposed(number)
    for number, end in ((0, 0.80), (1, 0.70), (2, 0.75)):
        for rung in range(len(RUNGS)):
            if racing.reported(number, at(rung, end, 0.4 if number == 0 else 0.6)) == "pause":
                racing.resumed(number)
        measured = make_measurement(end, 0.4 if number == 0 else 0.6)
        racing.ended(make_trial(number, measurement=measured))
    racing.reported(3, at(0, robust, latency, arm=0.05, offset=offset))
    assert racing.paused() in ([3], [])
    if racing.paused():
        assert (racing.to_resume(nothing_new=True) == 3) == goes_on
    else:
        assert goes_on


@pytest.mark.realtime
def test_to_ask_again_who_is_behind_costs_next_to_nothing() -> None:
    """300 wait, each behind each of 100 that are finished by less than its own interval.

    A hundred questions cost a tenth of all that came before; compared anew each time they cost hundreds of times as much.
    """
    racing, start = RungScheduler(1000), time.process_time()
    for number in range(400):
        racing.proposed(number)
        racing.reported(number, at(0, 0.8 if number < 100 else 0.76, 0.5, arm=0.1))
        if number < 100:
            racing.resumed(number)
            racing.ended(make_trial(number, measurement=make_measurement(0.8 + number / 1e5, 0.5)))
    before = time.process_time()
    assert [racing.to_resume(nothing_new=True) for _ in range(100)] == [None] * 100
    assert time.process_time() - before < 10 * (before - start)


def test_after_the_last_rung_a_trial_goes_to_its_end() -> None:
    racing = RungScheduler(3)
    racing.proposed(0)
    for rung in range(len(RUNGS)):
        assert racing.next_rung(0) == rung
        racing.reported(0, at(rung, 0.6, 0.5))
    assert racing.next_rung(0) is None


def test_a_reading_that_is_not_finite_is_refused() -> None:
    racing = RungScheduler(3)
    racing.proposed(0)
    with pytest.raises(ValueError, match="lacks a finite metric"):
        racing.reported(0, replace(at(0, 0.5, 0.5), metrics={"robust_accuracy": float("nan"), "latency_ms": 0.5}))


def test_reading_ones_own_work_again_is_no_reuse() -> None:
    made, read = StageUse("member.1", "a", False, 2.0), StageUse("member.1", "a", True, 0.01)
    team = StageUse("team.1", "t", False, 1.0)
    record = replace(make_trial(0), stages=(read, team), seconds=3.0)
    found = with_earlier(record, [RungRecord(0, {}, stages=(made,), seconds=5.0)])
    assert found.stages == (made, team)
    assert found.seconds == 8.0
    assert with_earlier(record, []) is record


# ---------------------------------------------------------------- whole searches in this process


def spec_of(**search: Any) -> Spec:
    first = ({"num_members": 1}, {"num_members": 2})
    return Spec(
        name="s",
        threat=Threat(eps=0.15),
        search=Search(**{"trials": NUM_TRIALS, "startup_trials": 4, "first": first, **search}),
        baselines=Baselines(sizes=()),
    )


def launch(home: Path, **search: Any) -> RunView:
    return run(
        spec_of(**search),
        home=home,
        name="s",
        pipeline=stub_pipeline,  # type: ignore[arg-type]
        listener=Silent(),
        workers=LocalWorkers(),
    )


@contextmanager
def teams_are_weak() -> Iterator[None]:
    """Several members are 20 points less robust than one, and the intervals are narrow: a race can tell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stub_pipeline, "NUM_SAMPLES", 2000)
        patch.setattr(stub_pipeline, "_robust", lambda members: robust_of([m.size for m in members]))
        yield


def robust_of(sizes: Sequence[float]) -> float:
    return 0.5 + 0.3 * max(sizes) - 0.2 * (len(sizes) > 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished race in which some trials were given up."""
    home = tmp_path_factory.mktemp("finished")
    with teams_are_weak():
        launch(home)
    return home


def events(folder: Path) -> list[Event]:
    with Ledger(folder / FILE_NAME) as ledger:
        return list(ledger.events())


def test_every_trial_ends_and_the_beaten_ones_say_why(finished: Path) -> None:
    view = read_run(finished / "s")
    assert view.state == "finished"
    assert sorted(view.trials) == list(range(NUM_TRIALS))
    beaten = [trial for trial in view.trials.values() if trial.outcome == "pruned"]
    assert beaten
    for trial in beaten:
        assert trial.reason == DOMINATED
        assert "gave way after `" in trial.message
        assert trial.measurement is None
    assert view.num_trials() == {
        "done": NUM_TRIALS - len(beaten), "infeasible": 0, "pruned": len(beaten), "failed": 0, "running": 0,
    }  # fmt: skip


def test_nothing_is_given_up_that_would_be_on_the_frontier(finished: Path) -> None:
    """What the stub would have given at the end of each trial that gave way lies behind the frontier."""
    view = read_run(finished / "s")
    beaten = [number for number, trial in view.trials.items() if trial.reason == DOMINATED]
    assert [number for number in beaten if not _dominated(view, number)] == []


def _dominated(view: RunView, number: int) -> bool:
    """Whether the stub's end of a trial would lie behind the frontier that was shown."""
    sizes = [float(v) for k, v in view.proposals[number].items() if k.endswith(".size")]
    robust, latency = robust_of(sizes), sum(sizes) / 2
    rows = [(p.measurement.robust_accuracy.value, view.trials[p.trial].measurement) for p in frontier(view)]
    return any(value >= robust and m is not None and m.latency.latency_ms.value <= latency for value, m in rows)


def test_every_decision_follows_from_the_events_before_it(finished: Path) -> None:
    """A replay of each prefix of the ledger comes to the decision that was taken."""
    view, num_checked = RunView(), 0
    for event in events(finished / "s"):
        if event.kind == "report":
            before = RungScheduler.replay(view, 3)
            assert event.trial is not None
            after = copy.deepcopy(view)
            fold(after, event)
            expected = before.reported(event.trial, after.reports[event.trial][-1])
        elif event.kind == "decision" and event.data["decision"] != "resume":
            assert event.data["decision"] == expected
            num_checked += 1
        elif event.kind == "decision":
            racing = RungScheduler.replay(view, 3)
            nothing_new = len(view.proposals) == NUM_TRIALS
            assert racing.to_resume(nothing_new=nothing_new) == event.trial
            num_checked += 1
        fold(view, event)
    assert num_checked > NUM_TRIALS


@pytest.mark.parametrize(("decision", "waiting"), [("continue", [0, 1]), ("pause", [0, 1, 2]), ("", [0, 1])])
def test_a_decision_that_stands_in_the_ledger_is_not_taken_again(decision: str, waiting: list[int]) -> None:
    """Trial 2 would go on today: where the ledger says that it waits, it waits."""
    view = RunView(name="s")
    for number, robust in enumerate((0.6, 0.5, 0.7)):
        what = decision if number == 2 else "pause"
        view.reports[number] = [replace(at(0, robust, 0.5 - robust / 10), decision=what)]
        view.history += [("proposal", number), ("report", number)]
    assert RungScheduler.replay(view, 3).paused() == waiting


@pytest.mark.parametrize(
    "share", [0.3, 0.75, *(pytest.param(one, marks=pytest.mark.whole) for one in (0.15, 0.45, 0.6, 0.9))]
)
def test_a_race_that_is_cut_anywhere_ends_as_if_it_was_not(finished: Path, tmp_path: Path, share: float) -> None:
    """Killed after any event: the same trials, the same decisions, nothing proposed twice."""
    folder = shutil.copytree(finished, tmp_path / "home") / "s"
    race = [e.seq for e in events(folder) if e.kind in ("proposal", "attempt", "report", "decision", "result")]
    last = race[int(share * len(race))]
    cut(folder, last)
    with teams_are_weak():
        view = resume(folder, pipeline=stub_pipeline, listener=Silent(), workers=LocalWorkers())  # type: ignore[arg-type]
    whole = read_run(finished / "s")
    assert view.proposals == whole.proposals
    assert {n: _what(t) for n, t in view.trials.items()} == {n: _what(t) for n, t in whole.trials.items()}
    assert [p.id for p in frontier(view)] == [p.id for p in frontier(whole)]
    kinds = [(e.trial, e.data["rung"], e.data["decision"]) for e in events(folder) if e.kind == "decision"]
    before = [(e.trial, e.data["rung"], e.data["decision"]) for e in events(finished / "s") if e.kind == "decision"]
    assert kinds == before


def _what(trial: TrialRecord) -> tuple[Any, ...]:
    return trial.outcome, trial.reason, trial.message, trial.measurement, trial.stages


@pytest.mark.whole
def test_a_race_can_be_switched_off(tmp_path: Path) -> None:
    view = launch(tmp_path, racing=False, trials=4)
    assert view.reports == {}
    assert view.num_trials()["done"] == 4


def test_what_was_given_up_stays_so_when_trials_are_added(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "home") / "s"
    before = read_run(folder)
    view = resume(
        folder,
        pipeline=stub_pipeline,  # type: ignore[arg-type]
        listener=Silent(),
        workers=LocalWorkers(),
        trials=NUM_TRIALS + 1,
    )
    assert len(view.trials) == NUM_TRIALS + 1
    assert {n: view.trials[n] for n in before.trials} == before.trials


def test_a_trial_that_gave_way_says_where_it_stood() -> None:
    view = RunView(proposals={4: {"num_members": 1}}, reports={4: [at(0, 0.612, 0.0314)]})
    record = dominated_record(4, view)
    assert (record.outcome, record.reason, record.number) == ("pruned", DOMINATED, 4)
    assert "after `members`: 61.2 % robust in 0.0314 ms" in record.message
