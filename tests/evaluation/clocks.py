"""Clocks for the tests that time something: one that the machine's speed does not move, one that its load does not."""

from __future__ import annotations

import time
from collections.abc import Callable

from eed_search.evaluation.timing import Clock

COMPUTING = Clock(time.process_time_ns, time.process_time_ns)
"""Counts what this process computes and not what it waits for: others may keep the processor busy."""


def ticking(step_ms: Callable[[], float] = lambda: 0.1) -> Clock:
    """Make a clock that moves on by one step each time that it is asked how late it is: a call takes one step.

    Args:
        step_ms: Gives the next step in milliseconds.
    """
    now_ns = 0

    def late() -> int:
        nonlocal now_ns
        now_ns += round(1e6 * step_ms())
        return now_ns

    return Clock(late, lambda: now_ns)
