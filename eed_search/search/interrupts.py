"""Wishes to end a search: Ctrl-C and SIGTERM here, `stop` and `cancel` from elsewhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether the search is to end, and who asked: `Ctrl-C`, `SIGTERM`, `stop` or `cancel`."""

    def __init__(self) -> None:
        self.cause = ""

    def set(self, cause: str) -> None:
        """Ask the search to end."""
        self.cause = cause

    def is_set(self) -> bool:
        """Whether it is to end."""
        return bool(self.cause)


@contextmanager
def interrupts() -> Iterator[Stop]:
    """Turn the first interrupt into a wish to stop; the second one raises as usual."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    causes = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set(causes[signal.Signals(number)])

    before = {number: signal.signal(number, on_signal) for number in causes}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
