"""Takes back what is sound of a ledger that was altered, cut off, or deleted: the longest sound beginning there is.

Looked through are the ledger, its copies (`ledger_copies`), and what earlier recoveries set aside. What was damaged is
kept as `ledger.sqlite.damaged-1` and so on, never deleted. A trial whose end is lost is open again, so `resume` runs
it again, and reads from the store what it had finished.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import time

from eed_search.core.errors import RunError, StoreError
from eed_search.runs.ledger import Event, RunView, fold
from eed_search.runs.ledger_chain import (
    FILE_NAME,
    START,
    Link,
    Row,
    chained,
    checked,
    has_digests,
    stored_rows,
    to_event,
)
from eed_search.runs.ledger_copies import COPY_NAMES
from eed_search.runs.ledger_file import Ledger, make_database, read_mark, write_mark
from eed_search.storage.store import sync

_MOST_NAMED = 20


@dataclass(frozen=True)
class Recovery:
    """What became of a ledger.

    Attributes:
        source: The file that the events were taken from; empty where nothing had to be done.
        kept: Events that are sound, the first ones.
        total: Events that there were, as far as can be told.
        problem: What was wrong.
        again: Trials that run again: those under way then, and those whose end is lost, as far as can be told.
        aside: Where the damaged file is; none where there was none.
    """

    source: str
    kept: int
    total: int
    problem: str = ""
    again: tuple[int, ...] = ()
    aside: Path | None = None

    @property
    def lost(self) -> str:
        """Say which events are lost and what follows, in a line; empty where none is."""
        if self.total <= self.kept:
            return ""
        first, last = self.kept + 1, self.total
        events = f"event {last} is" if first == last else f"events {first} to {last} are"
        return f"{events} lost; {_run_again(self.again)}"


@dataclass
class _Found:
    """A file's events up to the first that is not sound.

    Attributes:
        path: The file.
        rows: Those events.
        view: The run up to there.
        problem: What is wrong with the next one; empty where there is none.
        last: The last number that any event has in the file, sound or not.
        touched: Trials that events after the sound ones speak of.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    view: RunView = field(default_factory=RunView)
    problem: str = ""
    last: int = 0
    touched: set[int] = field(default_factory=set)


def recover(folder: Path) -> Recovery:
    """Make a run's ledger whole up to the last event that is sound. Whoever calls holds the driver's lock.

    Args:
        folder: The run's.

    Returns:
        What was done; nothing, where the ledger is sound.

    Raises:
        RunError: If no file holds a sound event, or the ledger is a newer version's.
        StoreError: If the folder cannot be written; nothing is lost then.
    """
    path = folder / FILE_NAME
    mark = read_mark(path)
    own = _read(path)
    others = [_read(one) for one in _others(folder)]
    total = max([mark, own.last, *(one.last for one in others)])
    if not own.problem and path.exists() and len(own.rows) >= mark:
        return Recovery("", len(own.rows), len(own.rows))
    best = max([own, *(one for one in others if _agree(own, one))], key=lambda one: len(one.rows))
    if not best.rows:
        raise RunError(
            f"{path}: neither it nor a copy beside it holds a sound event. Launch the search's file"
            f" ({folder / 'search_space.yaml'}) under another --name: finished stages are reused. Nothing was changed"
        )
    lost = {number for one in (own, *others) for number in one.touched if one.last > len(best.rows)}
    again = tuple(sorted(set(best.view.unfinished()) | (lost - best.view.trials.keys())))
    problem = own.problem or ("it is gone" if not path.exists() else "events at its end are missing")
    done = Recovery(best.path.name, len(best.rows), total, problem, again)
    try:
        aside = _put_in_place(folder, best, done)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"{folder}: cannot be written ({error}); free the disk, then give the same command again. Nothing is lost"
        ) from error
    return Recovery(done.source, done.kept, done.total, problem, again, aside)


def is_sound(folder: Path) -> bool:
    """Whether a run's ledger reads to its end."""
    try:
        with Ledger(folder / FILE_NAME) as ledger:
            for _ in ledger.events():
                pass
    except RunError:
        return False
    return True


def _others(folder: Path) -> list[Path]:
    aside = sorted(one for one in folder.glob(f"{FILE_NAME}.damaged-*") if not one.name.endswith(("-wal", "-shm")))
    return [one for one in (*(folder / name for name in COPY_NAMES), *aside) if one.is_file()]


def _read(path: Path) -> _Found:
    """Read what is sound from a copy of a file, so that SQLite changes nothing beside the file itself.

    Raises:
        RunError: If it is a newer version's.
        StoreError: If there is no room for the copy.
    """
    found = _Found(path)
    if not path.exists():
        return found
    with tempfile.TemporaryDirectory(prefix="eed-search-recover-") as name:
        copy = Path(name) / FILE_NAME
        try:
            for end in ("", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(path.with_name(path.name + end), copy.with_name(FILE_NAME + end))
        except OSError as error:
            raise StoreError(f"{path}: cannot be copied to {name} ({error.strerror}); nothing was changed") from error
        with suppress(RunError):  # a damaged head is told below, as damage
            Ledger(copy).close()
        try:
            with closing(sqlite3.connect(copy)) as database:
                database.text_factory = bytes
                _collect(database, found)
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            found.problem = found.problem or str(error)
    return found


def _collect(database: sqlite3.Connection, found: _Found) -> None:
    last, chain = START, has_digests(database)
    for row in stored_rows(database, 0, chain):
        found.last = max(found.last, row.seq)
        if found.problem:
            if isinstance(row.trial, int):
                found.touched.add(row.trial)
            continue
        try:
            checked(row, last, chain)
            event = to_event(row)
            if chain:
                _fold_sound(found, event)
            else:
                fold(found.view, event)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found.problem = f"event {last.seq + 1}: {error}"
            if isinstance(row.trial, int):
                found.touched.add(row.trial)
            continue
        found.rows.append(row)
        last = Link(row.seq, row.digest)
    given = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    if given and isinstance(given[0], int) and given[0] > found.last:
        found.last = given[0]
        found.problem = found.problem or f"the events from {last.seq + 1} to {given[0]} are missing"


def _fold_sound(found: _Found, event: Event) -> None:
    """Read an event that is the one that was written.

    Raises:
        RunError: If another version wrote it: it is not to be thrown away.
    """
    try:
        fold(found.view, event)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{found.path}: event {event.seq} ({event.kind}) is sound, but not of the form that this version reads; read"
            " it with the version that wrote it. Nothing was changed"
        ) from error


def _agree(own: _Found, other: _Found) -> bool:
    """Whether two files are of one run: the events that both have are the same."""
    num = min(len(own.rows), len(other.rows))
    return num == 0 or own.rows[num - 1][:5] == other.rows[num - 1][:5]


def _put_in_place(folder: Path, best: _Found, done: Recovery) -> Path | None:
    """Write the sound events beside the ledger, set that aside with its log, and give the new one its name."""
    path = folder / FILE_NAME
    made = folder / f".{FILE_NAME}.recovered"
    make_database(made)
    last = START
    with closing(sqlite3.connect(made, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous=FULL")
        database.execute("BEGIN")
        for row in (*best.rows, _note(done)):
            new = chained(last, row.kind, row.trial, row.data, row.at)
            texts = (new.seq, new.kind.decode(), new.trial, new.data.decode(), new.at, new.digest)
            database.execute("INSERT INTO event (seq, kind, trial, data, at, digest) VALUES (?, ?, ?, ?, ?, ?)", texts)
            last = Link(new.seq, new.digest)
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    aside = _set_aside(path)
    for end in ("-wal", "-shm"):  # its log is not this one's
        path.with_name(path.name + end).unlink(missing_ok=True)
    made.replace(path)
    sync(folder)
    write_mark(path, last.seq)
    return aside


def _note(done: Recovery) -> Row:
    """Make the event that says so; no driver was at work."""
    what = done.lost or "no event is lost"
    text = f"the ledger was damaged ({done.problem}) and was recovered from {done.source}: {what}"
    return Row(0, b"note", None, json.dumps({"text": text, "offline": True}).encode(), time(), None)


def _set_aside(path: Path) -> Path | None:
    """Give a damaged ledger and its log a second name; it keeps the first until the new one takes it."""
    if not path.exists():
        return None
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if aside.exists():
            continue
        log = path.with_name(f"{path.name}-wal")
        if log.exists():
            _second_name(log, aside.with_name(f"{aside.name}-wal"))
        _second_name(path, aside)
        return aside
    raise OSError(f"there are 1000 files {path.name}.damaged-… already")


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # a file system without links
        shutil.copyfile(path, name)


def _run_again(trials: Sequence[int]) -> str:
    if not trials:
        return "no trial that they speak of has to run again, as far as can be told"
    shown = [str(number) for number in trials[:_MOST_NAMED]]
    if (more := len(trials) - len(shown)) > 0:
        shown.append(f"{more} more")
    names = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"trial{'s' if len(trials) > 1 else ''} {names} run{'' if len(trials) > 1 else 's'} again"
