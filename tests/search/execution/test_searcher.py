"""The searcher's contract: what Optuna is told about every end a trial can have."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from eed_search.config.params import TrialParams
from eed_search.config.registry import BUILT_IN
from eed_search.config.spec import Search, Spec, Threat
from eed_search.runs.records import TrialRecord
from eed_search.search.execution.searcher import EedSearcher
from eed_search.search.sampling.study import STUDY_FILE, close_study, open_study
from eed_search.search.sampling.trial_queue import TrialQueue
from tests.search.stub_pipeline import measurement
from tests.waiting import until


def spec_of(**search: Any) -> Spec:
    """Make a small search-space file."""
    return Spec(name="s", threat=Threat(eps=0.1), search=Search(**search))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., tuple[EedSearcher, optuna.Study]]]:
    """Make searchers around studies on the disk, and close the studies."""
    studies = []

    def build(spec: Spec | None = None, **options: Any) -> tuple[EedSearcher, optuna.Study]:
        spec = spec or spec_of(sampler="random")
        study = open_study(tmp_path / STUDY_FILE, "s", spec)
        studies.append(study)
        return EedSearcher(TrialQueue(study, spec, **{"max_concurrent": 100, **options})), study

    yield build
    for study in studies:
        close_study(study)


def done(robust: float = 0.8, latency_ms: float = 0.5, **fields: Any) -> TrialRecord:
    """Make a record of a finished trial."""
    return replace(TrialRecord(0, {}, "done", measurement=measurement(robust, latency_ms)), **fields)


def ended(make: Any, result: dict[str, Any] | None, *, error: bool = False) -> optuna.trial.FrozenTrial:
    """Bring one trial to its end and give what Optuna knows of it."""
    searcher, study = make()
    searcher.suggest("a")
    searcher.on_trial_complete("a", result, error)
    return study.trials[0]


def test_a_finished_trial_is_complete_with_both_values(make: Any) -> None:
    """A finished trial is complete with both values."""
    trial = ended(make, {"record": done(0.8, 0.5)})
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [0.8, 0.5])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1.2, -0.1])
def test_a_bad_accuracy_fails(make: Any, bad: float) -> None:
    """A bad accuracy fails."""
    trial = ended(make, {"record": done(bad)})
    assert (trial.state, trial.values, trial.user_attrs["reason"]) == (TrialState.FAIL, None, "diverged")


def test_an_infinite_latency_fails(make: Any) -> None:
    """An infinite latency fails."""
    made = measurement(0.8, 0.5)
    bad = replace(made, latency=replace(made.latency, latency_ms=replace(made.latency.latency_ms, value=float("inf"))))
    assert ended(make, {"record": done(measurement=bad)}).state == TrialState.FAIL


def test_a_missing_measurement_fails(make: Any) -> None:
    """A missing measurement fails."""
    assert ended(make, {"record": done(measurement=None)}).state == TrialState.FAIL


def test_a_report_of_another_kind_fails(make: Any) -> None:
    """A report of another kind fails."""
    assert ended(make, {"record": {"robust_accuracy": 0.9}}).state == TrialState.FAIL


def test_a_crash_fails(make: Any) -> None:
    """A crash fails."""
    assert ended(make, None, error=True).state == TrialState.FAIL


def test_a_failed_record_fails_with_its_reason(make: Any) -> None:
    """A failed record fails with its reason."""
    trial = ended(make, {"record": TrialRecord(0, {}, "failed", "oom", "out of memory")})
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.FAIL, "oom")


@pytest.mark.parametrize("result", [None, {}, {"done": True, "training_iteration": 3}])
def test_a_stopped_trial_is_pruned_without_values(make: Any, result: dict[str, Any] | None) -> None:
    """A stopped trial is pruned without values."""
    trial = ended(make, result)
    assert (trial.state, trial.values) == (TrialState.PRUNED, None)


def test_a_trial_over_a_limit_is_pruned_with_its_constraints(make: Any) -> None:
    """A trial over a limit is pruned with its constraints."""
    record = done(outcome="infeasible", reason="max_latency_ms", constraints={"max_latency_ms": 0.3, "min_clean": -0.1})
    trial = ended(make, {"record": record})
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {"max_latency_ms": 0.3, "min_clean": -0.1})


def test_a_broken_limit_is_never_complete_even_if_the_trial_says_done(make: Any) -> None:
    """A broken limit is never complete even if the trial says done."""
    assert ended(make, {"record": done(constraints={"max_latency_ms": 0.3})}).state == TrialState.PRUNED


def test_kept_limits_are_told_too(make: Any) -> None:
    """Kept limits are told too."""
    trial = ended(make, {"record": done(constraints={"max_latency_ms": -0.3})})
    assert (trial.state, trial.constraints) == (TrialState.COMPLETE, {"max_latency_ms": -0.3})


def test_a_second_end_is_ignored(make: Any) -> None:
    """A second end is ignored."""
    searcher, study = make()
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"record": done()})
    searcher.on_trial_complete("a", error=True)
    assert study.trials[0].state == TrialState.COMPLETE


def test_closing_leaves_nothing_running(make: Any) -> None:
    """Closing leaves nothing running."""
    searcher, study = make()
    for name in "abc":
        searcher.suggest(name)
    searcher.on_trial_complete("b", {"record": done()})
    searcher._trial_queue.close()
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.COMPLETE, TrialState.PRUNED]


def test_no_more_open_trials_than_allowed(make: Any) -> None:
    """No more open trials than allowed."""
    searcher, _ = make(max_concurrent=2)
    assert searcher.suggest("a") is not None
    assert searcher.suggest("b") is not None
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("c")["number"] == 2


def test_finished_after_all_trials(make: Any) -> None:
    """Finished after all trials."""
    searcher, _ = make(spec_of(sampler="random", trials=2))
    searcher.suggest("a"), searcher.suggest("b")
    searcher.on_trial_complete("a", {"record": done()})
    assert searcher.suggest("c") is None  # b may be lost, and tried again
    searcher.on_trial_complete("b", {"record": done()})
    assert searcher.suggest("c") == Searcher.FINISHED


def test_finished_past_the_deadline(make: Any) -> None:
    """Finished past the deadline."""
    searcher, study = make(deadline=time.monotonic())
    assert searcher.suggest("a") == Searcher.FINISHED
    assert study.trials == []


def test_finished_when_asked_to_stop(make: Any) -> None:
    """Finished when asked to stop."""
    searcher, _ = make(should_stop=lambda: True)
    assert searcher.suggest("a") == Searcher.FINISHED


def test_proposals_are_told_with_what_the_trial_will_get(make: Any) -> None:
    """Proposals are told with what the trial will get."""
    told = []
    searcher, _ = make(on_proposal=lambda number, params, drawn: told.append((number, params)))
    proposal = searcher.suggest("a")
    assert told == [(proposal["number"], proposal["params"])]
    assert TrialParams.from_flat(proposal["params"]).to_flat() == proposal["params"]


def test_first_proposals_come_first(make: Any) -> None:
    """First proposals come first."""
    first = ({"num_members": 1, "member1.score": "nis", "member1.size": 0.25}, {"num_members": 3})
    searcher, _ = make(spec_of(sampler="tpe", first=first))
    proposals = [searcher.suggest(name)["params"] for name in "ab"]
    assert [p["num_members"] for p in proposals] == [1, 3]
    assert (proposals[0]["member1.score"], proposals[0]["member1.size"]) == ("nis", 0.25)


def test_same_seed_same_proposals(tmp_path: Path) -> None:
    """Same seed same proposals."""
    drawn = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        study = open_study(tmp_path / folder / STUDY_FILE, "s", spec_of())
        trial_queue = TrialQueue(study, spec_of(), max_concurrent=9)
        drawn.append([trial_queue.propose() for _ in range(5)])
        close_study(study)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    "sampler",
    [pytest.param(one, marks=pytest.mark.whole) if one == "gp" else one for one in sorted(BUILT_IN["sampler"])],
)
def test_every_sampler_lives_with_every_end(make: Any, sampler: str) -> None:
    """Conditional parameters and a mix of ends, well past the random start."""
    searcher, study = make(spec_of(sampler=sampler, startup_trials=4, trials=14), max_concurrent=2)
    ends: list[tuple[dict[str, Any] | None, bool]] = [
        ({"record": done(0.7, 0.3, constraints={"size": -1.0})}, False),
        ({"record": done(0.8, 0.9, constraints={"size": -2.0})}, False),
        (None, False),
        (None, True),
        ({"record": done(float("nan"))}, False),
        ({"record": done(0.9, 0.4, constraints={"size": 3.0})}, False),
        ({"record": done(0.75, 0.4, constraints={"size": -3.0})}, False),
    ]
    for i in range(14):
        assert isinstance(searcher.suggest(str(i)), dict)
        searcher.on_trial_complete(str(i), *ends[i % len(ends)])
    assert searcher.suggest("end") == Searcher.FINISHED
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


def test_the_pickle_holds_no_study(make: Any) -> None:
    """The pickle holds no study."""
    searcher, _ = make()
    searcher.suggest("a")
    copy = pickle.loads(pickle.dumps(searcher))
    assert copy._trial_queue is None


def test_a_driver_that_settles_tells_the_study_itself(make: Any) -> None:
    """The searcher only passes on what Ray says."""
    searcher, study = make()
    settled: list[Any] = []
    driven = EedSearcher(searcher._trial_queue, lambda *what: settled.append(what))
    driven.suggest("a")
    driven.on_trial_complete("a", {"record": done()})
    driven.on_trial_complete("a", error=True)
    assert [(number, error) for number, _, error in settled] == [(0, False)]
    assert study.trials[0].state == TrialState.RUNNING


def test_the_study_opens_by_its_address_alone(make: Any, tmp_path: Path) -> None:
    """As optuna-dashboard opens it."""
    searcher, _ = make()
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"record": done(0.8, 0.5)})
    until((tmp_path / STUDY_FILE).exists)  # it follows in the background
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / STUDY_FILE}")
    try:
        until(lambda: study.best_trials)
        assert study.metric_names == ["robust_accuracy", "latency_ms"]
        assert study.best_trials[0].values == [0.8, 0.5]
    finally:
        close_study(study)
