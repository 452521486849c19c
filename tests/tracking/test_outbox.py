"""The outbox: whatever MLflow does, the search goes on, and in the end everything has arrived."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from eed_search.runs.ledger import FILE_NAME, Ledger, RunView
from eed_search.tracking.mlflow_log import MlflowTracker
from eed_search.tracking.mlflow_store import connect
from eed_search.tracking.outbox import Outbox
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_spec, make_view
from tests.waiting import until


def started(home: Path, view: RunView) -> MlflowTracker:
    """A tracker that is ready."""
    tracker = MlflowTracker(make_spec(), home, view.name, view.uid)
    tracker.start(view)
    return tracker


def names(tracker: MlflowTracker, query: str = "tags.kind = 'trial'") -> list[str]:
    """Name the runs that MLflow holds."""
    client = connect(tracker.uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return sorted(run.data.tags["point"] for run in client.search_runs(experiments, query))


def test_events_arrive_without_being_waited_for(tmp_path: Path) -> None:
    """The cursor ends at the last event; the runs are closed by `finish`."""
    view = make_view(2)
    folder = write_ledger(tmp_path / "digits", view)
    tracker = started(tmp_path, view)
    outbox = Outbox(folder / FILE_NAME, tracker)
    outbox.wake()
    with Ledger(folder / FILE_NAME) as ledger:
        last = len(list(ledger.events()))
    until(lambda: outbox.cursor == last)
    assert names(tracker) == ["0.0", "1.0"]
    assert outbox.finish(view, None, "finished")
    assert names(tracker, "attributes.status = 'RUNNING'") == []


def test_what_was_delivered_before_is_not_delivered_again(tmp_path: Path) -> None:
    """Delivery goes on behind the cursor; only the end looks at everything."""
    view = make_view(2)
    folder = write_ledger(tmp_path / "digits", view)
    delivered: list[int] = []
    tracker = started(tmp_path, view)
    tracker.deliver = lambda event, view: delivered.append(event.seq)  # type: ignore[method-assign]
    outbox = Outbox(folder / FILE_NAME, tracker, cursor=5)
    outbox.wake()
    until(lambda: delivered and delivered[-1] == outbox.cursor)
    outbox.stop()
    assert delivered[0] == 6


@pytest.mark.whole
def test_a_failing_mlflow_is_noted_once_and_gets_everything_later(tmp_path: Path) -> None:
    """MLflow's tables vanish in the middle: the search is not held up, and nothing is lost."""
    view = make_view(3)
    folder = write_ledger(tmp_path / "digits", view)
    tracker = started(tmp_path, view)
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        db.execute("alter table runs rename to lost")
    outbox = Outbox(folder / FILE_NAME, tracker)
    outbox.wake()
    until(lambda: outbox.num_failures >= 2)
    notes = [outbox.take_note(), outbox.take_note()]
    assert "could not be written" in notes[0]
    assert notes[1] == ""
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        db.execute("alter table lost rename to runs")
    db.close()
    assert outbox.finish(view, None, "finished")
    assert names(tracker) == ["0.0", "1.0", "2.0"]
    assert names(tracker, "attributes.status = 'RUNNING'") == []


def test_a_frozen_mlflow_is_given_up_in_the_end(tmp_path: Path) -> None:
    """A call that never comes back does not hold the search's end for ever: else this would last for an hour."""
    view = make_view(1)
    folder = write_ledger(tmp_path / "digits", view)
    tracker = started(tmp_path, view)
    tracker.deliver = lambda event, view: time.sleep(3600)  # type: ignore[method-assign]
    outbox = Outbox(folder / FILE_NAME, tracker)
    outbox.wake()
    assert not outbox.finish(view, None, "finished", patience_s=0.5)
    assert outbox.cursor == 0


def test_an_end_that_waits_tries_again_and_again(tmp_path: Path) -> None:
    """While the search runs pauses grow; at its end a server that comes back must be noticed within the patience."""
    pauses: list[float] = []

    class News(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return super().wait(0.001 if timeout else None)

    view = make_view(1)
    folder = write_ledger(tmp_path / "digits", view)
    tracker = started(tmp_path, view)
    away = mock.patch.object(tracker, "flush", side_effect=ConnectionError("away"))
    away.start()
    outbox = Outbox(folder / FILE_NAME, tracker)
    before, outbox._news = outbox._news, News()
    before.set()  # it may be waiting there already
    outbox.wake()
    until(lambda: outbox.num_failures > 8)
    assert max(pauses) == 60.0
    end = threading.Thread(target=lambda: ended.append(outbox.finish(view, None, "finished")))
    ended: list[bool] = []
    end.start()
    until(lambda: outbox._close is not None)
    failed = outbox.num_failures
    until(lambda: outbox.num_failures > failed + 3)
    assert pauses[-1] <= 2.0
    away.stop()
    end.join()
    assert ended == [True]


@pytest.mark.parametrize("state", ["stopped", "failed", "cancelled"])
def test_every_end_closes_the_runs(tmp_path: Path, state: Any) -> None:
    """However a search ends, MLflow shows no run as RUNNING."""
    view = make_view(1)
    folder = write_ledger(tmp_path / "digits", view)
    tracker = started(tmp_path, view)
    assert Outbox(folder / FILE_NAME, tracker).finish(view, None, state)
    assert names(tracker, "attributes.status = 'RUNNING'") == []
    parent = connect(tracker.uri).get_run(tracker.parent_run_id)
    assert parent.data.tags["state"] == state


def test_a_full_disk_is_not_waited_for(tmp_path: Path) -> None:
    """The report's copy meets a real one: what else there is has arrived, and nobody waits for room that nobody makes."""
    view = make_view(1)
    folder = write_ledger(tmp_path / "digits", view)
    tracker = started(tmp_path, view)
    attach = tracker._attach
    tracker._attach = lambda folder: Path("/dev/full").write_text("x" * 100_000, encoding="utf-8")  # type: ignore[method-assign, assignment, return-value]
    outbox = Outbox(folder / FILE_NAME, tracker)
    said: list[str] = []
    assert not outbox.finish(view, None, "finished", patience_s=200, say=said.append)
    assert outbox.is_full
    assert (outbox.num_failures, said) == (1, [])
    assert "No space left on device" in outbox.take_note()
    assert names(tracker) == ["0.0"]
    assert names(tracker, "attributes.status = 'RUNNING'") == []
    tracker._attach = attach  # type: ignore[method-assign]
    assert Outbox(folder / FILE_NAME, tracker).finish(view, None, "finished")


def test_waiting_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whom, and how much longer."""
    monkeypatch.setattr("eed_search.tracking.outbox._SAY_AFTER_S", 0.0)
    view = make_view(1)
    folder = write_ledger(tmp_path / "digits", view)
    tracker = started(tmp_path, view)
    tracker.deliver = lambda event, view: time.sleep(600)  # type: ignore[method-assign]
    outbox = Outbox(folder / FILE_NAME, tracker)
    outbox.wake()
    said: list[str] = []
    assert not outbox.finish(view, None, "finished", patience_s=1.0, say=said.append)
    (line,) = said
    assert line.startswith(f"waiting for MLflow ({tracker.uri}), which has not taken all of this search yet; for ")


def test_trying_the_same_again_is_no_progress(tmp_path: Path) -> None:
    """MLflow answers a part of every attempt and then fails at the same place: the patience runs all the same."""
    view = make_view(1)
    folder = write_ledger(tmp_path / "digits", view)
    tracker = started(tmp_path, view)

    def fails(event: Any, view: RunView) -> None:
        tracker._runs.num_calls += 3
        raise RuntimeError("the same every time")

    tracker.deliver = fails  # type: ignore[method-assign]
    outbox = Outbox(folder / FILE_NAME, tracker)
    outbox.wake()
    until(lambda: outbox.num_failures >= 1)
    before = outbox._taken()
    until(lambda: outbox.num_failures >= 3 or outbox.wake())
    assert outbox._taken() == before
    outbox.stop()
