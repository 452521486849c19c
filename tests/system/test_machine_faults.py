"""Faults of the machine are told from those of a trial, however they are wrapped."""

from __future__ import annotations

import errno
import pickle
import sqlite3
import traceback

import pytest

from eed_search.core.errors import MachineFault, StorageError, StoreError, TrialFailure
from eed_search.system.machine_faults import fault_in, is_full_disk, machine_fault


def wrapped(error: Exception, *, hidden: bool = False) -> Exception:
    """Raise one error because of, or while handling, another."""
    try:
        try:
            raise error
        except Exception as inner:
            if hidden:
                raise ValueError("something") from None
            raise ValueError("something") from inner
    except ValueError as outer:
        return outer


def test_a_real_one() -> None:
    """What the system says when nothing more can be written."""
    with pytest.raises(OSError, match="No space") as caught, open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")
    assert is_full_disk(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "x"),
        OSError(errno.EDQUOT, "x"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("API request failed: [Errno 28] No space left on device: '/srv/x'"),
        RuntimeError('could not extend file "base/1/2": No space left on device'),
    ],
)
def test_by_number_or_by_words(error: Exception) -> None:
    """Of the system, of SQLite, of PostgreSQL, of a server; also inside another error."""
    assert is_full_disk(error)
    assert is_full_disk(wrapped(error))
    assert is_full_disk(wrapped(error, hidden=True))


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "x"), sqlite3.OperationalError("database is locked"), ValueError()]
)
def test_other_errors_are_others(error: Exception) -> None:
    """They may pass."""
    assert not is_full_disk(error)
    assert not is_full_disk(wrapped(error))


def stored(error: Exception) -> StoreError:
    """What the store makes of an error of the system."""
    made = StoreError(f"/home/store/x: cannot be written ({error.args[-1]}); free the disk or choose another --home")
    made.__cause__ = error
    return made


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: No space left on device; make room"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system; make it writable again"),
        (OSError(errno.EIO, "Input/output error", "/x"), "/x: Input/output error; look at the disk or"),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle; look at the disk or at the network share"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; raise `ulimit -n`"),
        (sqlite3.OperationalError("disk I/O error"), "disk I/O error; look at the disk"),
        (
            sqlite3.OperationalError("attempt to write a readonly database"),
            "attempt to write a readonly database; make",
        ),
        (StorageError("storage s3://b: x cannot be read (away)"), "storage s3://b: x cannot be read (away)"),
        (MachineFault("the raylet is gone"), "the raylet is gone"),
        (
            stored(OSError(errno.EACCES, "Permission denied")),
            "/home/store/x: cannot be written (Permission denied); free",
        ),
        (
            stored(OSError(errno.ENOSPC, "No space left on device")),
            "/home/store/x: cannot be written (No space left on",
        ),
    ],
)
def test_faults_of_the_machine_are_one_line_with_what_to_do(error: Exception, line: str) -> None:
    """Bare, inside another error, and after the way from another process, on which only words are kept."""
    assert machine_fault(error).startswith(line)
    assert machine_fault(wrapped(error)).startswith(line)
    assert "\n" not in machine_fault(error)
    there = pickle.loads(pickle.dumps(error))
    if not isinstance(error, StoreError) or "No space" in str(error):
        assert machine_fault(there) == machine_fault(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a trial's own"),
        OSError(errno.ENOENT, "No such file or directory", "weights.npz"),
        OSError(errno.EACCES, "Permission denied", "/data"),
        MemoryError(),
        StoreError("/store: no sound artifact team.1/x; it was deleted or altered"),
        TrialFailure("diverged", "the loss is NaN"),
    ],
)
def test_what_is_the_trials_own_is_none(error: Exception) -> None:
    """It is written down as the trial's end, and the search goes on."""
    assert machine_fault(error) == ""
    assert fault_in("".join(traceback.format_exception(error))) == ""


def test_an_interrupt_is_none() -> None:
    """Ctrl-C while a full disk is dealt with still ends the search as Ctrl-C does."""
    interrupt = KeyboardInterrupt()
    interrupt.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert machine_fault(interrupt) == ""


def test_a_traceback_of_another_process_is_read_from_its_end() -> None:
    """The last line that says so is the one that is shown."""
    text = (
        "Traceback\n  File x\nOSError: [Errno 28] No space left on device: '/tmp/a'\n\nDuring handling\nKeyError: 3\n"
    )
    assert fault_in(text) == "OSError: [Errno 28] No space left on device: '/tmp/a'; make room"
