"""Wishes to end a search: Ctrl-C, SIGTERM and a closed terminal here, `stop` and `cancel` from elsewhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_CAUSES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class Stop:
    """Whether the search is to end, and who asked: `Ctrl-C`, `SIGTERM`, `SIGHUP`, `stop` or `cancel`."""

    def __init__(self) -> None:
        self.cause = ""

    def set(self, cause: str) -> None:
        """Ask the search to end."""
        self.cause = cause

    def is_set(self) -> bool:
        """Whether it is to end."""
        return bool(self.cause)


def exit_code(cause: str) -> int:
    """Give the exit code of a search that somebody stopped: that of the signal, and Ctrl-C's for `stop` and `cancel`."""
    return 128 + next((number for number, name in _CAUSES.items() if name == cause), signal.SIGINT)


@contextmanager
def interrupts() -> Iterator[Stop]:
    """Turn the first interrupt into a wish to stop; the second one raises as usual.

    A signal that whoever started this process has it ignore stays ignored, as SIGHUP is under `nohup`. A closed terminal may
    send SIGHUP more than once, the shell and the system each, so a second one means no more than the first.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            if number == signal.SIGHUP:
                return
            raise KeyboardInterrupt
        stop.set(_CAUSES[signal.Signals(number)])

    heard = [number for number in _CAUSES if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
