"""Image racing in whole searches: whom a trial is held against, what becomes of it, and that the ledger alone decides."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from eed_search.config.spec import Baselines, Search, Spec, Threat
from eed_search.evaluation.sequential_test import DOMINATED, Incumbent, beaten_by, interim_sizes
from eed_search.frontier.points import frontier, points
from eed_search.runs.ledger import FILE_NAME, Event, Ledger, RunView, fold, read_run
from eed_search.runs.records import EarlyStop, Interval, RobustAccuracy, RungResult, TrialRecord, pack_bits
from eed_search.search import LocalWorkers, Silent
from eed_search.search.driver import run
from eed_search.search.racing import incumbents
from eed_search.search.racing.rung_scheduler import RUNGS, RungScheduler
from eed_search.search.resume import resume
from eed_search.search.sampling.portfolio import Portfolio
from eed_search.search.sampling.study import EXPECTED, STUDY_FILE, close_study, own_trials
from tests.runs.ledgers import cut
from tests.search import stub_pipeline
from tests.tracking.factories import make_measurement, make_trial

pytestmark = [  # MLflow and what it brings leave connections to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NUM_TRIALS, NUM_IMAGES = 16, 640
ORDER = np.random.default_rng(3).permutation(NUM_IMAGES)


def right_of(robust: float) -> np.ndarray:
    """The easiest images, in the one order that all trials see."""
    return np.asarray(NUM_IMAGES * robust > ORDER)


def run_in_looks(
    number: int,
    params: Any,
    setting: Any,
    probe: Any,
    report: Any,
    rung: int | None = None,
    incumbents: Sequence[Incumbent] = (),
) -> TrialRecord | RungResult:
    """The stub's trial, of which teams are 20 points weaker, attacked in looks."""
    found = stub_pipeline.run(number, params, setting, probe, report, rung)
    if isinstance(found, RungResult) or found.measurement is None:
        return found
    robust = 0.5 + 0.3 * max(m.size for m in params.members) - 0.2 * (len(params.members) > 1)
    right, latency, ends = right_of(robust), found.measurement.latency.latency_ms, interim_sizes(NUM_IMAGES)
    for end in ends[:-1]:
        if beaten := beaten_by([latency], [right[:end]], incumbents, ends):
            stop = EarlyStop(end, NUM_IMAGES, beaten, robust, latency)
            return TrialRecord(number, params.to_flat(), "pruned", DOMINATED, stop.message, stop=stop)
    accuracy = RobustAccuracy.of(right, attack="PGD-20", eps=0.15, badge="proxy")
    measured = replace(found.measurement, robust_accuracy=accuracy, robust_hex=pack_bits(right))
    return replace(found, measurement=measured, swept=())


PIPELINE: Any = SimpleNamespace(
    **{name: getattr(stub_pipeline, name) for name in dir(stub_pipeline)} | {"run": run_in_looks}
)


def spec_of(**search: Any) -> Spec:
    first = ({"num_members": 1}, {"num_members": 2})
    return Spec(
        name="s",
        threat=Threat(eps=0.15),
        search=Search(
            **{
                "trials": NUM_TRIALS,
                "startup_trials": 4,
                "sampler": "random",
                "first": first,
                "racing": False,
                **search,
            }
        ),
        baselines=Baselines(sizes=()),
    )


def launch(home: Path, **search: Any) -> RunView:
    return run(spec_of(**search), home=home, name="s", pipeline=PIPELINE, listener=Silent(), workers=LocalWorkers())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished search in which some trials were given up under attack."""
    home = tmp_path_factory.mktemp("finished")
    launch(home)
    return home


def events(folder: Path) -> list[Event]:
    with Ledger(folder / FILE_NAME) as ledger:
        return list(ledger.events())


def test_beaten_trials_say_how_far_they_came_and_who_beat_them(finished: Path) -> None:
    view = read_run(finished / "s")
    given_up = [trial for trial in view.trials.values() if trial.stop]
    assert given_up
    assert len(given_up) < NUM_TRIALS
    for trial in given_up:
        assert (trial.outcome, trial.reason, trial.measurement) == ("pruned", DOMINATED, None)
        assert trial.stop is not None
        assert trial.stop.num_images in interim_sizes(NUM_IMAGES)[:-1]
        assert trial.stop.beaten_by
        assert set(trial.stop.beaten_by) <= set(view.incumbents[trial.number])
        assert f"after {trial.stop.num_images} of {NUM_IMAGES} images" in trial.message


@pytest.mark.whole
def test_who_was_given_up_is_never_on_the_frontier_and_the_frontier_is_the_same(finished: Path, tmp_path: Path) -> None:
    """Against a search without; proposals are random here, so both meet the same ones."""
    raced = read_run(finished / "s")
    plain = launch(tmp_path, image_racing=False)
    given_up = {number for number, trial in raced.trials.items() if trial.stop}
    assert not given_up & {point.trial for point in points(raced, unconfirmed=True)}
    assert plain.incumbents == {}
    assert plain.num_trials()["done"] == NUM_TRIALS
    assert raced.proposals == plain.proposals
    assert [p.id for p in frontier(raced)] == [p.id for p in frontier(plain)]
    for number, trial in raced.trials.items():  # who was not given up is measured as without a race
        assert trial.stop or trial == plain.trials[number]


def test_rivals_follow_from_the_events_before_and_are_fixed_once(finished: Path) -> None:
    view, met = RunView(), []
    for event in events(finished / "s"):
        if event.kind == "rivals":
            assert event.data["points"] == list(incumbents.choose(view, "clean"))
            met.append(event.trial)
        fold(view, event)
    assert met == list(range(NUM_TRIALS))


def test_whom_a_trial_is_held_against() -> None:
    """Finished trials' own points on the frontier; not the dominated, the noisy, the given up."""
    good, behind, noisy = make_measurement(0.8, 1.0), make_measurement(0.7, 2.0), make_measurement(0.9, 1.0)
    noisy = replace(noisy, latency=replace(noisy.latency, noisy=True))
    stop = EarlyStop(10, 100, ("0.0",), 0.9, Interval(0.1, 0.1, 0.1))
    trials = {
        0: make_trial(0, measurement=good),
        1: make_trial(1, measurement=behind),
        2: make_trial(2, measurement=noisy),
        3: TrialRecord(3, {}, "pruned", DOMINATED, stop=stop),
    }
    view = RunView(trials=trials)
    assert incumbents.choose(view, "clean") == ("0.0",)
    (found,) = incumbents.incumbents_of(view, ["0.0"], "clean")
    assert (found.id, found.latency_ms, found.robust_hex) == ("0.0", good.latency.latency_ms, good.robust_hex)


@pytest.mark.parametrize("share", [0.7, pytest.param(0.35, marks=pytest.mark.whole)])
def test_a_search_that_is_cut_anywhere_ends_as_if_it_was_not(finished: Path, tmp_path: Path, share: float) -> None:
    folder = shutil.copytree(finished, tmp_path / "home") / "s"
    cuts = [e.seq for e in events(folder) if e.kind in ("proposal", "attempt", "rivals", "result")]
    last = cuts[int(share * len(cuts))]
    cut(folder, last)
    view = resume(folder, pipeline=PIPELINE, listener=Silent(), workers=LocalWorkers())
    whole = read_run(finished / "s")
    assert view.proposals == whole.proposals
    assert view.incumbents == whole.incumbents
    assert view.trials == whole.trials
    assert [p.id for p in frontier(view)] == [p.id for p in frontier(whole)]


def test_optuna_hears_that_it_was_pruned_and_the_model_what_was_expected(finished: Path) -> None:
    view = read_run(finished / "s")
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{finished / 's' / STUDY_FILE}")
    try:
        for number, trial in enumerate(own_trials(study)):
            stop = view.trials[number].stop
            assert trial.state == (TrialState.PRUNED if stop else TrialState.COMPLETE)
            assert trial.user_attrs.get(EXPECTED) == ([stop.robust_accuracy, stop.latency_ms.value] if stop else None)
        spec = spec_of(sampler="portfolio")
        before = Portfolio(spec).propose(study, 16)
        assert before is not None  # it learns from pruned trials without a value of theirs
    finally:
        close_study(study)


def test_in_a_race_over_rungs_it_teaches_and_dominates_nobody() -> None:
    racing = RungScheduler(3)
    racing.proposed(0)
    before = copy.deepcopy(list(racing.readings()))
    stop = EarlyStop(10, 100, ("7.0",), 0.6, Interval(0.5, 0.5, 0.5))
    racing.ended(TrialRecord(0, {}, "pruned", DOMINATED, stop=stop))
    assert [*racing.readings()] == [*before, (0, len(RUNGS), (-0.6, 0.5))]
    assert racing._race.complete() == []


def test_a_trial_on_its_way_to_a_rung_is_held_against_nobody(tmp_path: Path) -> None:
    """Incumbents are chosen when a trial goes to its end, from what is finished by then."""
    launch(tmp_path, racing=True, trials=4)
    seen: dict[int, str] = {}
    for event in events(tmp_path / "s"):
        if event.kind == "decision" and event.trial is not None:
            seen[event.trial] = f"{event.data['rung']} {event.data['decision']}"
        if event.kind == "rivals" and event.trial is not None:
            assert seen[event.trial] in (f"{len(RUNGS) - 1} continue", f"{len(RUNGS) - 1} resume")
