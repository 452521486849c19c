"""Who drives a run: one process at a time, by a file lock that the system releases when its holder dies.

Beside the lock lies a note of who that is, for messages and for `status`.
"""

from __future__ import annotations

import fcntl
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from eed_search.core.errors import RunError, StoreError
from eed_search.runs.home_lock import in_use
from eed_search.runs.ledger import RunView
from eed_search.runs.moved import same_folder
from eed_search.storage.store import write_atomic
from eed_search.system.processes import Process, this_process

if TYPE_CHECKING:
    from filelock import FileLock

LOCK_FILE, DRIVER_FILE = "driver.lock", "driver.json"
_WAIT_S = 2.0  # `status` holds the lock for an instant


@contextmanager
def driving(folder: Path) -> Iterator[None]:
    """Hold a run's driver lock for as long as the block lasts, and leave a note of who does.

    Raises:
        RunError: If another process drives the run (names it), or its home is being cleaned.
        StoreError: If there are no file locks there.
    """
    with in_use(folder.resolve().parent), locked(folder):
        note = asdict(this_process()) | {"folder": str(folder.resolve())}
        write_atomic(folder / DRIVER_FILE, json.dumps(note).encode(), private=True)
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's driver lock without driving it, so that nobody else does meanwhile.

    Raises:
        RunError: If another process drives the run; names it.
        StoreError: If there are no file locks there.
    """
    from filelock import Timeout

    check_locks(folder)
    lock = _file_lock(folder)
    try:
        lock.acquire(timeout=_WAIT_S)
    except Timeout as error:
        there = noted(folder)
        who = f"process {there.pid}" if there else "another process"
        name = folder.name
        raise RunError(
            f"run {name}: still runs ({who}); watch it with `eed-search status {name} --watch`, or end it with"
            f" `eed-search stop {name}` first"
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_locks(folder: Path) -> None:
    """Refuse a folder on a file system without file locks, by trying one.

    Raises:
        StoreError: If there are none.
        OSError: If nothing can be written there.
    """
    with tempfile.TemporaryFile(dir=folder) as probe:
        try:
            fcntl.flock(probe.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"{folder}: its file system has no file locks ({error.strerror}), by which two searches are kept apart."
                " Choose a --home on a local disk, or have the file system mounted with locks (NFS: its lock service;"
                " Lustre: -o flock). Nothing was changed"
            ) from error


def driver_of(folder: Path) -> Process | None:
    """Give the process that drives a run now, or none."""
    from filelock import Timeout

    if not (folder / LOCK_FILE).exists():
        return None
    lock = _file_lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return noted(folder) or Process(0, 0)
    lock.release()
    return None


def run_state(folder: Path, view: RunView) -> str:
    """Say how a run is: `running`, `interrupted` (its driver is gone without an end), or as it ended."""
    if driver_of(folder) is not None:
        return "running"
    return "interrupted" if view.state == "running" else view.state


def noted(folder: Path) -> Process | None:
    """Read who drove a run last; none if nobody did, the note cannot be read, or it came with a copied folder."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        plain = json.loads((folder / DRIVER_FILE).read_text(encoding="utf-8"))
        where = plain.pop("folder", "")
        return None if where and not same_folder(Path(where), folder) else Process(**plain)
    return None


def wait_until_gone(driver: Process, seconds: float) -> bool:
    """Wait for a process to end.

    Returns:
        Whether it has ended.
    """
    deadline = time.monotonic() + seconds
    while driver.alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _file_lock(folder: Path) -> FileLock:
    from filelock import FileLock

    return FileLock(str(folder / LOCK_FILE))
