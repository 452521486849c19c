"""MLflow's runs of a search: what stands in them, and that nothing is doubled or left open."""

import math
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eed_search.core.errors import SpecError, StoreError
from eed_search.frontier.estimate import estimate_frontier
from eed_search.frontier.points import frontier, measurement_of, run_hypervolume
from eed_search.runs.cost import attacked_speedup
from eed_search.runs.events import FreshChecked, to_row
from eed_search.runs.ledger import Event, RunView, fold
from eed_search.runs.records import Accuracy, FreshCheck, RobustAccuracy, ValidationRound, pack_bits, to_json
from eed_search.tracking.mlflow_log import MlflowTracker
from eed_search.tracking.mlflow_store import connect, database_uri
from eed_search.tracking.report import write_report
from eed_search.tracking.summary import summarise
from tests.runs.ledgers import events_of
from tests.tracking.factories import (
    ended,
    make_attack,
    make_latency,
    make_measurement,
    make_spec,
    make_trial,
    make_view,
    right,
)


def track(home: Path, view: RunView, **changes: Any) -> MlflowTracker:
    """Write a whole search as its driver would."""
    tracker = MlflowTracker(make_spec(**changes), home, view.name)
    tracker.start(view)
    deliver(tracker, view)
    return tracker


def deliver(tracker: MlflowTracker, view: RunView) -> None:
    """Bring a view's events to MLflow, one after another."""
    so_far = RunView()
    for event in events_of(view):
        fold(so_far, event)
        tracker.deliver(event, so_far)
    tracker.flush()


def children(tracker: MlflowTracker, query: str = "") -> dict[str, Any]:
    """Find runs of all experiments by their name."""
    client = connect(tracker.uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return {run.info.run_name: run for run in client.search_runs(experiments, query, max_results=1000)}


@pytest.fixture(scope="module")
def view() -> RunView:
    """A finished search."""
    made = make_view()
    first = frontier(made)[0].id
    final = {first: make_latency(0.09, method="cascade")}
    return replace(made, latencies=final, attacks={first: [make_attack(0.7)]}, notes=["a note"])


@pytest.fixture(scope="module")
def finished(view: RunView, tmp_path_factory: pytest.TempPathFactory) -> MlflowTracker:
    """The tracker that wrote it to MLflow, from start to finish."""
    home = tmp_path_factory.mktemp("a home, 100 % of it")
    tracker = track(home, view)
    tracker.finish(view, write_report(summarise(view), home / "digits" / "report")["html"].parent, "finished")
    return tracker


def test_no_run_is_left_running(finished: MlflowTracker) -> None:
    """No run is left running."""
    assert children(finished, "attributes.status = 'RUNNING'") == {}


def test_base_controls_and_trials_are_children(finished: MlflowTracker, view: RunView) -> None:
    """Base baselines and trials are children."""
    found = children(finished, f"tags.`mlflow.parentRunId` = '{finished.parent_run_id}'")
    assert len(found) == 1 + len(view.baselines) + len(view.trials)


def test_children_are_found_by_the_searchs_name_and_settings(finished: MlflowTracker, view: RunView) -> None:
    """Children are found by the search's name and settings."""
    query = "tags.search = 'digits' and tags.kind = 'trial' and tags.`setting.threat.eps` = '0.15'"
    assert len(children(finished, query)) == len(view.trials)
    assert children(finished, query.replace("0.15", "0.3")) == {}


def test_every_setting_stands_in_the_search_and_in_each_child(finished: MlflowTracker) -> None:
    """Every setting stands in the search and in each child."""
    found = children(finished)
    settings = set(found["digits"].data.params)
    assert {"seed", "threat.eps", "joint.attack.method", "search.space.beta.low"} <= settings
    tags = found["dense base"].data.tags
    filled = {key for key, value in found["digits"].data.params.items() if value}
    assert {key.removeprefix("setting.") for key in tags if key.startswith("setting.")} == filled


def test_names_say_number_and_members(finished: MlflowTracker, view: RunView) -> None:
    """Names say number and members."""
    params = view.trials[7].params
    members = [
        f"{params[f'member{i}.score']}-{round(100 * float(params[f'member{i}.size']))}"
        for i in range(1, int(params["num_members"]) + 1)
    ]
    assert " ".join(["007", *members]) in children(finished)


def test_parameters_are_the_trials_own(finished: MlflowTracker, view: RunView) -> None:
    """Parameters are the trial's own."""
    run = children(finished, "tags.point = '7.0'").popitem()[1]
    assert {key: run.data.params[key] for key in view.trials[7].params} == {
        key: str(value) for key, value in view.trials[7].params.items()
    }


def test_absent_members_have_size_zero_so_that_runs_compare(finished: MlflowTracker, view: RunView) -> None:
    """Absent members have size zero so that runs compare."""
    small = next(t for t in view.trials.values() if t.params["num_members"] == 1)
    run = children(finished, f"tags.point = '{small.number}.0'").popitem()[1]
    assert (run.data.params["member3.size"], run.data.params["member3.score"]) == ("0.0", "none")


def test_metrics_carry_their_intervals(finished: MlflowTracker, view: RunView) -> None:
    """Metrics carry their intervals."""
    measured = view.trials[7].measurement
    assert measured
    metrics = children(finished, "tags.point = '7.0'").popitem()[1].data.metrics
    assert metrics["robust_accuracy"] == measured.robust_accuracy.value
    assert metrics["robust_accuracy_low"] == measured.robust_accuracy.low
    assert metrics["latency_ms_high"] == measured.latency.latency_ms.high
    assert metrics["worst_case_speedup"] == measured.latency.worst_case_speedup
    assert metrics["size_bytes"] == measured.size_bytes


def test_outcomes_become_statuses_with_their_reasons(finished: MlflowTracker) -> None:
    """Outcomes become statuses with their reasons."""
    runs = {run.data.tags["trial"]: run for run in children(finished, "tags.kind = 'trial'").values()}
    told = {n: (runs[n].info.status, runs[n].data.tags["outcome"], runs[n].data.tags.get("reason")) for n in "03567"}
    assert told == {
        "0": ("FINISHED", "done", None),
        "3": ("FINISHED", "infeasible", "min_clean_accuracy"),
        "5": ("FAILED", "failed", "diverged"),
        "6": ("KILLED", "pruned", "rung 1"),
        "7": ("FINISHED", "done", None),
    }
    assert runs["5"].data.tags["message"] == "loss is nan"


def test_robust_accuracy_says_what_attacked_it(finished: MlflowTracker) -> None:
    """Robust accuracy says what attacked it."""
    tags = children(finished, "tags.point = '7.0'").popitem()[1].data.tags
    assert (tags["attack"], tags["eps"], tags["badge"]) == ("gated-pgd-20", "0.15", "proxy")


def test_frontier_tags_are_the_frontier(finished: MlflowTracker, view: RunView) -> None:
    """Frontier tags are the frontier."""
    marked = {run.data.tags["point"] for run in children(finished, "tags.frontier = 'yes'").values()}
    assert marked == {point.id for point in estimate_frontier(view).front}
    marked = {run.data.tags["point"] for run in children(finished, "tags.frontier = 'uncertain'").values()}
    assert marked == {point.id for point in estimate_frontier(view).uncertain}
    assert children(finished, "tags.frontier = 'open'") == {}


def test_a_look_is_a_step_of_how_sure_each_contender_is(finished: MlflowTracker, view: RunView) -> None:
    """Checks that help to choose are no figure of a point: MLflow has no place for them."""
    before = children(finished, "tags.point = '7.0'").popitem()[1].data.metrics
    bits = right(0.5)
    robust = RobustAccuracy.of(bits, attack="gated-pgd-20", eps=0.15, badge="proxy")
    kind, check, _ = to_row(FreshChecked("7.0", FreshCheck(Accuracy.of(bits), robust, pack_bits(bits)), 0))
    finished.deliver(Event(998, kind, None, check, 0.0), view)
    for number, sure in enumerate((0.4, 0.9)):
        finished.deliver(
            Event(999 + number, "look", None, to_json(ValidationRound(number, {"7.0": sure}, ("7.0",))), 0.0), view
        )
    finished.flush()
    run = children(finished, "tags.point = '7.0'").popitem()[1]
    assert run.data.metrics == before | {"front_probability": 0.9}
    history = connect(finished.uri).get_metric_history(run.info.run_id, "front_probability")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.4), (1, 0.9)]


def test_final_latency_is_the_one_shown(finished: MlflowTracker, view: RunView) -> None:
    """Final latency is the one shown."""
    point = next(iter(view.latencies))
    run = children(finished, f"tags.point = '{point}'").popitem()[1]
    assert run.data.metrics["latency_ms"] == 0.09
    assert run.data.tags["latency_method"] == "cascade"
    history = connect(finished.uri).get_metric_history(run.info.run_id, "latency_ms")
    assert [metric.step for metric in history] == [0, 1]


def test_what_an_attack_found_stands_under_its_badges_name(finished: MlflowTracker, view: RunView) -> None:
    """Beside the search's own `proxy` figure, which it does not replace; other points have none."""
    for run in children(finished).values():
        attacked = run.data.tags.get("point") in view.attacks
        assert ("checked_robust_accuracy" in run.data.metrics) == attacked
        if attacked:
            assert run.data.metrics["checked_robust_accuracy"] == 0.7
            assert run.data.tags["badge"] == "proxy"
            assert run.data.tags["tier1.badge"] == "checked"


def test_the_attacked_speed_up_stands_beside_the_speed_up(finished: MlflowTracker, view: RunView) -> None:
    """In every run that has one; of a point with a final latency the one that follows from it."""
    by_point = {run.data.tags.get("point"): run.data.metrics for run in children(finished).values()}
    assert all(("speedup" in metrics) == ("attacked_speedup" in metrics) for metrics in by_point.values())
    for number, trial in view.trials.items():
        measured = measurement_of(view, f"{number}.0")
        if trial.outcome == "done" and measured is not None:
            assert by_point[f"{number}.0"]["attacked_speedup"] == pytest.approx(attacked_speedup(measured))


def test_hypervolume_over_time_is_a_metric_of_the_search(finished: MlflowTracker, view: RunView) -> None:
    """Hypervolume over time is a metric of the search."""
    history = connect(finished.uri).get_metric_history(finished.parent_run_id, "hypervolume")
    assert {metric.step for metric in history} == set(range(1, len(view.trials) + 1))
    assert children(finished)["digits"].data.metrics["hypervolume"] == run_hypervolume(view)


def test_report_is_attached_to_the_search(finished: MlflowTracker) -> None:
    """Report is attached to the search."""
    listed = connect(finished.uri).list_artifacts(finished.parent_run_id, "report")
    assert {file.path for file in listed} == {
        "report/frontier.csv",
        "report/frontier.html",
        "report/frontier.json",
    }


def test_everything_lies_under_the_home(finished: MlflowTracker) -> None:
    """Everything lies under the home."""
    home = Path(finished.uri.removeprefix("sqlite:///")).parent
    assert finished.uri == database_uri(home)
    assert list((home / "mlartifacts").rglob("frontier.html"))


def test_verdict_and_notes_are_the_description(finished: MlflowTracker) -> None:
    """Verdict and notes are the description."""
    text = children(finished)["digits"].data.tags["mlflow.note.content"]
    assert "not compared with the baselines yet" in text
    assert "a note" in text


def test_finishing_twice_doubles_nothing(tmp_path: Path) -> None:
    """Finishing twice doubles nothing."""
    view = make_view(3)
    tracker = track(tmp_path, view)
    tracker.finish(view, None, "finished")
    deliver(tracker, view)
    tracker.finish(view, None, "finished")
    assert len(children(tracker)) == 1 + 3 + 3
    run = children(tracker, "tags.point = '0.0'").popitem()[1]
    assert len(connect(tracker.uri).get_metric_history(run.info.run_id, "robust_accuracy")) == 1


def test_not_a_number_is_never_logged(tmp_path: Path) -> None:
    """Not a number is never logged."""
    view = make_view(0)
    odd = make_trial(
        0, measurement=make_measurement(0.8, 0.2, mean_members_run=math.nan), seconds=math.inf, robust_diversity=None
    )
    tracker = track(tmp_path, view)
    tracker.deliver(ended(make_trial(0)), replace(view, trials={0: odd}))
    tracker.flush()
    metrics = children(tracker, "tags.kind = 'trial'").popitem()[1].data.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert not {"mean_members_run", "seconds", "robust_diversity"} & set(metrics)
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        assert db.execute("select count(*) from metrics where is_nan").fetchone() == (0,)
    db.close()


def test_a_resumed_search_continues_its_run(tmp_path: Path) -> None:
    """What is there is found by the search's uid, even if its driver died before it could say a run's id."""
    view = make_view(4, uid="digits-abc")
    first = MlflowTracker(make_spec(), tmp_path, view.name, view.uid)
    facts = first.start(view)
    assert not first.taken_up
    first.deliver(ended(view.trials[0]), replace(view, trials={0: view.trials[0]}))
    first.flush()
    resumed = MlflowTracker(make_spec(), tmp_path, view.name, view.uid)
    assert resumed.start(view) == facts
    assert resumed.taken_up
    deliver(resumed, view)
    resumed.finish(view, None, "finished")
    assert len(children(resumed, "tags.kind = 'search'")) == 1
    assert len(children(resumed, "tags.point = '0.0'")) == 1
    assert len(children(resumed, "tags.kind = 'trial'")) == 4
    assert children(resumed, "attributes.status = 'RUNNING'") == {}


def test_a_search_of_the_same_name_elsewhere_is_another_one(tmp_path: Path) -> None:
    """Two homes may share a server: the uid tells them apart."""
    for uid in ("digits-a", "digits-b"):
        tracker = MlflowTracker(make_spec(), tmp_path, "digits", uid)
        tracker.start(make_view(0, uid=uid))
        assert not tracker.taken_up
    runs = connect(tracker.uri).search_runs([tracker.start(make_view(0))["experiment_id"]])
    assert len(runs) == 2


def test_a_trial_that_was_stopped_is_replaced_by_its_second_end(tmp_path: Path) -> None:
    """A stop closes its run as KILLED; after the resume the same run holds the result."""
    stopped = make_trial(0, outcome="pruned", reason="stopped", measurement=None)
    view = make_view(0, trials={0: stopped}, state="stopped")
    track(tmp_path, view).finish(view, None, "stopped")
    again = make_view(1)
    tracker = track(tmp_path, again)
    tracker.finish(again, None, "finished")
    found = children(tracker, "tags.kind = 'trial'")
    assert [(run.info.status, run.data.tags["outcome"], run.data.tags["reason"]) for run in found.values()] == [
        ("FINISHED", "done", "")
    ]


def test_a_call_that_was_heard_but_not_answered_doubles_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """The server made the run, the answer was lost: the next try finds it."""
    view = make_view(1)
    tracker = MlflowTracker(make_spec(), tmp_path, view.name)
    tracker.start(view)
    assert tracker._store is not None
    client = tracker._store.client
    create = client.create_run

    def unanswered(*arguments: Any, **options: Any) -> None:
        create(*arguments, **options)
        raise TimeoutError("no answer")

    tracker.deliver(ended(view.trials[0]), view)
    with monkeypatch.context() as patch:
        patch.setattr(client, "create_run", unanswered)
        with pytest.raises(TimeoutError):
            tracker.flush()
    tracker.flush()
    assert len(children(tracker, "tags.kind = 'trial'")) == 1


def test_the_database_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    """Whoever is killed while MLflow makes its tables leaves no mlflow.db, and the next one makes it."""
    from mlflow.store.tracking import sqlalchemy_store

    def killed(*arguments: Any) -> None:
        (tmp_path / ".mlflow-for-digits.db").write_bytes(b"half made")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy_store, "SqlAlchemyStore", killed)
        with pytest.raises(KeyboardInterrupt):
            MlflowTracker(make_spec(), tmp_path, "digits").start(make_view(0))
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / ".mlflow-for-digits.db").write_bytes(b"left by a kill")
    (tmp_path / "mlflow.db-wal").write_bytes(b"left by a database that was moved away")
    tracker = MlflowTracker(make_spec(), tmp_path, "digits")
    tracker.start(make_view(0))
    tracker.close()
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlartifacts"}


def test_a_child_left_half_written_is_closed(tmp_path: Path) -> None:
    """A child left half written is closed."""
    view = make_view(1)
    tracker = track(tmp_path, view)
    client = connect(tracker.uri)
    experiment = client.get_run(tracker.parent_run_id).info.experiment_id
    client.create_run(experiment, tags={"mlflow.parentRunId": tracker.parent_run_id}, run_name="half")
    tracker.finish(view, None, "stopped")
    found = children(tracker)
    assert (found["half"].info.status, found["digits"].info.status) == ("KILLED", "KILLED")
    assert found["digits"].data.tags["state"] == "stopped"


@pytest.mark.parametrize("uri", ["mlruns", "http://127.0.0.1:1", "nonsense://x", "sqlite:////dev/null/m.db"])
def test_a_wrong_uri_is_one_clear_error_at_the_start(tmp_path: Path, uri: str, monkeypatch: Any) -> None:
    """A wrong URI is one clear error at the start."""
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker(make_spec(tracking={"uri": uri}), tmp_path, "digits")
    with pytest.raises(SpecError, match=r"tracking.uri: .*cannot be used") as caught:
        tracker.start(make_view(0))
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


def test_a_home_whose_database_is_none_is_one_clear_error(tmp_path: Path) -> None:
    """A home whose database is none is one clear error."""
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look like one " * 20)
    with pytest.raises(StoreError, match=r"mlflow.db: MLflow's database cannot be used"):
        MlflowTracker(make_spec(), tmp_path, "digits").start(make_view(0))
