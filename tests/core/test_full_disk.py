"""A full disk is told from other errors, however it is wrapped."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from eed_search.core.full_disk import is_full_disk


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
