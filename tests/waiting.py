"""Waiting for what another process or thread does: as long as it takes, however slow the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HANGS_S = 600.0
"""After so long something hangs. No test's outcome depends on it: what is waited for happens, or never does."""


@contextmanager
def ended_afterwards(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no process of a test behind."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(condition: Callable[[], Any], every_s: float = 0.02) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {HANGS_S:g} s"
        time.sleep(every_s)
