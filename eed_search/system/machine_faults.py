"""Faults of the machine, told from those of a trial: a full disk, a file system that is gone, storage that is away.

A trial that meets one has done nothing wrong. It stays open, the search ends with one line that says what to
mend, and `resume` goes on from what is finished. Libraries wrap the system's error in their own, and what comes from
another process is only its words; so both are looked at.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

from eed_search.core.errors import MachineFault, StorageError, StoreError


@dataclass(frozen=True)
class _Kind:
    numbers: frozenset[int]
    words: re.Pattern[str]
    advice: str


_FULL = _Kind(
    frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG}),
    re.compile(
        r"no space left on device|disk quota exceeded|database or disk is full|could not extend file|\bdisk full\b"
        r"|local disk is full|file too large",
        re.I,
    ),
    "make room",
)
_KINDS = (
    _FULL,
    _Kind(
        frozenset({errno.EROFS}),
        re.compile(r"read-only file system|attempt to write a readonly database", re.I),
        "make it writable again",
    ),
    _Kind(
        frozenset({errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.EHOSTDOWN}),
        re.compile(
            r"input/output error|disk i/o error|stale file handle|transport endpoint is not connected|host is down",
            re.I,
        ),
        "look at the disk or at the network share",
    ),
    _Kind(
        frozenset({errno.EMFILE, errno.ENFILE}),
        re.compile(r"too many open files", re.I),
        "raise `ulimit -n`, or run fewer trials at once (larger resources.cpu)",
    ),
)


def is_full_disk(error: BaseException) -> bool:
    """Say whether an error comes from a disk, or a share of one, that has no room left."""
    return any(_is(_FULL, one) for one in _causes(error))


def machine_fault(error: BaseException) -> str:
    """Say in one line what is wrong with the machine, and what to do; nothing if the error is not of that kind.

    Args:
        error: What was raised; what it was made from is looked at too. An interrupt is none, whatever it interrupted.
    """
    if not isinstance(error, Exception):
        return ""
    for one in _causes(error):
        if isinstance(one, MachineFault | StorageError):
            return _first_line(str(one))
        if isinstance(one, StoreError) and (_is_any(one) or isinstance(one.__cause__, OSError)):
            return _first_line(str(one))
    for one in _causes(error):
        for kind in _KINDS:
            if _is(kind, one):
                return f"{_told(one, kind)}; {kind.advice}"
    return ""


def fault_in(text: str) -> str:
    """Say the same of an error that is only words, such as a traceback from another process."""
    for line in reversed(text.splitlines()):
        for kind in _KINDS:
            if kind.words.search(line):
                return f"{line.strip()[:300]}; {kind.advice}"
    return ""


def _is_any(error: BaseException) -> bool:
    return any(_is(kind, error) for kind in _KINDS)


def _is(kind: _Kind, error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in kind.numbers) or bool(kind.words.search(str(error)))


def _told(error: BaseException, kind: _Kind) -> str:
    if isinstance(error, OSError) and error.errno in kind.numbers:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    lines = str(error).splitlines()
    return next((line.strip()[:300] for line in lines if kind.words.search(line)), type(error).__name__)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and those that it was made from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
