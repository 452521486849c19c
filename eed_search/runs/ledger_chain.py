"""The chain of a ledger's events: each carries a digest of its stored bytes and of the digest before it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

EventKind = Literal[
    "run",
    "stage",
    "base",
    "control",
    "proposal",
    "attempt",
    "rivals",
    "report",
    "decision",
    "result",
    "latency",
    "confirmed",
    "fresh",
    "look",
    "attack",
    "note",
    "tracker",
    "request",
    "resume",
    "end",
]
FILE_NAME = "ledger.sqlite"
_CHAINED = "SELECT seq, kind, trial, data, at, digest FROM event WHERE seq > ? ORDER BY seq"
_UNCHAINED = "SELECT seq, kind, trial, data, at, NULL FROM event WHERE seq > ? ORDER BY seq"


@dataclass(frozen=True)
class Event:
    """One line of the ledger.

    Attributes:
        seq: Counts from 1 without gaps.
        kind: What happened.
        trial: The trial it belongs to, or none.
        data: The facts, JSON-ready.
        at: Seconds since 1970 when it was written; for people, not for order.
    """

    seq: int
    kind: EventKind
    trial: int | None
    data: dict[str, Any]
    at: float


class Link(NamedTuple):
    """Where the chain stands: the last event's number and digest; no digest where there are none."""

    seq: int
    digest: bytes | None


class Row(NamedTuple):
    """An event as it is stored; whatever SQLite found there."""

    seq: Any
    kind: Any
    trial: Any
    data: Any
    at: Any
    digest: Any


class Damage(ValueError):
    """An event is not the one that was written."""


START = Link(0, bytes(32))


def chained(before: Link, kind: Any, trial: Any, data: Any, at: Any) -> Row:
    """Make the event after another one, with the digest of its bytes and of the digest before it.

    Args:
        before: The event before it.
        kind: As it is stored: bytes of UTF-8.
        trial: A whole number, or none.
        data: As it is stored: bytes of UTF-8.
        at: Seconds since 1970.

    Raises:
        Damage: If they are nothing that was ever written.
    """
    seq = before.seq + 1
    return Row(seq, kind, trial, data, at, _digest(before.digest or b"", seq, kind, trial, data, at))


def _digest(before: bytes, seq: Any, kind: Any, trial: Any, data: Any, at: Any) -> bytes:
    try:
        head = struct.pack(">q?qdI", seq, trial is None, trial or 0, at, len(kind))
        return hashlib.sha256(b"".join((before, head, kind, data))).digest()
    except (struct.error, TypeError, OverflowError) as error:
        raise Damage("it holds what no event holds") from error


def checked(row: Row, before: Link, has_digest: bool) -> None:
    """Hold a stored event against the one before it.

    Raises:
        Damage: If it is not the one that was written.
    """
    if row.seq != before.seq + 1:
        raise Damage("it is missing")
    if has_digest and row.digest != _digest(before.digest or b"", *row[:5]):
        raise Damage("its bytes are not those that were written")


def to_event(row: Row) -> Event:
    """Read a stored event.

    Raises:
        ValueError: If it is no JSON, or no event at all.
    """
    try:
        kind: Any = row.kind.decode()
        data = json.loads(row.data)
    except (AttributeError, TypeError, UnicodeDecodeError) as error:
        raise Damage("it is no text") from error
    if not isinstance(data, dict):
        raise Damage("it is no table")
    return Event(row.seq, kind, row.trial, data, row.at)


def has_digests(database: sqlite3.Connection) -> bool:
    """Say whether a ledger's events carry digests."""
    return any(column[1] in ("digest", b"digest") for column in database.execute("PRAGMA table_info(event)"))


def stored_rows(database: sqlite3.Connection, after: int, has_digest: bool) -> Iterator[Row]:
    """Read events as they are stored, in order; `database` gives texts as bytes."""
    for found in database.execute(_CHAINED if has_digest else _UNCHAINED, (after,)):
        yield Row(*found)
