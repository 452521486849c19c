"""The end of a search's time, or of its patience: what has begun is finished, what waits is kept for a resume with more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from eed_search.config.spec import Baselines, Search, Spec, Threat
from eed_search.core.errors import RunError
from eed_search.runs.events import RungReported
from eed_search.runs.ledger import BUDGET, FILE_NAME, Ledger, RunView, fold, read_run
from eed_search.runs.records import TrialRecord
from eed_search.search import LocalWorkers, Silent
from eed_search.search.driver import run
from eed_search.search.journal import Journal
from eed_search.search.racing.rung_scheduler import DOMINATED, RungScheduler
from eed_search.search.resume import resume
from eed_search.search.sampling import trial_queue
from eed_search.search.sampling.study import STUDY_FILE, close_study, open_study
from eed_search.search.sampling.trial_queue import TrialQueue
from tests.runs.ledgers import cut as cut_ledger
from tests.runs.ledgers import rewritten
from tests.search import stub_pipeline
from tests.search.racing.test_rung_scheduler import at, teams_are_weak

pytestmark = [  # MLflow and what it brings leave connections to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HOUR_S = 3600.0


@dataclass
class Clock:
    """The trial queue's clock: a day later once so many trials have been handed to the pipeline."""

    late_after: float = float("inf")
    calls: Counter[int] = field(default_factory=Counter)

    def monotonic(self) -> float:
        late = self.calls.total() >= self.late_after
        return time.monotonic() + (24 * HOUR_S if late else 0.0)

    def __getattr__(self, name: str) -> Any:
        function = getattr(stub_pipeline, name)
        if name != "run":
            return function

        def counted(number: int, *arguments: Any) -> Any:
            self.calls[number] += 1
            return function(number, *arguments)

        return counted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the trial queue reads, and that is a pipeline besides."""
    made = Clock()
    monkeypatch.setattr(trial_queue, "time", made)
    return made


def spec_of(**search: Any) -> Spec:
    return Spec(
        name="s",
        threat=Threat(eps=0.15),
        search=Search(**{"trials": 12, "startup_trials": 4, "sampler": "random", **search}),
        baselines=Baselines(sizes=()),
    )


def launch(home: Path, pipeline: Any = stub_pipeline, **search: Any) -> RunView:
    return run(spec_of(**search), home=home, name="s", pipeline=pipeline, listener=Silent(), workers=LocalWorkers())


def go_on(folder: Path, pipeline: Any = stub_pipeline, **options: Any) -> RunView:
    return resume(folder, pipeline=pipeline, listener=Silent(), workers=LocalWorkers(), **options)


def edit(folder: Path, old: str, new: str) -> None:
    """Change a run's own file."""
    path = folder / "search_space.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def cut(folder: Path, keep: Callable[[Any], bool]) -> None:
    """Forget everything in the ledger from the first event on that is not to be kept."""
    with Ledger(folder / FILE_NAME) as ledger:
        first = next(event.seq for event in ledger.events() if not keep(event))
    cut_ledger(folder, first - 1)


# ---------------------------------------------------------------- what may be handed out


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Make proposers, and close their studies."""
    studies = []

    def build(**options: Any) -> TrialQueue:
        studies.append(study := open_study(tmp_path / STUDY_FILE, "s", spec_of()))
        return TrialQueue(study, spec_of(), **options)

    yield build
    for study in studies:
        close_study(study)


@pytest.mark.parametrize("num_out", [0, 1])
def test_what_was_told_to_go_on_is_handed_out_past_the_deadline(make: Any, clock: Clock, num_out: int) -> None:
    """Whether another trial is out or not."""
    asked = make(racing=RungScheduler(3), deadline=time.monotonic() + HOUR_S, max_concurrent=4)
    for number in range(3 + num_out):
        assert asked.propose().number == number
    verdicts = [asked.report(n, at(0, robust, ms)) for n, robust, ms in ((0, 0.6, 0.5), (1, 0.5, 0.6), (2, 0.7, 0.4))]
    assert verdicts == ["pause", "pause", "continue"]
    clock.late_after = 0
    assert not asked.finished
    assert asked.propose().number == 2
    assert asked.propose() is None


def test_a_trial_that_is_lost_is_handed_out_again_past_the_deadline(make: Any, clock: Clock) -> None:
    asked = make(deadline=time.monotonic() + HOUR_S)
    number = asked.propose().number
    clock.late_after = 0
    asked.again(number)
    assert asked.propose().number == number


def test_nothing_new_and_nothing_that_waits_is_handed_out_past_the_deadline(make: Any, clock: Clock) -> None:
    """One waits that the race would let go on, and eleven are not proposed yet."""
    racing = RungScheduler(3)
    asked = make(racing=racing, deadline=time.monotonic() + HOUR_S)
    assert asked.report(asked.propose().number, at(0, 0.5, 0.6)) == "pause"
    assert (asked.finished, asked.out_of_time) == (False, False)
    clock.late_after = 0
    assert (asked.finished, asked.out_of_time, asked.propose()) == (True, True, None)


# ---------------------------------------------------------------- whole searches


def test_trials_that_wait_when_the_time_is_over_are_not_called_beaten(tmp_path: Path, clock: Clock) -> None:
    """Nobody has judged them; those that were told to go on have come to their end."""
    clock.late_after = 9
    with teams_are_weak():
        view = launch(tmp_path, clock, time_budget_s=HOUR_S)
    assert view.state == "finished"
    assert 0 < len(view.proposals) < 12
    waited = {n for n, trial in view.trials.items() if trial.outcome == "pruned"}
    assert waited
    assert waited == set(view.out_of_time())
    assert {view.reports[n][-1].decision for n in waited} == {"pause"}
    assert all(trial.outcome == "done" for n, trial in view.trials.items() if n not in waited)
    assert "waited at a rung when search.time_budget_s was over" in view.trials[min(waited)].message


@pytest.mark.whole
def test_more_time_goes_on_with_the_trials_that_waited(tmp_path: Path, clock: Clock) -> None:
    """In the end it is the search that never ran out of time."""
    clock.late_after = 9
    with teams_are_weak():
        waited = launch(tmp_path / "cut", clock, time_budget_s=HOUR_S).out_of_time()
        clock.late_after = float("inf")
        whole = launch(tmp_path / "whole", time_budget_s=2 * HOUR_S)
        folder = tmp_path / "cut" / "s"
        edit(folder, "time_budget_s: 3600.0", "time_budget_s: 7200.0")
        view = go_on(folder)
    assert view.out_of_time() == []
    assert len(view.proposals) == 12
    assert {view.trials[n].reason for n in waited} <= {"", DOMINATED}
    outcomes = {n: (trial.outcome, trial.reason, trial.measurement) for n, trial in view.trials.items()}
    assert outcomes == {n: (t.outcome, t.reason, t.measurement) for n, t in whole.trials.items()}


@pytest.mark.whole
def test_the_race_of_a_search_that_ran_out_of_time_follows_from_its_ledger(tmp_path: Path, clock: Clock) -> None:
    """Before the end, after it, and after the resume: a replay of each prefix comes to the decisions that were taken."""
    clock.late_after = 9
    with teams_are_weak():
        launch(tmp_path, clock, time_budget_s=HOUR_S)
        clock.late_after = float("inf")
        edit(tmp_path / "s", "time_budget_s: 3600.0", "time_budget_s: 7200.0")
        go_on(tmp_path / "s")
    view, num_checked = RunView(), 0
    with Ledger(tmp_path / "s" / FILE_NAME) as ledger:
        for event in ledger.events():
            if event.kind == "report":
                before = RungScheduler.replay(view, 3)
            fold(view, event)
            if event.kind == "report":
                assert event.trial is not None
                expected = before.reported(event.trial, view.reports[event.trial][-1])
            elif event.kind == "decision" and event.data["decision"] != "resume":
                assert event.data["decision"] == expected
                num_checked += 1
    assert num_checked >= 12


@pytest.mark.whole
def test_what_ran_when_a_driver_was_killed_is_finished_though_the_time_is_over(tmp_path: Path) -> None:
    """The budget was used up before the kill: the resume ends what has begun, and begins nothing."""
    launch(tmp_path, trials=4, racing=False)
    folder = tmp_path / "s"
    cut(folder, lambda event: (event.kind, event.trial) != ("result", 2))
    with rewritten(folder) as database:  # an hour of work
        database.execute("UPDATE event SET at = at - 3600 WHERE seq = 1")
    edit(folder, "time_budget_s: null", "time_budget_s: 60.0")
    view = go_on(folder)
    assert view.state == "finished"
    assert {n: trial.outcome for n, trial in view.trials.items()} == dict.fromkeys(range(3), "done")


def test_an_old_ledger_has_no_trials_out_of_time(tmp_path: Path) -> None:
    """Reasons of old ends are kept as they were written."""
    view = launch(tmp_path, trials=2, racing=False)
    assert read_run(tmp_path / "s").out_of_time() == view.out_of_time() == []
    assert BUDGET not in {trial.reason for trial in view.trials.values()}


# ---------------------------------------------------------------- more trials after such an end

SAME = ({"num_members": 1, "member1.size": 0.5},) * 6


def test_patience_ends_a_search_whose_trials_add_nothing(tmp_path: Path) -> None:
    """Six times the same first trial: the second and the third add nothing, so there is no fourth."""
    view = launch(tmp_path, first=SAME, patience=2, racing=False)
    assert (view.state, len(view.trials)) == ("finished", 3)
    assert view.reason == "search.patience 2: so many trials in a row added nothing to the hypervolume"


@pytest.mark.whole
def test_trials_that_add_something_are_not_stalled(tmp_path: Path) -> None:
    """Each is smaller, so faster, than the one before."""
    sizes = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3)
    first = tuple({"num_members": 1, "member1.size": size} for size in sizes)
    space = {"size": {"values": sizes}}
    view = launch(tmp_path, first=first, patience=2, racing=False, trials=6, space=space)
    assert len(view.trials) == 6


@pytest.mark.whole
def test_more_trials_after_an_end_by_patience_are_refused_with_the_key(tmp_path: Path) -> None:
    """Nothing is written; a higher patience lets them be."""
    launch(tmp_path, first=SAME, patience=2, racing=False)
    folder = tmp_path / "s"
    before = read_run(folder)
    message = (
        r"run s: is finished, with 3 trials, and proposes no more because of search\.patience 2: so many .*"
        r" Give search\.patience a higher value, or null, in .*/s/search_space\.yaml, then `eed-search resume s`"
    )
    for options in ({"trials": 20}, {"trials": 12}, {}):
        with pytest.raises(RunError, match=message):
            go_on(folder, **options)
    assert read_run(folder) == before
    edit(folder, "patience: 2", "patience: 4")
    view = go_on(folder)
    assert 5 <= len(view.trials) < 12
    assert view.reason.startswith("search.patience 4")


@pytest.mark.whole
def test_more_trials_after_an_end_by_time_are_refused_with_the_key(tmp_path: Path) -> None:
    """A real budget of a tenth of a millisecond, over before the first trial; more of it lets them be."""
    view = launch(tmp_path, trials=3, time_budget_s=0.0001, racing=False)
    assert (view.state, view.trials) == ("finished", {})
    assert view.reason.startswith("search.time_budget_s 0.0001: ")
    message = r"with 0 trials, and proposes no more because of search\.time_budget_s 0\.0001: \d+ s are used\. Give"
    for options in ({"trials": 20}, {}):
        with pytest.raises(RunError, match=message):
            go_on(tmp_path / "s", **options)
    edit(tmp_path / "s", "time_budget_s: 0.0001", "time_budget_s: 0.0002")
    with pytest.raises(RunError, match=message.replace("01", "02")):
        go_on(tmp_path / "s")
    edit(tmp_path / "s", "time_budget_s: 0.0002", "time_budget_s: null")
    assert len(go_on(tmp_path / "s").trials) == 3


# ---------------------------------------------------------------- how much time is left


def test_the_time_that_is_left_counts_the_trials_that_wait(tmp_path: Path) -> None:
    """One of four has ended after 10 s, two wait: three are to come, one after another."""
    with Ledger(tmp_path / FILE_NAME, write=True) as ledger:
        pen = Journal(ledger, Silent(), 4, 1)
        for number in range(3):
            pen.proposal(number, {"num_members": 1}, {})
        pen.result(TrialRecord(0, {}, "failed", "error", seconds=10.0))
        metrics = {"robust_accuracy": 0.5, "latency_ms": 0.1}
        for number in (1, 2):
            pen.append(RungReported(number, 0, metrics))
            pen.decision(number, 0, "pause")
        assert pen._status({}).eta_s == 30.0
