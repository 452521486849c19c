"""The ledger: what happened in a search, in sequence, in one SQLite file that only the driver writes.

Everything else (report, MLflow, Optuna's study) can be made again from it. The file is that of
`ledger_file`: what was altered in it is found as it is read. `runs.events` says what can happen, and folds it
into a `RunView`; order is by sequence number, never by a time stamp.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eed_search import __version__
from eed_search.core.errors import RunError
from eed_search.runs.events import fold
from eed_search.runs.ledger_chain import FILE_NAME, Event, EventKind
from eed_search.runs.ledger_file import Ledger, is_lost, lost_error
from eed_search.runs.moved import spec_now
from eed_search.runs.run_view import (
    BUDGET,
    NO_RESULT,
    PAUSE,
    RESUME,
    STOPPED,
    RungRecord,
    RunView,
    num_ended,
)

__all__ = [
    "BUDGET",
    "FILE_NAME",
    "NO_RESULT",
    "PAUSE",
    "RESUME",
    "STOPPED",
    "Event",
    "EventKind",
    "Ledger",
    "RunView",
    "RungRecord",
    "fold",
    "num_ended",
    "read_run",
    "replay",
]


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
    if is_lost(path):
        raise lost_error(path)
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
    view.spec = spec_now(view.spec, view.home, folder.parent)
    return view
