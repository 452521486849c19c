"""Who uses a home: any number of searches at once, or the one process that cleans it.

A lock of the system on one file of the home, shared by those who search and held alone by who cleans. It goes when
its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eed_search.core.errors import RunError
from eed_search.system.modes import make_common_file

LOCK_NAME = ".home.lock"
_WAIT_S = 2.0


@contextmanager
def in_use(home: Path) -> Iterator[None]:
    """Keep a home from being cleaned for as long as the block lasts.

    Raises:
        RunError: If it is being cleaned.
    """
    with _held(home, fcntl.LOCK_SH) as held:
        if not held:
            raise RunError(f"{home}: is being cleaned (`eed-search clean`); wait until it is done. Nothing was changed")
        yield


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold a home alone for as long as the block lasts: nobody begins to search there meanwhile.

    Raises:
        RunError: If somebody searches, attacks or cleans there.
    """
    with _held(home, fcntl.LOCK_EX) as held:
        if not held:
            raise RunError(
                f"{home}: is in use by a search, an attack, a benchmark or another `clean`; wait for it, or end it"
                " (`eed-search status`, `eed-search stop`). Nothing was changed"
            )
        yield


@contextmanager
def _held(home: Path, how: int) -> Iterator[bool]:
    path = home / LOCK_NAME
    try:
        make_common_file(path)
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        if how == fcntl.LOCK_EX:
            raise
        yield True  # another user's home, read by us: we cannot be the reason that something there is needed
        return
    try:
        deadline = time.monotonic() + _WAIT_S
        while not (held := _try(handle, how)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield held
    finally:
        os.close(handle)


def _try(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
