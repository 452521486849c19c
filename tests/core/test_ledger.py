"""The ledger: events in sequence, folded into a view; read-only for everyone but the driver."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from eed_search.core.errors import RunError, StoreError
from eed_search.core.ledger import FILE_NAME, Ledger, RunView, read_run, replay
from eed_search.core.records import StageUse, TrialRecord, to_json
from tests.core.ledgers import write_ledger
from tests.tracking.factories import make_latency, make_trial, make_view


def test_events_come_back_in_sequence(tmp_path: Path) -> None:
    """Numbers count from 1 without gaps; `after` leaves out what was read before."""
    with Ledger(tmp_path / FILE_NAME, write=True) as ledger:
        given = [ledger.append("note", {"text": str(i)}) for i in range(5)]
        assert given == [1, 2, 3, 4, 5]
        assert [(event.seq, event.data["text"]) for event in ledger.events(after=3)] == [(4, "3"), (5, "4")]


def test_numbers_go_on_after_reopening(tmp_path: Path) -> None:
    """A second writer after the first goes on counting."""
    for number in (1, 2):
        with Ledger(tmp_path / FILE_NAME, write=True) as ledger:
            assert ledger.append("note", {"text": "x"}) == number


def test_a_replayed_run_equals_what_was_written(tmp_path: Path) -> None:
    """Everything that a report needs comes back from the file."""
    view = make_view(
        12, notes=["a note"], tracker={"run_id": "r"}, latencies={"0.0": make_latency(0.2, method="cascade")}
    )
    read = read_run(write_ledger(tmp_path, view))
    for name in (
        "name",
        "spec",
        "facts",
        "state",
        "base",
        "controls",
        "trials",
        "proposals",
        "latencies",
        "notes",
        "tracker",
    ):
        assert getattr(read, name) == getattr(view, name), name


def test_a_reader_sees_a_run_while_it_is_written(tmp_path: Path) -> None:
    """Reading needs no lock: events appear as they are appended."""
    with Ledger(tmp_path / FILE_NAME, write=True) as ledger:
        ledger.append("run", {"name": "r", "spec": {}})
        assert read_run(tmp_path).state == "running"
        ledger.append("end", {"state": "finished"})
        assert read_run(tmp_path).state == "finished"


def test_trials_are_counted_by_state() -> None:
    """Proposed and not ended is running."""
    view = make_view(10)
    view.proposals[10] = {}
    assert view.num_trials() == {"done": 7, "infeasible": 1, "pruned": 1, "failed": 1, "running": 1}


def test_stages_are_counted_by_name() -> None:
    """Computed and reused, versions left out, over all trials."""
    uses = (StageUse("member.1", "a", False, 1), StageUse("member.1", "a", True, 0), StageUse("joint.2", "b", False, 1))
    view = RunView(trials={0: make_trial(0, stages=uses), 1: make_trial(1, stages=uses[1:2])})
    assert view.stage_counts() == {"member": (1, 2), "joint": (1, 0)}


def test_no_events_give_an_empty_view() -> None:
    """A ledger that holds nothing is a run that has not begun."""
    assert replay(iter(())) == RunView()


def test_a_reader_cannotwrite_ledger(tmp_path: Path) -> None:
    """Only the driver's ledger takes events."""
    write_ledger(tmp_path, make_view(2))
    with Ledger(tmp_path / FILE_NAME) as ledger, pytest.raises(StoreError, match=r"cannot be written .*readonly"):
        ledger.append("note", {"text": "x"})


def test_reading_makes_no_file(tmp_path: Path) -> None:
    """A missing ledger stays missing."""
    with pytest.raises(RunError, match="is not a readable ledger"):
        Ledger(tmp_path / FILE_NAME)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"no database at all, but long enough to be looked at", b"SQLite format 3\0" + b"x" * 500]
)
def test_a_corrupt_ledger_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    """An empty, foreign or broken file is named."""
    file = tmp_path / FILE_NAME
    file.write_bytes(content)
    with pytest.raises(RunError, match=f"^{file}: is not a readable ledger"):
        read_run(tmp_path)


def test_a_ledger_with_a_broken_record_is_one_clear_error(tmp_path: Path) -> None:
    """An event that lacks what it must hold names the file and the event."""
    with Ledger(tmp_path / FILE_NAME, write=True) as ledger:
        ledger.append("run", {"name": "r", "spec": {}})
        ledger.append("result", {"number": 0}, 0)
    with pytest.raises(RunError, match=f"^{tmp_path / FILE_NAME}: event 2 \\(result\\) is not of the form that"):
        read_run(tmp_path)


def test_a_ledger_with_broken_json_is_one_clear_error(tmp_path: Path) -> None:
    """Text that is no JSON names the file and the event."""
    with Ledger(tmp_path / FILE_NAME, write=True) as ledger:
        ledger.append("note", {"text": "x"})
    database = sqlite3.connect(tmp_path / FILE_NAME)
    with database:
        database.execute("UPDATE event SET data = '{' WHERE seq = 1")
    database.close()
    with pytest.raises(RunError, match=f"^{tmp_path / FILE_NAME}: is damaged at event 1 "):
        read_run(tmp_path)


def test_a_folder_without_a_ledger_is_no_run(tmp_path: Path) -> None:
    """The message names the folder and the way out."""
    with pytest.raises(RunError) as caught:
        read_run(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: holds no search (no ledger.sqlite); list the home's folders or name another RUN or --home"
    )


def test_nan_is_not_written(tmp_path: Path) -> None:
    """JSON has no NaN: a metric that is NaN must be refused before, and is refused here at the latest."""
    with Ledger(tmp_path / FILE_NAME, write=True) as ledger, pytest.raises(ValueError, match="not JSON compliant"):
        ledger.append("result", {"loss": float("nan")})


def test_a_trial_record_survives_the_ledger(tmp_path: Path) -> None:
    """A failed trial keeps its reason."""
    record = TrialRecord(4, {"num_members": 1}, "failed", "diverged", "loss is nan")
    with Ledger(tmp_path / FILE_NAME, write=True) as ledger:
        ledger.append("result", to_json(record), 4)
        assert replay(ledger.events()).trials == {4: record}
