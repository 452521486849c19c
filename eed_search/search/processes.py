"""Processes of this machine, and whether one stands still because somebody stopped it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_STOPPED = frozenset("Tt")  # by a signal or by job control; by a debugger


@dataclass(frozen=True)
class Process:
    """A process, known by where it runs, its id and when it started: ids are used again.

    Attributes:
        pid: Its id.
        born: When it started, in the system's ticks since it was switched on; 0 where the system does not tell.
        table: The machine's boot and the table of processes that the id belongs to; empty where the system does not tell.
    """

    pid: int
    born: int
    table: str

    def is_stopped(self) -> bool:
        """Whether it stands still, as far as this machine can tell: not of a process of another one."""
        if not self.table or self.table != _table():
            return False
        state, born = _looked_up(self.pid)
        return state in _STOPPED and born == self.born


@cache
def this_process() -> Process:
    """Describe this process."""
    return Process(os.getpid(), _looked_up(os.getpid())[1], _table())


@cache
def _table() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _looked_up(pid: int) -> tuple[str, int]:
    """Give a process's state (one letter) and when it started; an empty state if there is none."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    return "", 0
