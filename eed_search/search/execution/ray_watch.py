"""Notices that a process without which Ray cannot go on is gone, before Ray ends the driver for it.

Losing a worker costs one trial a retry. Losing the raylet (which holds all workers) or the GCS (which knows where everything is)
costs the session: the search then ends in order, its trials open, and a resume goes on. Ray may ask a GCS that is gone without
ever giving the word back; then another thread ends the search in order.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from eed_search.core.errors import EedSearchError
from eed_search.search.execution.workers import SessionLost

_PATIENCE_S = 1.0  # between Ray's first complaint and the end of the process that it complains of
_STUCK_S = 10.0  # that the main thread stands in one call after such a process ended; Ray itself ends all after 60 s
_TICK_S = 0.25

GiveUp = Callable[[str], None]


class _Gone(BaseException):
    """No `Exception`: Tune would take it for a trial's."""


class Watch:
    """The processes that a Ray session cannot do without.

    Args:
        vital: Those of this machine that this process started, by what they are.
    """

    def __init__(self, vital: Mapping[str, subprocess.Popen[bytes]] | None = None) -> None:
        self._vital = dict(vital or {})
        self.give_up: GiveUp | None = None
        """Ends this process in another thread than the one that hangs in Ray; told what is gone."""

    def lost(self) -> str:
        """Say which of them is gone, and how it ended; nothing if all run."""
        for what, process in self._vital.items():
            if (code := process.poll()) is not None:
                how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
                return f"infrastructure: Ray's process {what} ({process.pid}) ended during the search ({how})"
        return ""

    def check(self) -> None:
        """Leave the block of `guarded` if one of them is gone, whatever stands in between."""
        if self.lost():
            raise _Gone

    def check_well(self) -> None:
        """The same, after a worker was lost: perhaps because one of them is about to be gone."""
        if self._lost_soon(_PATIENCE_S if self._vital else 0.0):
            raise _Gone

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn whatever goes wrong because one of them is gone into one error.

        Raises:
            SessionLost: Says which, and how it ended.
        """
        try:
            with self._given_up_if_stuck():
                yield
        except (KeyboardInterrupt, SystemExit, SessionLost):
            raise
        except BaseException as error:
            if lost := self._lost_soon(_PATIENCE_S if self._vital and _may_be_its_fault(error) else 0.0):
                raise SessionLost(lost) from error
            raise

    @contextmanager
    def _given_up_if_stuck(self) -> Iterator[None]:
        """Give up if one of them is gone and this thread does not come out of a call: nothing can call it back."""
        if not self._vital or (give_up := self.give_up) is None:
            yield
            return
        over, thread = threading.Event(), threading.get_ident()

        def look() -> None:
            while not over.wait(_TICK_S):
                if not (lost := self.lost()):
                    continue
                place, since = _place(thread), time.monotonic()
                while not over.wait(_TICK_S) and _place(thread) == place:
                    if time.monotonic() - since >= _STUCK_S:
                        give_up(lost)
                        return

        threading.Thread(target=look, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _lost_soon(self, patience_s: float) -> str:
        """Ask again for a moment: a process's sockets close before it is dead."""
        deadline = time.monotonic() + patience_s
        while not (lost := self.lost()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return lost


def _place(thread: int) -> tuple[int, int]:
    """Say at which instruction of which call a thread is."""
    frame = sys._current_frames().get(thread)
    return (id(frame), frame.f_lasti) if frame else (0, 0)


def _may_be_its_fault(error: BaseException) -> bool:
    """Whether an error is no clear one of our own, or says that a worker was lost."""
    return not isinstance(error, EedSearchError) or getattr(error, "reason", "") == "infrastructure"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
