"""Writes a ledger as a driver would, from a view made without training anything."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from eed_search.runs.ledger import FILE_NAME, Event, EventKind, Ledger, RunView
from eed_search.runs.ledger_copies import COPY_NAMES
from eed_search.runs.ledger_file import MARK_NAME
from eed_search.runs.records import to_json


def write_ledger(folder: Path, view: RunView) -> Path:
    """Write a ledger that replays to a view; gives the folder back."""
    folder.mkdir(parents=True, exist_ok=True)
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        for kind, trial, data in facts_of(view):
            ledger.append(kind, data, trial)
    return folder


def facts_of(view: RunView) -> Iterator[tuple[EventKind, int | None, dict[str, Any]]]:
    """List what a driver would write for a view: kind, trial and data of each event."""
    yield "run", None, {"name": view.name, "uid": view.uid, "spec": view.spec, "facts": view.facts}
    if view.base is not None:
        yield "base", None, to_json(view.base)
    for baseline in view.baselines:
        yield "control", None, to_json(baseline)
    for number, params in view.proposals.items():
        yield "proposal", number, {"params": params}
    for number, trial in view.trials.items():
        yield "result", number, to_json(trial)
    for id_, latency in view.latencies.items():
        yield "latency", None, {"id": id_, "latency": to_json(latency)}
    for id_, found in view.attacks.items():
        for result in found:
            yield "attack", None, {"id": id_, "result": to_json(result)}
    for note in view.notes:
        yield "note", None, {"text": note}
    yield "tracker", None, view.tracker
    if view.state != "running":
        yield "end", None, {"state": view.state, "reason": view.reason}


def events_of(view: RunView) -> list[Event]:
    """Number those events as a ledger would, one a second."""
    return [Event(seq, kind, trial, data, 1e9 + seq) for seq, (kind, trial, data) in enumerate(facts_of(view), start=1)]


@contextmanager
def rewritten(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger for a test to write another past into it; afterwards it is one that was written before digests."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        yield database
        left = database.execute("SELECT kind, trial, data, at FROM event ORDER BY seq").fetchall()
        database.execute("DELETE FROM event")
        database.execute("DELETE FROM sqlite_sequence")
        as_before_digests(database)
        database.executemany("INSERT INTO event (kind, trial, data, at) VALUES (?, ?, ?, ?)", left)
    for name in (MARK_NAME, *COPY_NAMES):
        (folder / name).unlink(missing_ok=True)


def as_before_digests(database: sqlite3.Connection) -> None:
    """Make an open ledger one of an earlier version."""
    if any(column[1] == "digest" for column in database.execute("PRAGMA table_info(event)")):
        database.execute("ALTER TABLE event DROP COLUMN digest")
    database.execute("PRAGMA user_version = 0")


def cut(folder: Path, last: int) -> None:
    """Take the events after one out of a ledger, as if its driver had been killed right after it."""
    with rewritten(folder) as database:
        database.execute("DELETE FROM event WHERE seq > ?", (last,))
