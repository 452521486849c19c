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

from eed_search.runs.ledger import Ledger, RunView, fold
from eed_search.system.machine_faults import is_full_disk
from eed_search.tracking.mlflow_log import MlflowTracker, State
from eed_search.tracking.mlflow_store import one_line

_PATIENCE_S = 60.0
_LONGEST_PAUSE_S, _LAST_PAUSE_S = 60.0, 2.0  # between two attempts: while a search runs; while its end waits
_SAY_AFTER_S, _SAY_EVERY_S = 5.0, 20.0  # what an end waits for


class Outbox:
    """Delivers a ledger's events to a tracker that was started.

    Args:
        path: The ledger's file.
        tracker: Where they go; used by the outbox' own thread alone from here on.
        cursor: The last event that was delivered before.

    Attributes:
        num_failures: Calls to MLflow that failed.
        is_full: Whether the last of them failed because a disk is full.
    """

    def __init__(self, path: Path, tracker: MlflowTracker, cursor: int = 0) -> None:
        self.num_failures = 0
        self.is_full = False
        self._path = path
        self._tracker = tracker
        self._cursor = cursor
        self._view = RunView()
        self._note = ""
        self._close: Callable[[], None] | None = None
        self._closed = False
        self._ended = False
        self._calls_before = 0  # this attempt
        self._furthest = 0  # calls that an attempt came to
        self._last_error = ""
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

    def finish(
        self,
        view: RunView,
        report_folder: Path | None,
        state: State,
        patience_s: float = _PATIENCE_S,
        say: Callable[[str], None] = lambda text: None,
    ) -> bool:
        """Deliver all that is left, then close the search's runs.

        A full disk is not waited for.

        Args:
            view: The run as the ledger tells it.
            report_folder: Where the report was written; none if there is none.
            state: How the search ended.
            patience_s: Give up when MLflow has taken nothing new for this long.
            say: Told in a line what is waited for, if it lasts.

        Returns:
            Whether MLflow now shows everything.
        """
        self._close = lambda: self._tracker.finish(view, report_folder, state)
        self._news.set()
        self._furthest = 0
        taken, since = self._taken(), time.monotonic()
        next_word = since + _SAY_AFTER_S
        while self._thread.is_alive():
            self._thread.join(0.05)
            now = time.monotonic()
            if self._taken() != taken:
                taken, since = self._taken(), now
            if now - since > patience_s:
                break
            if now > next_word:
                next_word = now + _SAY_EVERY_S
                why = f" ({self._last_error})" if self._last_error else ""
                say(
                    f"waiting for MLflow ({self._tracker.uri}), which has not taken all of this search yet{why}; for"
                    f" {max(0.0, patience_s - now + since):.0f} s more, if it takes nothing new"
                )
        self.stop()
        return self._closed

    def _taken(self) -> tuple[int, int]:
        """Say how far MLflow has come: events, and calls of the longest attempt, since a repeated one is no progress."""
        self._furthest = max(self._furthest, self._tracker.num_calls - self._calls_before)
        return self._cursor, self._furthest

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
        finally:
            self._tracker.close()

    def _deliver_until_closed(self, ledger: Ledger) -> None:
        pause = 0.0
        while not self._ended:
            self._news.wait(pause or None)
            self._news.clear()
            self._calls_before = self._tracker.num_calls
            try:
                self._deliver(ledger)
                if self._close is not None and not self._ended:
                    self._close()
                    self._closed = True
                    return
                pause = 0.0
            except Exception as error:  # the boundary: whatever MLflow does, the search goes on
                self._failed(error)
                if self.is_full and self._close is not None:
                    return  # nobody makes room within the patience of an end
                longest = _LONGEST_PAUSE_S if self._close is None else _LAST_PAUSE_S
                pause = min(longest, max(1.0, 2 * pause))

    def _deliver(self, ledger: Ledger) -> None:
        for event in ledger.events(self._view.num_events):
            if self._ended:
                return
            fold(self._view, event)
            if event.seq > self._cursor:
                self._tracker.deliver(event, self._view)
            if self._tracker.is_full:
                self._flush()
        self._flush()

    def _flush(self) -> None:
        """Show what was taken in; what could not be shown stays with the tracker, for the next time."""
        self._tracker.flush()
        self._cursor = max(self._cursor, self._view.num_events)

    def _failed(self, error: Exception) -> None:
        self.num_failures += 1
        self.is_full = is_full_disk(error)
        self._last_error = one_line(error)
        if self.num_failures == 1:
            until = "there is room on its disk" if self.is_full else "it answers"
            self._note = (
                f"MLflow ({self._tracker.uri}) could not be written ({self._last_error}). The search goes on, its ledger"
                f" keeps everything, and MLflow gets it as soon as {until}"
            )
