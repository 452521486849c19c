"""The ledger: events in sequence, folded into a view; read-only for everyone but the driver."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from eed_search.core.errors import RunError, StoreError
from eed_search.runs.ledger import (
    BUDGET,
    FILE_NAME,
    STOPPED,
    Event,
    Ledger,
    RungRecord,
    RunView,
    fold,
    num_ended,
    read_run,
    replay,
)
from eed_search.runs.records import TrialRecord, to_json
from eed_search.storage.store import StageUse
from eed_search.tracking.text import states_line
from tests.runs.ledgers import write_ledger
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
        "baselines",
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


def test_trials_that_run_again_are_not_counted_as_ended() -> None:
    """A stop, or a time budget that is over, says nothing about a trial: it is neither pruned nor at its end."""
    view = make_view(10)
    for number, reason in ((8, STOPPED), (9, STOPPED), (7, BUDGET)):
        view.trials[number] = make_trial(number, outcome="pruned", reason=reason, measurement=None)
    counts = view.num_trials()
    assert (counts["done"], counts["pruned"], counts["stopped"], counts["out_of_time"]) == (4, 1, 2, 1)
    assert num_ended(counts) == 7
    assert states_line(counts) == "4 done, 1 infeasible, 1 pruned, 1 failed, 2 to run again, 1 out of time"


def test_stages_are_counted_by_name() -> None:
    """Computed and reused, versions left out, over all trials."""
    uses = (StageUse("member.1", "a", False, 1), StageUse("member.1", "a", True, 0), StageUse("joint.2", "b", False, 1))
    view = RunView(trials={0: make_trial(0, stages=uses), 1: make_trial(1, stages=uses[1:2])})
    assert view.stage_counts() == {"member": (1, 2), "joint": (1, 0)}


def test_what_was_made_again_is_a_note_once() -> None:
    """Whichever record says it; what else a trial notes stays in its record."""
    one, two = make_trial(0, notes=("own", "lost a"), remade=("lost a",)), make_trial(1, remade=("lost a", "lost b"))
    view = replay(Event(i, "result", i, to_json(trial), float(i)) for i, trial in enumerate((one, two)))
    assert view.notes == ["lost a", "lost b"]


def test_records_from_before_know_nothing_of_what_was_made_again() -> None:
    """A ledger without those fields is read as it was."""
    trial = make_trial(0, stages=(StageUse("member.1", "a", False, 1),))
    data = to_json(trial)
    for table in (data, data["measurement"], data["measurement"]["latency"]):
        del table["remade"]
    del data["stages"][0]["altered"]
    view = replay(iter([Event(1, "result", 0, data, 1.0)]))
    assert (view.trials[0], view.notes) == (trial, [])


def test_no_events_give_an_empty_view() -> None:
    """A ledger that holds nothing is a run that has not begun."""
    assert replay(iter(())) == RunView()


def test_a_reader_cannotwrite_ledger(tmp_path: Path) -> None:
    """Only the driver's ledger takes events."""
    write_ledger(tmp_path, make_view(2))
    with Ledger(tmp_path / FILE_NAME) as ledger, pytest.raises(StoreError, match=r"cannot be written .*readonly"):
        ledger.append("note", {"text": "x"})


def test_a_kill_while_the_file_is_made_leaves_no_half_of_it(tmp_path: Path) -> None:
    """What lies beside it is thrown away; nothing else is left when it is made."""
    for end in ("", "-wal"):
        (tmp_path / f".{FILE_NAME}.new{end}").write_bytes(b"left by a kill")
    with Ledger(tmp_path / FILE_NAME, write=True):
        assert read_run(tmp_path) == RunView()
    assert {path.name for path in tmp_path.iterdir()} == {FILE_NAME}


def test_time_counts_only_while_a_driver_is_at_work() -> None:
    """Not before a resume, and not before what is written down without a driver."""
    view = RunView()
    for seq, (kind, at, data) in enumerate(
        (
            ("run", 100.0, {"name": "r", "spec": {}}),
            ("note", 110.0, {"text": "x"}),
            ("resume", 5000.0, {}),
            ("note", 5003.0, {"text": "y"}),
            ("request", 9000.0, {"what": "cancel", "offline": True}),
            ("end", 9001.0, {"state": "cancelled"}),
        ),
        start=1,
    ):
        fold(view, Event(seq, kind, None, data, at))  # type: ignore[arg-type]
    assert (view.seconds, view.state, view.num_resumes) == (14.0, "cancelled", 1)


def test_a_resume_takes_back_the_ends_that_a_stop_made() -> None:
    """The trial is open again, and its proposal stays."""
    view = make_view(2)
    view.history = [("proposal", 0), ("proposal", 1), ("result", 0), ("result", 1)]
    fold(view, Event(99, "resume", None, {"reopened": [1]}, 0.0))
    assert view.unfinished() == [1]
    assert view.history == [("proposal", 0), ("proposal", 1), ("result", 0)]


def test_reports_keep_what_the_scheduler_made_of_them() -> None:
    """By trial and rung, in order."""
    view = RunView()
    fold(view, Event(1, "report", 3, {"rung": 0, "metrics": {"robust": 0.5}}, 0.0))
    fold(view, Event(2, "report", 3, {"rung": 1, "metrics": {"robust": 0.6}}, 0.0))
    fold(view, Event(3, "decision", 3, {"rung": 1, "decision": "pause"}, 0.0))
    assert view.reports == {3: [RungRecord(0, {"robust": 0.5}), RungRecord(1, {"robust": 0.6}, "pause")]}


def test_attempts_and_losses_are_counted() -> None:
    """How often a trial was started, and how often its worker was lost."""
    view = RunView()
    for seq, (number, state) in enumerate(((1, "started"), (1, "lost"), (2, "started")), start=1):
        fold(view, Event(seq, "attempt", 0, {"attempt": number, "state": state}, 0.0))
    assert (view.attempts, view.losses) == ({0: 2}, {0: 1})


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
