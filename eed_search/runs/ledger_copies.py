"""The last two sound copies of a ledger, beside it (`ledger.sqlite.good-1` is the newer): what `recover` goes back to.

A copy is made by SQLite itself while the ledger is open, checked event by event, and only then takes its place. A
copy that cannot be made costs nothing but itself: the search goes on, and where room is short none is begun.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from eed_search.runs.ledger_chain import FILE_NAME, START, Damage, Link, checked, has_digests, stored_rows
from eed_search.storage.store import sync
from eed_search.system.modes import make_file

EVERY = 200  # events, at least, between two copies while a search runs
COPY_NAMES = (f"{FILE_NAME}.good-1", f"{FILE_NAME}.good-2")
_ROOM = 64 << 20  # bytes that a copy leaves free, besides its own size twice over


def keep_copy(database: sqlite3.Connection, path: Path) -> bool:
    """Copy an open ledger beside its file; the copy before becomes the older one.

    Args:
        database: The ledger, open, with no transaction begun.
        path: Its file.

    Returns:
        Whether there is a new copy.
    """
    newer, older = (path.with_name(name) for name in COPY_NAMES)
    made = path.with_name(f".{newer.name}.new")
    try:
        if shutil.disk_usage(path.parent).free < 2 * path.stat().st_size + _ROOM:
            return False
        _remove(made)
        make_file(made)
        with closing(sqlite3.connect(made)) as copy:
            database.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # so that it is one file, and whole
            copy.text_factory = bytes
            _check(copy)
        sync(made)
        if newer.exists():
            newer.replace(older)
        made.replace(newer)
        sync(path.parent)
    except (sqlite3.Error, OSError, ValueError):
        with suppress(OSError):
            _remove(made)
        return False
    return True


def last_copied(path: Path) -> int:
    """Give the number of the last event in a ledger's newest copy; 0 where there is none that can be read."""
    copy = path.with_name(COPY_NAMES[0])
    if not copy.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{copy.resolve().as_uri()}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0])
    except (sqlite3.Error, OSError, ValueError, TypeError):
        return 0


def _check(database: sqlite3.Connection) -> None:
    """Go through a copy's chain.

    Raises:
        Damage: If it has none, or an event is not the one that was written.
    """
    if not has_digests(database):
        raise Damage("it has no digests")
    last = START
    for row in stored_rows(database, 0, True):
        checked(row, last, True)
        last = Link(row.seq, row.digest)


def _remove(made: Path) -> None:
    for end in ("", "-journal", "-wal", "-shm"):
        made.with_name(made.name + end).unlink(missing_ok=True)
