"""What the searcher proposes, and that it tells Optuna the truth."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray import cloudpickle
from ray.tune.search import Searcher

from benchmarks.simulator import simulate
from eed_search.config.registry import BUILT_IN
from eed_search.core.errors import SpecError
from eed_search.search.sampling.surrogate import Observation
from eed_search.tune import ParetoRacing, StudySearcher
from tests.cli.calling import python

METRICS = {"accuracy": "max", "cost": "min"}
LEVELS = (1, 3, 9)


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0.0, 1.0), "n": trial.suggest_int("n", 1, 8)}


def learn(config: dict[str, Any]) -> Any:
    for before, epoch in ((0, 1), (1, 3), (3, 9)):
        accuracy = (1 - abs(config["x"] - 0.3)) * (config["n"] / 8) ** 0.3 * (1 - 0.5 / epoch)
        yield float(epoch - before), {"accuracy": accuracy, "cost": float(config["n"]), "epoch": epoch}


def searcher(**options: Any) -> tuple[StudySearcher, optuna.Study]:
    study = optuna.create_study(directions=["maximize", "minimize"])
    fixed = {"resource": "epoch", "levels": LEVELS, "sampler": "random", "study": study}
    return StudySearcher(space, METRICS, **(fixed | options)), study  # type: ignore[arg-type]


def report(epoch: int, **changes: Any) -> dict[str, Any]:
    return {"accuracy": 0.5, "cost": 2.0, "epoch": epoch} | changes


def test_everything_wrong_with_the_arguments_is_said_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        StudySearcher(
            space,
            {"a": "up", "b": "max", "c": "max", "d": "min", "e": "min"},  # type: ignore[dict-item]
            sampler="tpee",
            seed=-1,
            num_trials=0,
            max_concurrent=0,
            startup=-1,
            known=lambda config: {"latency": 1.0},
            limits={"f": 1.0, "b": float("nan")},
            resource="a",
            levels=(3, 1),
            study=optuna.create_study(directions=["minimize", "minimize"]),
        )
    text = str(caught.value)
    for told in (
        "metrics: 5 given (a, b, c, d, e); two to four are allowed",
        "metrics.a: direction 'up' is not allowed; take 'max' or 'min'",
        "sampler: 'tpee' is unknown; allowed: gp, nsga2, portfolio, qmc, random, tpe",
        "seed: -1 is no whole number from 0 on",
        "num_trials: 0 is no whole number from 1 on",
        "max_concurrent: 0 is no whole number from 1 on",
        "startup: -1 is no whole number from 0 on",
        "known.latency: no such metric; allowed: a, b, c, d, e",
        "limits.f: no such metric",
        "limits.b: nan is no finite number",
        "resource: a is a metric too",
        "levels: [3, 1] must be one or more finite numbers",
        "study: directions minimize, minimize; the metrics a, b, c, d, e need",
    ):
        assert told in text


def test_levels_without_a_resource_are_refused() -> None:
    with pytest.raises(SpecError, match="name the resource that says how far a trial is"):
        searcher(resource=None)


def test_a_complete_trial_is_told_with_its_values() -> None:
    one, study = searcher()
    one.suggest("a")
    one.on_trial_complete("a", report(9))
    assert study.trials[0].state == TrialState.COMPLETE
    assert study.trials[0].values == [0.5, 2.0]


@pytest.mark.parametrize("result", [None, report(3)])
def test_a_trial_stopped_before_its_end_is_pruned(result: dict[str, Any] | None) -> None:
    one, study = searcher()
    one.suggest("a")
    one.on_trial_complete("a", result)
    assert study.trials[0].state == TrialState.PRUNED


@pytest.mark.parametrize("bad", [{"accuracy": float("nan")}, {"cost": None}, {"cost": float("inf")}])
def test_a_metric_that_is_no_number_is_a_failure(bad: dict[str, Any]) -> None:
    one, study = searcher()
    one.suggest("a")
    one.on_trial_complete("a", report(9, **bad))
    assert study.trials[0].state == TrialState.FAIL


def test_a_crash_is_a_failure_and_a_second_end_is_ignored() -> None:
    one, study = searcher()
    one.suggest("a")
    one.on_trial_complete("a", error=True)
    one.on_trial_complete("a", report(9))
    assert study.trials[0].state == TrialState.FAIL


def test_over_a_limit_is_pruned_with_the_excess() -> None:
    one, study = searcher(limits={"cost": 1.5})
    one.suggest("a")
    one.on_trial_complete("a", report(9))
    assert study.trials[0].state == TrialState.PRUNED
    assert list(study.trials[0].constraints.values()) == [0.5]


def test_of_a_trial_stopped_early_only_what_is_final_is_told_as_an_excess() -> None:
    """Accuracy may still grow; the cost is known before the trial runs."""
    one, study = searcher(limits={"cost": 1.5, "accuracy": 0.9}, known=lambda c: {"cost": c["n"]})
    one.suggest("a")
    one.on_trial_complete("a", report(1))
    assert study.trials[0].state == TrialState.PRUNED
    assert list(study.trials[0].constraints.values()) == [0.5]


def test_the_first_report_at_a_level_or_past_it_is_the_one_to_learn_from() -> None:
    """Epoch 20 is past the second level as epoch 9 was, whatever others have reported meanwhile."""
    one, _ = searcher(levels=(3, 9, 27))
    for trial in "abcdefghijkl":
        one.suggest(trial)
    for epoch in range(1, 28):
        for trial in "abcdefghijkl":
            one.on_trial_result(trial, report(epoch, accuracy=epoch / 100))
    learnt = [(o.trial, o.level, -o.values[0]) for o in one._observations]
    assert learnt == [(n, k, epoch / 100) for k, epoch in enumerate((3, 9, 27)) for n in range(12)]


def test_a_report_at_a_lower_level_than_before_teaches_nothing() -> None:
    """A trial that failed goes on from its last checkpoint and says again what it said."""
    one, _ = searcher()
    one.suggest("a")
    for epoch in (1, 3, 1, 3):
        one.on_trial_result("a", report(epoch))
    assert [o.level for o in one._observations] == [0, 1]


def test_it_ends_after_its_trials_and_waits_while_enough_run() -> None:
    one, _ = searcher(num_trials=3, max_concurrent=2)
    assert isinstance(one.suggest("a"), dict)
    assert isinstance(one.suggest("b"), dict)
    assert one.suggest("c") is None
    one.on_trial_complete("a", report(9))
    assert isinstance(one.suggest("c"), dict)
    one.on_trial_complete("b", report(9))
    assert one.suggest("d") == Searcher.FINISHED


def _cut_off_and_restored(one: StudySearcher, tmp_path: Path, before: bytes) -> StudySearcher:
    one.save(str(tmp_path / "state"))
    again: StudySearcher = cloudpickle.loads(before)  # as Ray does: what it was before the search began
    again.restore(str(tmp_path / "state"))
    return again


def test_a_restored_searcher_knows_its_trials_and_their_reports(tmp_path: Path) -> None:
    """With a study in memory, which was pickled empty."""
    one, _ = searcher(sampler="portfolio", startup=3, num_trials=8)
    before = cloudpickle.dumps(one)
    for number in range(5):
        one.suggest(f"{number}")
        one.on_trial_result(f"{number}", report(1, accuracy=number / 10))
    one.on_trial_complete("0", report(9))
    one.on_trial_complete("1", report(3))
    again = _cut_off_and_restored(one, tmp_path, before)
    for either in (one, again):
        either.on_trial_complete("2", report(9, accuracy=0.7))
    assert [again.suggest(f"{n}") for n in range(5, 9)] == [one.suggest(f"{n}") for n in range(5, 9)]
    assert [(t.number, t.state, t.values) for t in again._study.trials] == [
        (t.number, t.state, t.values) for t in one._study.trials
    ]


def test_trials_that_ray_lost_become_failures_and_those_of_others_stay(tmp_path: Path) -> None:
    """After the last write one trial was proposed and another told; the study is shared and stored."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="one", directions=["maximize", "minimize"])
    one, _ = searcher(study=study)
    before = cloudpickle.dumps(one)
    one.suggest("known")
    one.suggest("told")
    one.save(str(tmp_path / "state"))
    one.on_trial_complete("told", report(9))
    one.suggest("lost")
    study.ask()  # somebody else's
    again: StudySearcher = cloudpickle.loads(before)
    again.restore(str(tmp_path / "state"))
    again.on_trial_complete("told", report(9, accuracy=0.9))
    again.on_trial_complete("known", report(9, accuracy=0.6))
    trials = optuna.load_study(storage=storage, study_name="one").trials
    assert [(t.state.name, t.values) for t in trials] == [
        ("COMPLETE", [0.6, 2.0]),
        ("COMPLETE", [0.5, 2.0]),
        ("FAIL", None),
        ("RUNNING", None),
    ]


@pytest.mark.parametrize("name", sorted(set(BUILT_IN["sampler"]) - {"gp"}))  # GP takes seconds; it is tried by hand
def test_every_sampler_comes_to_the_end_of_a_race(name: str) -> None:
    scheduler = ParetoRacing(METRICS, resource="epoch", levels=LEVELS)  # type: ignore[arg-type]
    one, study = searcher(
        sampler=name, num_trials=24, max_concurrent=3, startup=6, scheduler=scheduler, known=lambda c: {"cost": c["n"]}
    )
    found = simulate(one, scheduler, learn, workers=3)
    assert found.end == "finished"
    states = [trial.state for trial in study.trials]
    assert len(states) == 24
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.whole
def test_the_portfolio_finds_a_better_frontier_than_chance() -> None:
    def volume(sampler: str, seed: int) -> float:
        scheduler = ParetoRacing(METRICS, resource="epoch", levels=LEVELS)  # type: ignore[arg-type]
        one, _ = searcher(
            sampler=sampler, seed=seed, max_concurrent=2, scheduler=scheduler, known=lambda c: {"cost": c["n"]}
        )
        found = simulate(one, scheduler, learn, workers=2, max_time=90)
        best = dict.fromkeys(range(1, 9), 0.0)
        for one_report in found.reports:
            n = int(one_report.result["cost"])
            best[n] = max(best[n], one_report.result["accuracy"])
        return sum(best.values())

    assert sum(volume("portfolio", s) for s in range(3)) > sum(volume("random", s) for s in range(3))


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It names modules as they were called then."""
    now = pickle.dumps((StudySearcher, Observation(3, {"x": 1.0}, 0, (0.5,))), protocol=0)
    then = now.replace(b"eed_search.tune.study_searcher", b"eed_search.search.study_searcher")
    then = then.replace(b"eed_search.search.sampling.surrogate", b"eed_search.search.model")
    assert then != now
    done = python(f"import pickle; from eed_search.tune import StudySearcher; print(pickle.loads({then!r}))")
    assert done.returncode == 0, done.stderr
    assert "Observation(trial=3, params={'x': 1.0}" in done.stdout
