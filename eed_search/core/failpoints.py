"""Fail points: places where a test lets the program be killed, raise, wait, or find the disk full.

`EED_SEARCH_FAILPOINT="ledger.appended:kill:7"` kills this process at the seventh event that it has
written; several are parted by commas. Without the variable, a fail point costs one look-up.

    kill    SIGKILL to this process        raise   a RuntimeError
    sleep   an hour, as if it hung         enospc  the error of a full disk
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable

VARIABLE = "EED_SEARCH_FAILPOINT"
POINTS = (
    "ledger.append",  # before an event is written
    "ledger.appended",  # after it is on the disk
    "race.decide",  # a trial's report at a rung is in the ledger, whether it goes on is not
    "study.tell",  # a trial's end is in the ledger, Optuna does not know it
    "study.rebuilt",  # Optuna's study was made again, the search has not begun
    "tracker.create",  # before a run is made in MLflow
    "tracker.created",  # after it, before anything else knows its id
    "tracker.close",  # before a run is closed in MLflow
    "driver.trials_done",  # after the last trial, before the final latencies
    "finals.look",  # everything of a look at the frontier's candidates is measured, its decision is not written
    "driver.report",  # before the report is written
    "training.step",  # an optimiser step is done, and no checkpoint after it is written
    "checkpoint.write",  # before a checkpoint of unfinished work is written in one place
    "benchmark.network",  # a pruned network of a benchmark has been attacked
)
_HANG_S = 3600.0

_calls: Counter[str] = Counter()


def fail_point(name: str) -> None:
    """Do what the environment asks for at this place, at the nth time it is reached.

    Args:
        name: One of `POINTS`.

    Raises:
        RuntimeError: Where `raise` is asked for.
        OSError: With `ENOSPC`, where `enospc` is asked for.
        ValueError: If the variable names no such point or action.
    """
    if not (text := os.environ.get(VARIABLE, "")):
        return
    wanted = [_parse(one) for one in text.split(",")]
    _calls[name] += 1
    for point, action, nth in wanted:
        if point == name and _calls[name] == nth:
            _ACTIONS[action](name)


def _parse(text: str) -> tuple[str, str, int]:
    point, _, rest = text.strip().partition(":")
    action, _, nth = rest.partition(":")
    if point not in POINTS or action not in _ACTIONS or not (nth or "1").isdigit() or nth == "0":
        raise ValueError(
            f"{VARIABLE}={text!r}: must be NAME:ACTION or NAME:ACTION:NTH;"
            f" names: {', '.join(POINTS)}; actions: {', '.join(_ACTIONS)}; NTH counts from 1"
        )
    return point, action, int(nth or "1")


def _kill(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(name: str) -> None:
    raise RuntimeError(f"fail point {name}")


def _sleep(name: str) -> None:
    time.sleep(_HANG_S)


def _enospc(name: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_ACTIONS: dict[str, Callable[[str], None]] = {"kill": _kill, "raise": _raise, "sleep": _sleep, "enospc": _enospc}
