"""The outbox: brings the ledger's events to MLflow in sequence, in the background, until all have arrived.

MLflow may be away, slow or frozen: the search does not wait for it. What could not be delivered
is tried again; how far delivery has come (`cursor`, a sequence number) goes into the ledger, so
that the next driver goes on from there. Delivering twice is harmless.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from eed_search.core.ledger import Ledger, RunView, fold
from eed_search.tracking.mlflow_log import MlflowTracker, State, one_line

_PATIENCE_S = 60.0
_LONGEST_PAUSE_S = 60.0


class Outbox:
    """Delivers a ledger's events to a tracker that was started.

    Args:
        path: The ledger's file.
        tracker: Where they go; used by the outbox' own thread alone from here on.
        cursor: The last event that was delivered before.

    Attributes:
        num_failures: Calls to MLflow that failed.
    """

    def __init__(self, path: Path, tracker: MlflowTracker, cursor: int = 0) -> None:
        self.num_failures = 0
        self._path = path
        self._tracker = tracker
        self._cursor = cursor
        self._seen = 0
        self._view = RunView()
        self._note = ""
        self._close: Callable[[], None] | None = None
        self._closed = False
        self._ended = False
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    @property
    def cursor(self) -> int:
        """The last event that has arrived, those before it included."""
        return self._cursor

    def wake(self) -> None:
        """Say that there are new events."""
        self._news.set()

    def take_note(self) -> str:
        """Give what a reader should know, once; empty if there is nothing."""
        note, self._note = self._note, ""
        return note

    def finish(self, view: RunView, report_folder: Path | None, state: State, patience_s: float = _PATIENCE_S) -> bool:
        """Deliver all that is left, then close the search's runs.

        Args:
            view: The run as the ledger tells it.
            report_folder: Where the report was written; none if there is none.
            state: How the search ended.
            patience_s: Give up when MLflow has answered nothing for this long.

        Returns:
            Whether MLflow now shows everything.
        """
        self._close = lambda: self._tracker.finish(view, report_folder, state)
        self._news.set()
        answered, since = -1, time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.05)
            if self._tracker.num_calls != answered:
                answered, since = self._tracker.num_calls, time.monotonic()
            if time.monotonic() - since > patience_s:
                break
        self.stop()
        return self._closed

    def stop(self) -> None:
        """End the thread as soon as it is not waiting for MLflow."""
        self._ended = True
        self._news.set()

    def _work(self) -> None:
        try:
            with Ledger(self._path) as ledger:
                self._deliver_until_closed(ledger)
        except Exception as error:  # the ledger itself cannot be read
            self._failed(error)

    def _deliver_until_closed(self, ledger: Ledger) -> None:
        pause = 0.0
        while not self._ended:
            self._news.wait(pause or None)
            self._news.clear()
            try:
                self._deliver(ledger)
                if self._close is not None and not self._ended:
                    self._close()
                    self._closed = True
                    return
                pause = 0.0
            except Exception as error:  # the boundary: whatever MLflow does, the search goes on
                self._failed(error)
                pause = min(_LONGEST_PAUSE_S, max(1.0, 2 * pause))

    def _deliver(self, ledger: Ledger) -> None:
        for event in ledger.events(self._seen):
            if self._ended:
                return
            if event.seq > self._view.num_events:
                fold(self._view, event)
            if event.seq > self._cursor:
                self._tracker.deliver(event, self._view)
                self._cursor = event.seq
            self._seen = event.seq

    def _failed(self, error: Exception) -> None:
        self.num_failures += 1
        if self.num_failures == 1:
            self._note = (
                f"MLflow ({self._tracker.uri}) could not be written ({one_line(error)}). The search goes on, its ledger"
                " keeps everything, and MLflow gets it as soon as it answers"
            )
