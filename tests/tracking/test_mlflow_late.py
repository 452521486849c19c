"""One run for each trial, whenever MLflow hears of it: a server that is frozen, and calls that arrive late."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eed_search.runs.ledger import FILE_NAME, RunView
from eed_search.tracking import server
from eed_search.tracking.mlflow_log import MlflowTracker
from eed_search.tracking.mlflow_store import connect, database_uri
from eed_search.tracking.outbox import Outbox
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import ended, make_spec, make_view
from tests.tracking.late import Late, late
from tests.waiting import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(900)]  # an MLflow server


@dataclass
class Served:
    """A real server of MLflow's."""

    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start one."""
    folder = tmp_path_factory.mktemp("server")
    port = server.free_port(0, "a test")
    url = f"http://{server.HOST}:{port}"
    with (folder / "log").open("w+b") as log:
        process = server.start(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), folder, port, log)
        try:
            server.wait_until_ready(process, url, log)
            yield Served(url, process)
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            server.stop(process)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gives up after two seconds; a call that is slower for other reasons is made again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr("eed_search.tracking.mlflow_runs._LATE_S", 0.5)


def tracker_of(view: RunView, home: Path, url: str) -> MlflowTracker:
    """A tracker on a server; the search's name is its experiment."""
    spec = make_spec(tracking={"uri": url, "experiment": view.uid})
    tracker = MlflowTracker(spec, home, view.name, view.uid)
    tracker.start(view)
    return tracker


def runs_of(url: str, view: RunView) -> list[Any]:
    """What MLflow shows of a search."""
    client = connect(url)
    experiment = client.get_experiment_by_name(view.uid)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def points_of(runs: list[Any]) -> Counter[str]:
    """How often each point is shown."""
    return Counter(run.data.tags.get("point", "the search") for run in runs)


def shown_once(view: RunView) -> Counter[str]:
    """How often each ought to be."""
    names = [view.base.name] if view.base else []
    return Counter(["the search", *names, *(c.name for c in view.baselines), *(f"{n}.0" for n in view.trials)])


def whole(url: str, view: RunView) -> None:
    """Check that every run is there, once, ended as its trial did, and filled."""
    runs = runs_of(url, view)
    assert points_of(runs) == shown_once(view)
    ends = {"done": "FINISHED", "infeasible": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
    for run in runs:
        number = run.data.tags.get("trial")
        assert run.info.status == (ends[view.trials[int(number)].outcome] if number else "FINISHED")
        assert run.data.params
        assert "seconds" in run.data.metrics or not run.data.tags.get("point")


def test_a_server_that_is_frozen_for_a_while_shows_each_trial_once(
    served: Served, tmp_path: Path, impatient: None
) -> None:
    """Stopped in the middle of delivery, for longer than a call and its repetitions last."""
    view = make_view(4, uid="frozen")
    folder = write_ledger(tmp_path / "digits", view)
    tracker = tracker_of(view, tmp_path, served.url)
    os.killpg(served.process.pid, signal.SIGSTOP)
    outbox = Outbox(folder / FILE_NAME, tracker)
    outbox.wake()
    until(lambda: outbox.num_failures >= 2)
    os.killpg(served.process.pid, signal.SIGCONT)
    assert outbox.finish(view, None, "finished", patience_s=600)
    whole(served.url, view)


def kept_back(proxy: Late, tracker: MlflowTracker, view: RunView) -> None:
    """Deliver trial 0 twice: the first time its making is kept back, and given up by the client."""
    tracker.deliver(ended(view.trials[0]), view)
    proxy.holding = True
    with pytest.raises(Exception, match="imed out"):
        tracker.flush()
    assert len(proxy.held) == 1
    proxy.holding = False
    until(lambda: _flushes(tracker))


def _flushes(tracker: MlflowTracker) -> bool:
    try:
        tracker.flush()
    except Exception:
        return False
    return True


def _finishes(tracker: MlflowTracker, view: RunView) -> bool:
    try:
        tracker.finish(view, None, "finished")
    except Exception:
        return False
    return True


def test_a_run_that_is_made_late_is_removed_in_the_end(served: Served, tmp_path: Path, impatient: None) -> None:
    """After the client gave up, looked, found nothing and made another one."""
    view = make_view(2, uid="late")
    with late(served.url) as proxy:
        tracker = tracker_of(view, tmp_path, proxy.url)
        kept_back(proxy, tracker, view)
        proxy.let_go()
        assert points_of(runs_of(served.url, view))["0.0"] == 2
        until(lambda: _finishes(tracker, view))
    whole(served.url, view)


def test_a_run_that_is_made_after_the_end_is_removed_by_the_next_driver(
    served: Served, tmp_path: Path, impatient: None
) -> None:
    view = make_view(2, uid="later")
    with late(served.url) as proxy:
        tracker = tracker_of(view, tmp_path, proxy.url)
        kept_back(proxy, tracker, view)
        until(lambda: _finishes(tracker, view))
        proxy.let_go()
        assert points_of(runs_of(served.url, view))["0.0"] == 2
        tracker = tracker_of(view, tmp_path, proxy.url)
        until(lambda: _finishes(tracker, view))
    whole(served.url, view)


def test_a_search_that_was_made_twice_is_one_afterwards(served: Served, tmp_path: Path, impatient: None) -> None:
    """Its first making was heard after the launch had failed: the run that the ledger knows stays."""
    view = make_view(2, uid="twice")
    tracker = tracker_of(view, tmp_path, served.url)
    view.tracker = {"parent_run_id": tracker.parent_run_id}
    client = connect(served.url)
    first = client.get_run(tracker.parent_run_id)
    client.create_run(
        first.info.experiment_id, start_time=1, tags={"kind": "search", "search_uid": view.uid}, run_name="digits"
    )
    again = tracker_of(view, tmp_path, served.url)
    assert again.parent_run_id == tracker.parent_run_id
    until(lambda: _finishes(again, view))
    whole(served.url, view)


def test_the_better_filled_one_of_doubles_stays(tmp_path: Path) -> None:
    """Doubles that an earlier version left, one of them KILLED and empty; whichever was made first."""
    view = make_view(3)
    tracker = MlflowTracker(make_spec(), tmp_path, view.name)
    tracker.start(view)
    tracker.finish(view, None, "finished")
    client = connect(database_uri(tmp_path))
    kept = {}
    for run in client.search_runs(["1"], "tags.kind = 'trial'"):
        kept[run.data.tags["point"]] = run.info.run_id
        for status in ("KILLED", "FINISHED", "RUNNING"):
            double = client.create_run("1", tags=run.data.tags)
            if status != "RUNNING":
                client.set_terminated(double.info.run_id, status)
    again = MlflowTracker(make_spec(), tmp_path, view.name)
    again.start(view)
    again.finish(view, None, "finished")
    there = client.search_runs(["1"], "tags.kind = 'trial'")
    assert {run.data.tags["point"]: run.info.run_id for run in there} == kept
    assert len(there) == 3


def test_half_a_run_is_completed_even_if_it_was_closed(tmp_path: Path) -> None:
    """A driver that could not fill a run closed it as KILLED: the trial is done, and so is its run afterwards."""
    view = make_view(1)
    tracker = MlflowTracker(make_spec(), tmp_path, view.name)
    tracker.start(view)
    tags = {"mlflow.parentRunId": tracker.parent_run_id, "search_uid": view.name, "point": "0.0", "outcome": "done"}
    client = connect(tracker.uri)
    half = client.create_run(client.get_run(tracker.parent_run_id).info.experiment_id, tags=tags)
    client.set_terminated(half.info.run_id, "KILLED")
    again = MlflowTracker(make_spec(), tmp_path, view.name)
    again.start(view)
    again.finish(view, None, "finished")
    done = client.get_run(half.info.run_id)
    assert (done.info.status, done.data.metrics["seconds"]) == ("FINISHED", view.trials[0].seconds)
