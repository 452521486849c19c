"""The ledger's file: events in SQLite, one writer, each chained to the one before by a digest of its stored bytes.

So a byte that changes is found when the run is read, and `eed-search recover` takes back what is sound. Beside the
file lies the mark (`ledger.head`: the last event's number, written after each), by which events that are
missing at the end are found, and the last sound copies (`ledger_copies`). What was written before there were digests
is read as it is, and chained from the first event on that is added to it.

This guards against disks, editors and programs. Whoever may write to the folder may write a whole other chain.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eed_search.core.errors import RunError, StoreError
from eed_search.core.failpoints import fail_point
from eed_search.runs.ledger_chain import (
    FILE_NAME,
    START,
    Damage,
    Event,
    EventKind,
    Link,
    Row,
    chained,
    checked,
    has_digests,
    stored_rows,
    to_event,
)
from eed_search.runs.ledger_copies import EVERY, keep_copy, last_copied
from eed_search.system.modes import file_mode, make_file

MARK_NAME = "ledger.head"
FORMAT = 1  # as PRAGMA user_version keeps it; 0 has no digests
_SIGNS = (MARK_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}.good-1", f"{FILE_NAME}.good-2", "study.sqlite")
_MARK = re.compile(rb"([0-9]{20}) ([0-9a-f]{8})\n")
_NOT_DAMAGE = frozenset(  # what SQLite says of a sound file too: held, not allowed, no room
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOMEM,
    }
)


class Ledger:
    """Append-only events in SQLite (write-ahead log, full sync), one writer.

    Args:
        path: The file; made if absent and `write`.
        write: Open for appending; else read only.

    Raises:
        RunError: If it is no readable ledger, is gone, or is a newer version's.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        self._end: Link | None = None  # what the next event is chained to; known from the first append on
        self._seen = START  # the last event that was read
        self._copied = 0  # events of the newest copy
        if is_lost(path):
            raise lost_error(path)
        try:
            if write:
                if not path.exists():
                    make_ledger(path)
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                self._db.execute("PRAGMA synchronous=FULL")
            else:
                self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            self._db.text_factory = bytes
            self._check_format()
            self._db.execute("SELECT seq FROM event LIMIT 1").fetchone()
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # the last where SQLite quotes what is damaged
            with suppress(AttributeError):
                self._db.close()
            advice = f"; {how_to_recover(path)}" if is_damage(error) else ""
            raise RunError(f"{path}: is not a readable ledger ({error}){advice}") from error

    def append(self, kind: EventKind, data: dict[str, Any], trial: int | None = None) -> int:
        """Write one event; it is on the disk when this returns.

        Returns:
            Its sequence number.

        Raises:
            StoreError: If the disk is full or the ledger was opened for reading.
        """
        text, at = json.dumps(data, allow_nan=False), time.time()
        try:
            fail_point("ledger.append")
            before = self._end or self._take_up()
            event = chained(before, kind.encode(), trial, text.encode(), at)
            self._db.execute(
                "INSERT INTO event (seq, kind, trial, data, at, digest) VALUES (?, ?, ?, ?, ?, ?)",
                (event.seq, kind, trial, text, at, event.digest),
            )
        except (sqlite3.Error, OSError) as error:
            self._end = None
            raise StoreError(
                f"{self.path}: cannot be written ({error}); free the disk or choose another --home"
            ) from error
        self._end = Link(event.seq, event.digest)
        write_mark(self.path, event.seq)
        fail_point("ledger.appended")
        self._copy(at_end=False)
        return int(event.seq)

    def events(self, after: int = 0) -> Iterator[Event]:
        """Read the events after a sequence number, in order; those up to it were read before.

        Raises:
            RunError: If an event is not the one that was written, or events are missing.
        """
        last = START
        try:
            # Before the events, for somebody may be writing: what these name is there by now.
            least = 0 if after else max(read_mark(self.path), self._ever_written())
            chained = self._has_digests()
            last = self._link(after, chained)
            for row in self._rows(after, chained):
                checked(row, last, chained)
                last = self._seen = Link(row.seq, row.digest)
                yield to_event(row)
            if least > last.seq:
                raise Damage(f"the events up to {least} are missing")
        except (sqlite3.Error, ValueError) as error:
            where = last.seq + 1
            advice = f"; {how_to_recover(self.path)}" if is_damage(error) else ""
            raise RunError(f"{self.path}: is damaged at event {where} ({error}){advice}") from error

    def close(self) -> None:
        """Close the file; what was added to it is in a copy then."""
        self._copy(at_end=True)
        self._end = None
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ reading

    def _check_format(self) -> None:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > FORMAT:
            self._db.close()
            raise RunError(
                f"{self.path}: was written by a newer eed-search (ledger format {version}, this one reads up to"
                f" {FORMAT}); read it with that version. Nothing was changed"
            )

    def _has_digests(self) -> bool:
        return has_digests(self._db)

    def _rows(self, after: int, chained: bool) -> Iterator[Row]:
        return stored_rows(self._db, after, chained)

    def _link(self, seq: int, chained: bool) -> Link:
        if seq == 0:
            return START
        if self._seen.seq == seq and (self._seen.digest is not None) == chained:
            return self._seen
        found = next(self._rows(seq - 1, chained), None)
        return Link(seq, found.digest if found else None)

    def _ever_written(self) -> int:
        """Give the last number that SQLite itself gave away."""
        found = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
        return int(found[0]) if found else 0

    # ------------------------------------------------------------ writing

    def _take_up(self) -> Link:
        """Find the end of the chain before the first event is added; events without digests get theirs."""
        if not self._has_digests():
            self._chain_all()
        found = self._db.execute("SELECT seq, digest FROM event ORDER BY seq DESC LIMIT 1").fetchone()
        end = Link(*found) if found else START
        self._copied = last_copied(self.path)
        if end.seq > self._copied:
            self._end = end
            self._copy(at_end=True)
        return end

    def _chain_all(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            last, digests = START, []
            for row in self._rows(0, False):
                last = Link(row.seq, chained(last, row.kind, row.trial, row.data, row.at).digest)
                digests.append((last.digest, row.seq))
            self._db.execute("ALTER TABLE event ADD COLUMN digest BLOB")
            self._db.executemany("UPDATE event SET digest = ? WHERE seq = ?", digests)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _copy(self, *, at_end: bool) -> None:
        """Keep a sound copy beside the file: at the end, and when a fifth has come to it since the last."""
        if self._end is None or self._end.seq <= self._copied:
            return
        if at_end or self._end.seq - self._copied >= max(EVERY, self._end.seq // 5):
            self._copied = self._end.seq  # one that fails is not tried again at once
            keep_copy(self._db, self.path)


# ---------------------------------------------------------------- the file and what lies beside it


def make_ledger(path: Path) -> None:
    """Make an empty ledger; it appears with its table or not at all, so that a reader finds no half of one."""
    made = path.with_name(f".{path.name}.new")
    make_database(made)
    made.rename(path)


def make_database(path: Path) -> None:
    """Make the table in a file of its own; what a kill left there is thrown away."""
    for end in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    make_file(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(
            "CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,"
            " trial INTEGER, data TEXT NOT NULL, at REAL NOT NULL, digest BLOB NOT NULL)"
        )
        database.execute(f"PRAGMA user_version = {FORMAT}")


def write_mark(path: Path, seq: int) -> None:
    """Note the last event's number beside its ledger, in place; the event is on the disk by then, so no sync is needed.

    A disk that is full must not end the search for it: an older note is only less sharp.
    """
    number = b"%020d" % seq
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(path.with_name(MARK_NAME), flags, 0o600)
        try:
            if os.fstat(handle).st_size == 0:
                os.fchmod(handle, file_mode(path.parent))
            os.pwrite(handle, b"%s %s\n" % (number, _short(number)), 0)
        finally:
            os.close(handle)


def read_mark(path: Path) -> int:
    """Read the number of the last event that was written; 0 where there is no note of it, or half of one."""
    try:
        found = _MARK.fullmatch(path.with_name(MARK_NAME).read_bytes()[:100])
    except OSError:
        return 0
    return int(found[1]) if found and _short(found[1]) == found[2] else 0


def _short(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:8].encode()


def is_lost(path: Path) -> bool:
    """Say whether a ledger was there and is gone: what it leaves beside it is there."""
    return not path.exists() and any(path.with_name(sign).exists() for sign in _SIGNS)


def lost_error(path: Path) -> RunError:
    """Say that a ledger is gone, and what can be done."""
    signs = [sign for sign in _SIGNS if path.with_name(sign).exists()]
    return RunError(f"{path}: the ledger is gone, while {', '.join(signs)} beside it is there; {how_to_recover(path)}")


def how_to_recover(path: Path) -> str:
    """Give the command that takes back what is sound."""
    return f"`eed-search recover {shlex.quote(str(path.parent))}` takes back what is sound"


def is_damage(error: Exception) -> bool:
    """Tell a damaged file from one that is held, may not be read, or has no room."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return code is None or (code & 0xFF) not in _NOT_DAMAGE
    return isinstance(error, ValueError)
