"""Which addresses processes listen on, as Linux tells it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENS = "0A"


@dataclass(frozen=True)
class Listening:
    """A TCP socket that takes connections.

    Attributes:
        address: The interface's; `0.0.0.0` and `::` are all of them.
        port: Its number.
        pid: The process's.
        program: The process's name.
    """

    address: str
    port: int
    pid: int
    program: str

    @property
    def on_loopback(self) -> bool:
        """Whether no other machine reaches it."""
        there = ipaddress.ip_address(self.address)
        return there.is_loopback


def listening(pids: Iterable[int]) -> list[Listening]:
    """List the TCP sockets that some processes listen on, by port; one that several share is listed once."""
    open_here = dict(_table())
    found: dict[str, Listening] = {}
    for pid in pids:
        for inode in _sockets(pid):
            if inode in open_here:
                address, port = open_here[inode]
                found.setdefault(inode, Listening(address, port, pid, _program(pid)))
    return sorted(found.values(), key=lambda one: (one.port, one.address))


def _table() -> Iterator[tuple[str, tuple[str, int]]]:
    for path in _TABLES:
        with suppress(OSError):
            for line in path.read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENS:
                    address, _, port = words[1].partition(":")
                    yield words[9], (_address(address), int(port, 16))


def _address(text: str) -> str:
    """Read an address as the kernel writes it: words of four bytes, each in the machine's order."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _sockets(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(file)):
                    yield match[1]


def _program(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""
