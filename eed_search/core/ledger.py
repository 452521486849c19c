"""The ledger: what happened in a search, in sequence, in one SQLite file that only the driver writes.

Everything else (report, MLflow, Optuna's study) can be made again from it. `replay` folds the
events into a `RunView`; order is by sequence number, never by a time stamp.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from eed_search import __version__
from eed_search.core.errors import RunError, StoreError
from eed_search.core.params import ParamValue
from eed_search.core.records import Latency, Reference, TrialRecord, from_json

EventKind = Literal["run", "base", "control", "proposal", "result", "latency", "tracker", "note", "end"]
FILE_NAME = "ledger.sqlite"


@dataclass(frozen=True)
class Event:
    """One line of the ledger.

    Attributes:
        seq: Counts from 1 without gaps.
        kind: What happened.
        trial: The trial it belongs to, or none.
        data: The facts, JSON-ready.
        at: Seconds since 1970 when it was written; for people, not for order.
    """

    seq: int
    kind: EventKind
    trial: int | None
    data: dict[str, Any]
    at: float


class Ledger:
    """Append-only events in SQLite (write-ahead log, full sync), one writer.

    Args:
        path: The file; made if absent and `write`.
        write: Open for appending; else read only.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        try:
            if write:
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS event (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,"
                    " trial INTEGER, data TEXT NOT NULL, at REAL NOT NULL)"
                )
            else:
                self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
                self._db.execute("SELECT count(*) FROM event").fetchone()
        except sqlite3.Error as error:
            raise RunError(f"{path}: is not a readable ledger ({error})") from error

    def append(self, kind: EventKind, data: dict[str, Any], trial: int | None = None) -> int:
        """Write one event; it is on the disk when this returns.

        Returns:
            Its sequence number.

        Raises:
            StoreError: If the disk is full or the ledger was opened for reading.
        """
        row = (kind, trial, json.dumps(data, allow_nan=False), time.time())
        try:
            cursor = self._db.execute("INSERT INTO event (kind, trial, data, at) VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error}); free the disk or choose another --home"
            ) from error
        return int(cursor.lastrowid or 0)

    def events(self, after: int = 0) -> Iterator[Event]:
        """Read the events after a sequence number, in order.

        Raises:
            RunError: If the file is damaged.
        """
        query = "SELECT seq, kind, trial, data, at FROM event WHERE seq > ? ORDER BY seq"
        seq = after
        try:
            for seq, kind, trial, data, at in self._db.execute(query, (after,)):
                yield Event(seq, kind, trial, json.loads(data), at)
        except (sqlite3.Error, ValueError) as error:
            raise RunError(f"{self.path}: is damaged at event {seq} ({error}); restore it from a copy") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class RunView:
    """A search as its ledger tells it.

    Attributes:
        name: The run's name.
        spec: Its search-space file with every default filled in.
        facts: Versions, machine, command, reference latency: what the run wrote down at its start.
        state: `running` until an `end` event says `finished`, `stopped` or `failed`.
        base: The dense base.
        controls: Networks trained from scratch.
        proposals: Parameters by trial number.
        trials: Finished trials by number.
        latencies: Final latencies by point id, reference name included: they replace the search's.
        notes: Lines for the reader.
        tracker: What the tracker wrote back, such as MLflow run ids.
        started_at: When the first event was written, in seconds since 1970.
        seconds: From the first event to the last.
    """

    name: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    base: Reference | None = None
    controls: list[Reference] = field(default_factory=list)
    proposals: dict[int, dict[str, ParamValue]] = field(default_factory=dict)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    latencies: dict[str, Latency] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tracker: dict[str, Any] = field(default_factory=dict)
    started_at: float | None = None
    seconds: float = 0.0

    def num_trials(self) -> dict[str, int]:
        """Count trials by state; those proposed and not finished are `running`."""
        counts = Counter(str(trial.outcome) for trial in self.trials.values())
        open_ = len(self.proposals.keys() - self.trials.keys())
        states = ("done", "infeasible", "pruned", "failed")
        return {**{state: counts[state] for state in states}, "running": open_}

    def stage_counts(self) -> dict[str, tuple[int, int]]:
        """Count (computed, reused) by stage over all finished trials."""
        counts: dict[str, list[int]] = {}
        for trial in self.trials.values():
            for use in trial.stages:
                counts.setdefault(use.stage.partition(".")[0], [0, 0])[int(use.hit)] += 1
        return {stage: (made, reused) for stage, (made, reused) in counts.items()}


def fold(view: RunView, event: Event) -> None:
    """Bring a view up to date with the next event."""
    data = event.data
    view.started_at = event.at if view.started_at is None else view.started_at
    view.seconds = event.at - view.started_at
    if event.kind == "run":
        view.name, view.spec, view.facts = data["name"], data["spec"], data.get("facts", {})
    elif event.kind == "base":
        view.base = from_json(Reference, data)
    elif event.kind == "control":
        view.controls.append(from_json(Reference, data))
    elif event.kind == "proposal" and event.trial is not None:
        view.proposals[event.trial] = data["params"]
    elif event.kind == "result":
        record = from_json(TrialRecord, data)
        view.trials[record.number] = record
    elif event.kind == "latency":
        view.latencies[data["id"]] = from_json(Latency, data["latency"])
    elif event.kind == "note":
        view.notes.append(data["text"])
    elif event.kind == "tracker":
        view.tracker.update(data)
    elif event.kind == "end":
        view.state = data["state"]


def replay(events: Iterator[Event]) -> RunView:
    """Fold events, in sequence, into the view of a run."""
    view = RunView()
    for event in events:
        fold(view, event)
    return view


def read_run(folder: Path) -> RunView:
    """Read a run's folder.

    Raises:
        RunError: If there is no ledger in it, or it is damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise RunError(
            f"{folder}: holds no search (no {FILE_NAME}); list the home's folders or name another RUN or --home"
        )
    view = RunView()
    with Ledger(path) as ledger:
        for event in ledger.events():
            try:
                fold(view, event)
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(
                    f"{path}: event {event.seq} ({event.kind}) is not of the form that eed-search {__version__} reads;"
                    " read it with the version that wrote it, or restore it from a copy"
                ) from error
    return view
