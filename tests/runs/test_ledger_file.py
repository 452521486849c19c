"""The ledger's file: a byte that changed, an event that is missing, a file that was cut are found, and sound ones read."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eed_search.core.errors import RunError, StoreError
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, read_run
from eed_search.runs.ledger_copies import COPY_NAMES, EVERY, last_copied
from eed_search.runs.ledger_file import MARK_NAME, read_mark
from eed_search.runs.ledger_recovery import recover
from tests.runs.ledgers import as_before_digests

LOOSE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ask(folder: Path, statement: str, *given: object) -> list[tuple[object, ...]]:
    """Do something to a ledger behind our back."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        return database.execute(statement, given).fetchall()


def last(folder: Path) -> int:
    """The number of the last event."""
    return int(str(ask(folder, "SELECT max(seq) FROM event")[0][0]))


def says_damaged(folder: Path, seq: int) -> None:
    """Hold that the run is refused, with the event and the way out."""
    with pytest.raises(RunError) as caught:
        read_run(folder)
    assert str(caught.value).startswith(f"{folder / FILE_NAME}: is damaged at event {seq} (")
    assert f"`eed-search recover {folder}`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_digit_that_was_altered_is_found(folder: Path) -> None:
    """The smallest lie: another robust accuracy."""
    ((seq, data),) = ask(folder, "SELECT seq, data FROM event WHERE kind = 'result' LIMIT 1")
    value = json.loads(str(data))["measurement"]["robust_accuracy"]["value"]
    text = str(data).replace(f'"value": {value}', '"value": 0.99', 1)
    assert text != data
    ask(folder, "UPDATE event SET data = ? WHERE seq = ?", text, seq)
    says_damaged(folder, int(str(seq)))


@LOOSE
@given(st.data())
def test_any_byte_of_any_event_that_changes_is_found(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever it becomes, even no text at all."""
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    folder = shutil.copytree(whole, tmp_path / "run")
    seq = data.draw(st.integers(1, last(folder)))
    ((stored,),) = ask(folder, "SELECT CAST(data AS BLOB) FROM event WHERE seq = ?", seq)
    assert isinstance(stored, bytes)
    place = data.draw(st.integers(0, len(stored) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != stored[place]))
    altered = stored[:place] + bytes([other]) + stored[place + 1 :]
    ask(folder, "UPDATE event SET data = CAST(? AS TEXT) WHERE seq = ?", altered, seq)
    says_damaged(folder, seq)


@LOOSE
@given(st.data())
def test_any_byte_of_the_file_that_changes_is_found_or_means_nothing(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Pages, headers, what SQLite keeps beside the events: one clear error, or the very same run."""
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    folder = shutil.copytree(whole, tmp_path / "run")
    raw = bytearray((folder / FILE_NAME).read_bytes())
    place = data.draw(st.one_of(st.integers(0, 120), st.integers(0, len(raw) - 1)))
    raw[place] ^= data.draw(st.integers(1, 255))
    (folder / FILE_NAME).write_bytes(raw)
    assert read_or_problem(folder) in (read_run(whole), f"{folder / FILE_NAME}: ")


def test_a_damaged_description_of_the_tables_is_found(whole: Path, tmp_path: Path) -> None:
    """SQLite quotes it in its complaint, and what it quotes may be no text: reading and `recover` say so all the same."""
    raw = (whole / FILE_NAME).read_bytes()
    start = raw.index(b"CREATE TABLE")
    quoted = 0
    for place in range(start, start + 60):
        folder = shutil.copytree(whole, tmp_path / str(place))
        (folder / FILE_NAME).write_bytes(raw[:place] + bytes([raw[place] ^ 128]) + raw[place + 1 :])
        found = read_or_problem(folder)
        assert found in (read_run(whole), f"{folder / FILE_NAME}: ")
        if found != read_run(whole):
            quoted += 1
            with suppress(RunError):
                recover(folder)
    assert quoted > 10


def read_or_problem(folder: Path) -> RunView | str:
    """Read a run; the beginning of what is said where it cannot be."""
    try:
        return read_run(folder)
    except RunError as error:
        return str(error)[: len(f"{folder / FILE_NAME}: ")]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE event SET kind = 'note' WHERE seq = 5", 5),
        ("UPDATE event SET trial = 99 WHERE seq = 5", 5),
        ("UPDATE event SET at = at + 1 WHERE seq = 5", 5),
        ("UPDATE event SET digest = zeroblob(32) WHERE seq = 5", 5),
        ("DELETE FROM event WHERE seq = 5", 5),
        ("UPDATE event SET kind = 3.5 WHERE seq = 5", 5),
        ("UPDATE event SET at = 'noon' WHERE seq = 5", 5),
        ("UPDATE event SET data = x'00ff' WHERE seq = 5", 5),
        ("UPDATE event SET trial = 'x' WHERE seq = 5", 5),
        ("DELETE FROM event WHERE seq <= 4", 1),
        ("DELETE FROM event", 1),
    ],
)
def test_whatever_is_altered_of_an_event_is_found(folder: Path, statement: str, found: int) -> None:
    """Its kind, trial, time, digest, type; and the event itself."""
    ask(folder, statement)
    says_damaged(folder, found)


def test_events_that_are_exchanged_are_found(folder: Path) -> None:
    """Each has its own digest still; the order is another."""
    ask(folder, "UPDATE event SET seq = -5 WHERE seq = 5")
    ask(folder, "UPDATE event SET seq = 5 WHERE seq = 6")
    ask(folder, "UPDATE event SET seq = 6 WHERE seq = -5")
    says_damaged(folder, 5)


def test_events_missing_at_the_end_are_found(folder: Path) -> None:
    """The rest is chained as it was: the mark beside the file, or SQLite's own count, tells."""
    num = last(folder)
    ask(folder, "DELETE FROM event WHERE seq > ?", num - 3)
    says_damaged(folder, num - 2)
    ask(folder, "UPDATE sqlite_sequence SET seq = ?", num - 3)
    says_damaged(folder, num - 2)
    (folder / MARK_NAME).unlink()
    assert read_run(folder).num_events == num - 3  # without both, it is a ledger of fewer events


def test_a_mark_that_cannot_be_read_is_no_mark(folder: Path) -> None:
    """Half a note, or another program's, says nothing."""
    for text in (b"", b"x", b"9" * 300, b"%020d %s\n" % (9999, b"0" * 8)):
        (folder / MARK_NAME).write_bytes(text)
        assert read_mark(folder / FILE_NAME) == 0
        assert read_run(folder).num_events == last(folder)


def test_an_event_that_comes_while_a_run_is_read_is_none_that_is_missing(folder: Path) -> None:
    """A reader sees the ledger as it was when it began."""
    num = last(folder)
    with Ledger(folder / FILE_NAME) as reader, Ledger(folder / FILE_NAME, write=True) as writer:
        events = reader.events()
        next(events)
        writer.append("note", {"text": "meanwhile"})
        assert 1 + sum(1 for _ in events) in (num, num + 1)


# ---------------------------------------------------------------- ledgers of before


def test_a_ledger_of_before_reads_as_it_did(folder: Path) -> None:
    """No digests, no version: nothing is missed, and reading writes nothing."""
    before = read_run(folder)
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        as_before_digests(database)
    raw = (folder / FILE_NAME).read_bytes()
    assert read_run(folder) == before
    assert (folder / FILE_NAME).read_bytes() == raw


def test_a_ledger_of_before_is_chained_from_the_next_event_on(folder: Path) -> None:
    """What was there gets digests too, so that a later change to it is found."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        as_before_digests(database)
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        num = ledger.append("note", {"text": "new"})
        assert [event.seq for event in ledger.events(num - 1)] == [num]
    assert read_run(folder).notes[-1] == "new"
    ask(folder, "UPDATE event SET at = at + 1 WHERE seq = 2")
    says_damaged(folder, 2)


def test_a_reader_goes_on_while_a_ledger_of_before_is_chained(folder: Path) -> None:
    """Whoever had read half of it without digests reads the rest with them."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        as_before_digests(database)
    with Ledger(folder / FILE_NAME) as reader:
        num = sum(1 for _ in reader.events())
        with Ledger(folder / FILE_NAME, write=True) as ledger:
            ledger.append("note", {"text": "new"})
            assert [event.seq for event in reader.events(num)] == [num + 1]


def test_an_earlier_version_cannot_write_past_the_chain(folder: Path) -> None:
    """It knows no digest, and the table takes no event without one."""
    with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
        ask(folder, "INSERT INTO event (kind, trial, data, at) VALUES ('note', NULL, '{}', 1.0)")


@pytest.mark.parametrize("write", [False, True])
def test_a_ledger_of_a_newer_version_is_refused(folder: Path, write: bool) -> None:
    """One line, nothing changed, and no word of damage."""
    ask(folder, "PRAGMA user_version = 2")
    raw = (folder / FILE_NAME).read_bytes()
    with pytest.raises(
        RunError, match=r"was written by a newer eed-search \(ledger format 2, this one reads up to 1\)"
    ) as e:
        Ledger(folder / FILE_NAME, write=write)
    assert "recover" not in str(e.value)
    assert (folder / FILE_NAME).read_bytes() == raw


# ---------------------------------------------------------------- what SQLite itself finds

KILLED = """
import os, sys
from pathlib import Path
from eed_search.runs.ledger import FILE_NAME, Ledger
ledger = Ledger(Path(sys.argv[1]) / FILE_NAME, write=True)
ledger.append("run", {"name": "r", "spec": {}})
for i in range(20):
    ledger.append("note", {"text": str(i)})
os._exit(0)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of a search that was killed: its last events are in SQLite's log."""
    folder = tmp_path / "killed"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=True, timeout=600)
    assert (folder / f"{FILE_NAME}-wal").stat().st_size > 0
    return folder


def test_a_killed_search_is_whole(killed: Path) -> None:
    """Every event that was written is read, from the log."""
    assert read_run(killed).num_events == 21


def test_a_log_that_is_gone_is_found(killed: Path) -> None:
    """The file itself is sound, and holds fewer events than were written."""
    (killed / f"{FILE_NAME}-wal").unlink()
    says_damaged(killed, 1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_log_that_was_cut_is_found(killed: Path, share: float) -> None:
    """SQLite passes over the half of a log without a word."""
    log = killed / f"{FILE_NAME}-wal"
    os.truncate(log, int(share * log.stat().st_size))
    with pytest.raises(RunError, match=r"is damaged at event \d+ \(the events up to 21 are missing\)"):
        read_run(killed)


@pytest.mark.parametrize("size", [0, 50, 100, 4096, 5000, 9000])
def test_a_file_that_was_cut_is_found(folder: Path, size: int) -> None:
    """Wherever it ends."""
    os.truncate(folder / FILE_NAME, size)
    with pytest.raises(RunError, match=r"`eed-search recover .*` takes back what is sound"):
        read_run(folder)


def test_a_bad_page_is_found(folder: Path) -> None:
    """Zeros where events were."""
    with (folder / FILE_NAME).open("r+b") as file:
        file.seek(2 * 4096)
        file.write(bytes(4096))
    with pytest.raises(RunError, match=r"`eed-search recover "):
        read_run(folder)


@pytest.mark.parametrize("write", [False, True])
def test_a_ledger_that_is_gone_is_said(folder: Path, write: bool) -> None:
    """What it leaves beside it shows that there was one; no empty one is made in its place."""
    (folder / FILE_NAME).unlink()
    with pytest.raises(RunError, match=r"the ledger is gone, while .*ledger.head.* `eed-search recover "):
        Ledger(folder / FILE_NAME, write=write)
    assert not (folder / FILE_NAME).exists()
    with pytest.raises(RunError, match="the ledger is gone"):
        read_run(folder)


# ---------------------------------------------------------------- copies


def test_a_copy_is_kept_when_the_ledger_is_closed(folder: Path) -> None:
    """It is the ledger, as one file; the one before it becomes the older one."""
    with closing(sqlite3.connect(folder / COPY_NAMES[0])) as copy:
        assert copy.execute("SELECT * FROM event").fetchall() == ask(folder, "SELECT * FROM event")
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    num = last(folder)
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("note", {"text": "more"})
    assert last_copied(folder / FILE_NAME) == num + 1
    with closing(sqlite3.connect(folder / COPY_NAMES[1])) as older:
        assert older.execute("SELECT max(seq) FROM event").fetchone() == (num,)
    assert {path.name for path in folder.iterdir()} == {FILE_NAME, MARK_NAME, *COPY_NAMES}


def test_a_copy_is_kept_while_a_search_runs_and_when_it_is_taken_up(killed: Path) -> None:
    """Every few hundred events, and at the first event after a kill."""
    assert not (killed / COPY_NAMES[0]).exists()
    ledger = Ledger(killed / FILE_NAME, write=True)
    ledger.append("resume", {})
    assert last_copied(killed / FILE_NAME) == 21
    for i in range(EVERY):
        ledger.append("note", {"text": str(i)})
    assert last_copied(killed / FILE_NAME) >= EVERY
    ledger.close()


def test_a_damaged_ledger_is_never_copied(folder: Path) -> None:
    """The copies stay as they were, else the last sound one would go."""
    num = last(folder)
    ask(folder, "UPDATE event SET at = at + 1 WHERE seq = 2")
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("note", {"text": "x"})
    assert last_copied(folder / FILE_NAME) == num
    assert not (folder / COPY_NAMES[1]).exists()


def test_a_copy_that_cannot_be_made_costs_nothing(tmp_path: Path) -> None:
    """The search goes on, and nothing is left."""
    (tmp_path / f".{COPY_NAMES[0]}.new").mkdir()  # in the way
    with Ledger(tmp_path / FILE_NAME, write=True) as ledger:
        ledger.append("run", {"name": "r", "spec": {}})
    assert not (tmp_path / COPY_NAMES[0]).exists()
    assert read_run(tmp_path).name == "r"


def test_a_second_writer_cannot_break_the_chain(folder: Path) -> None:
    """Two that append at once do not: the second is refused its number, and goes on after it."""
    with Ledger(folder / FILE_NAME, write=True) as one, Ledger(folder / FILE_NAME, write=True) as two:
        one.append("note", {"text": "one"})
        two.append("note", {"text": "two"})
        with pytest.raises(StoreError, match="cannot be written"):
            one.append("note", {"text": "three"})
        one.append("note", {"text": "four"})
    assert read_run(folder).notes[-3:] == ["one", "two", "four"]
