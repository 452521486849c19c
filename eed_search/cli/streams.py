r"""Standard output and error that take whatever is printed: printing never fails a command.

    a character that the encoding lacks   is written in ASCII that can be read: ± as +-, others as \u00e9
    a pipe whose reader has gone           takes nothing more, quietly
    a full disk, a closed stream           takes nothing more; `complaint` says so when the command is done

A search must not end because somebody stopped reading, and its result lies in its ledger anyway.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import MutableMapping
from typing import Any

ERRORS = "eed-readable"  # what we call our way with characters that an encoding lacks
_READABLE = {
    "±": "+-", "×": "x", "ε": "eps", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "←": "<-", "·": "*",
    "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "∞": "inf", "µ": "u", "μ": "u", "²": "2", "½": "1/2", "¼": "1/4",
    "ρ": "rho", "δ": "delta", "φ": "phi", "‖": "|", "│": "|", "├": "+", "└": "+", "─": "-", "━": "=", "╌": "-",
    "“": '"', "”": '"', "‘": "'", "’": "'", "\N{NO-BREAK SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " ",
}  # fmt: skip


def guard_streams() -> None:
    """Put streams that never fail in the place of this process's; call it once, before anything is printed or opened."""
    closed = _fill_descriptors()
    codecs.register_error(ERRORS, _readable)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            raw = _Raw(descriptor, closed=descriptor in closed)
            setattr(sys, name, _text(raw, "utf-8", line_buffering=True))
        elif isinstance(stream, io.TextIOWrapper) and not isinstance(_raw_of(stream), _Raw):
            stream.flush()
            raw = _Raw(stream.fileno(), closed=descriptor in closed)
            at_once = stream.line_buffering or stream.write_through
            setattr(sys, name, _text(raw, stream.encoding, line_buffering=at_once))


def for_children(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let Python processes that this one starts print as safely: Ray's workers, MLflow's server.

    Args:
        environment: Changed in place.
    """
    encoding = environment.get("PYTHONIOENCODING", "").partition(":")[0]
    environment["PYTHONIOENCODING"] = f"{encoding}:backslashreplace"
    if codecs.lookup(sys.getfilesystemencoding()).name in ("utf-8", "ascii"):  # file names mean the same then
        environment["PYTHONUTF8"] = "1"


def complaint(stream: str = "stdout") -> str:
    """Say why a stream did not take everything; nothing where it did, or where its reader has just gone."""
    error = _lost(stream)
    if error is None or error.errno == errno.EPIPE:
        return ""
    why = "is closed" if error.errno == errno.EBADF else f"cannot be written ({error.strerror})"
    return f"{stream}: {why}"


def is_heard() -> bool:
    """Say whether what is printed still arrives: else nobody needs to be told anything more."""
    return _lost("stdout") is None


def encodes_all() -> bool:
    """Say whether standard output can show every character."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


class _Raw(io.FileIO):
    """A file descriptor that keeps its first error to itself, and swallows what comes after it.

    Args:
        descriptor: Stays open when this is closed.
        closed: Whether whoever started this process had closed it.
    """

    def __init__(self, descriptor: int, *, closed: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.lost = OSError(errno.EBADF, os.strerror(errno.EBADF)) if closed else None

    def write(self, data: Any, /) -> int:
        """Write all of it, or say so."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left and self.lost is None:
                if (written := super().write(left)) is None:  # a terminal or pipe that somebody set not to block
                    select.select([], [self], [])
                else:
                    left = left[written:]
        except OSError as error:
            self.lost = error
        return size


def _text(raw: _Raw, encoding: str, *, line_buffering: bool) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=ERRORS, line_buffering=line_buffering)


def _raw_of(stream: Any) -> Any:
    return getattr(getattr(stream, "buffer", None), "raw", None)


def _lost(stream: str) -> OSError | None:
    there = getattr(sys, stream)
    if not isinstance(raw := _raw_of(there), _Raw):
        return None
    there.flush()
    return raw.lost


def _fill_descriptors() -> set[int]:
    """Open the standard descriptors that are closed: the next file, such as a ledger, would get their numbers."""
    closed = set()
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.add(descriptor)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    return closed


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_in_ascii(one) for one in error.object[error.start : error.end]), error.end


def _in_ascii(character: str) -> str:
    """Write one character in ASCII; in the way that JSON reads too, where there is no better one."""
    if (known := _READABLE.get(character)) is not None:
        return known
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
