"""Recovery: the longest sound beginning among the ledger and its copies, the damaged file kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eed_search.core.errors import RunError
from eed_search.runs.ledger import FILE_NAME, Event, Ledger, read_run
from eed_search.runs.ledger_copies import COPY_NAMES
from eed_search.runs.ledger_file import MARK_NAME
from eed_search.runs.ledger_recovery import is_sound, recover
from tests.runs.ledgers import as_before_digests, write_ledger
from tests.tracking.factories import make_view

LOOSE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def events(folder: Path) -> list[Event]:
    """Read them all."""
    with Ledger(folder / FILE_NAME) as ledger:
        return list(ledger.events())


def forget_copies(folder: Path) -> None:
    """As if none had been made."""
    for name in COPY_NAMES:
        (folder / name).unlink(missing_ok=True)


def alter(folder: Path, seq: int, name: str = FILE_NAME) -> None:
    """Change an event behind our back."""
    with closing(sqlite3.connect(folder / name)) as database, database:
        database.execute('UPDATE event SET data = \'{"text": "a lie"}\' WHERE seq = ?', (seq,))


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_sound_ledger_is_left_as_it_is(folder: Path) -> None:
    """Not a byte of the folder changes."""
    num = len(events(folder))
    before = contents(folder)
    done = recover(folder)
    assert (done.source, done.kept, done.lost) == ("", num, "")
    assert contents(folder) == before


def test_a_copy_gives_everything_back(folder: Path) -> None:
    """One event was altered; the copy has them all."""
    was = events(folder)
    alter(folder, 7)
    damaged = (folder / FILE_NAME).read_bytes()
    done = recover(folder)
    assert (done.source, done.kept, done.total, done.lost) == (COPY_NAMES[0], len(was), len(was), "")
    assert events(folder)[:-1] == was
    assert events(folder)[-1].data["text"].startswith("the ledger was damaged (event 7: ")
    assert done.aside == folder / f"{FILE_NAME}.damaged-1"
    assert done.aside.read_bytes() == damaged


@LOOSE
@given(st.data())
def test_what_stands_before_any_damage_comes_back(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Without copies: the events before it, and no other."""
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    folder = shutil.copytree(whole, tmp_path / "run")
    forget_copies(folder)
    was = events(folder)
    seq = data.draw(st.integers(2, len(was)))
    alter(folder, seq)
    done = recover(folder)
    assert (done.kept, done.total) == (seq - 1, len(was))
    assert events(folder)[:-1] == was[: seq - 1]
    assert is_sound(folder)


@LOOSE
@given(share=st.floats(0, 1), copies=st.booleans())
def test_a_file_that_was_cut_anywhere_comes_back(whole: Path, tmp_path: Path, share: float, copies: bool) -> None:
    """With a copy all of it; without one a beginning, or one clear error that changes nothing."""
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    folder = shutil.copytree(whole, tmp_path / "run")
    was = events(folder)
    os.truncate(folder / FILE_NAME, int(share * ((folder / FILE_NAME).stat().st_size - 1)))
    if not copies:
        forget_copies(folder)
    before = contents(folder)
    kept = kept_or_refused(folder)
    if kept:
        assert events(folder)[:-1] == was[:kept]
        assert kept == len(was) if copies else kept < len(was)
    else:
        assert not copies
        assert contents(folder) == before


def kept_or_refused(folder: Path) -> int:
    """Recover a ledger; 0 if there is nothing to take back."""
    try:
        return recover(folder).kept
    except RunError as error:
        return 0 if "Nothing was changed" in str(error) else -1


def test_a_deleted_ledger_comes_back_from_its_copy(folder: Path) -> None:
    """Nothing had to be set aside."""
    was = events(folder)
    (folder / FILE_NAME).unlink()
    done = recover(folder)
    assert (done.kept, done.aside, done.problem) == (len(was), None, "it is gone")
    assert events(folder)[:-1] == was


def test_the_older_copy_serves_where_the_newer_is_damaged_too(folder: Path) -> None:
    """The longest sound beginning wins, whichever file has it."""
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("note", {"text": "more"})
    was = events(folder)
    alter(folder, 3)
    alter(folder, 5, COPY_NAMES[0])
    done = recover(folder)
    assert (done.source, done.kept, done.total) == (COPY_NAMES[1], len(was) - 1, len(was))
    assert done.lost.startswith(f"event {len(was)} is lost; ")


def test_trials_whose_end_is_lost_are_named(folder: Path) -> None:
    """They are open again."""
    forget_copies(folder)
    results = {event.trial: event.seq for event in events(folder) if event.kind == "result"}
    alter(folder, results[10])
    done = recover(folder)
    assert done.again == (10, 11)
    assert done.lost == f"events {results[10]} to {done.total} are lost; trials 10 and 11 run again"
    view = read_run(folder)
    assert view.unfinished() == [10, 11]
    assert view.notes[-1].endswith("trials 10 and 11 run again")


def test_events_that_no_file_has_are_counted(folder: Path) -> None:
    """The mark knows of them; the ledger is taken as it is from then on."""
    forget_copies(folder)
    num = len(events(folder))
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        database.execute("DELETE FROM event WHERE seq > ?", (num - 5,))
        database.execute("UPDATE sqlite_sequence SET seq = ?", (num - 5,))
    done = recover(folder)
    assert (done.kept, done.total) == (num - 5, num)
    assert is_sound(folder)
    assert len(events(folder)) == num - 4


def test_a_second_damage_is_set_aside_beside_the_first(folder: Path) -> None:
    """No damaged file is ever written over."""
    for number in (1, 2):
        alter(folder, 4)
        first = (folder / FILE_NAME).read_bytes()
        done = recover(folder)
        assert done.aside == folder / f"{FILE_NAME}.damaged-{number}"
        assert done.aside.read_bytes() == first


def test_a_ledger_of_before_digests_comes_back_too(folder: Path) -> None:
    """What can be read of it, from then on with digests."""
    forget_copies(folder)
    (folder / MARK_NAME).unlink()
    was = events(folder)
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        as_before_digests(database)
        database.execute("UPDATE event SET data = '{' WHERE seq = 20")
    done = recover(folder)
    assert done.kept == 19
    assert events(folder)[:-1] == was[:19]


def test_a_copy_of_another_run_is_not_taken(folder: Path, tmp_path: Path) -> None:
    """However long it is."""
    other = write_ledger(tmp_path / "other", make_view(20))
    shutil.copy(other / FILE_NAME, folder / COPY_NAMES[0])
    alter(folder, 7)
    assert recover(folder).kept == 6


def test_what_another_version_wrote_is_not_thrown_away(folder: Path) -> None:
    """Its digest is right; only we cannot read it."""
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        seq = ledger.append("result", {"number": 0, "of": "another form"}, 0)
    before = contents(folder)
    with pytest.raises(
        RunError, match=rf"event {seq} \(result\) is sound, but not of the form that this version reads"
    ):
        recover(folder)
    assert contents(folder) == before


def test_nothing_sound_changes_nothing(folder: Path) -> None:
    """One clear error."""
    forget_copies(folder)
    (folder / FILE_NAME).write_bytes(b"no database")
    before = contents(folder)
    with pytest.raises(RunError, match=r"neither it nor a copy beside it holds a sound event.* Nothing was changed"):
        recover(folder)
    assert contents(folder) == before
