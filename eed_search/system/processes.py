"""Processes known by more than their id, which is used again: by when they started, and for others to ask, by machine too."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_STOPPED = frozenset("Tt")  # by a signal or by job control; by a debugger


@dataclass(frozen=True)
class Process:
    """One process of this machine.

    Attributes:
        pid: Its id.
        born: When it started, in the system's ticks since it was switched on; 0 where the system does not tell.
    """

    pid: int
    born: int

    def alive(self) -> bool:
        """Whether that very process still runs."""
        return born(self.pid) == self.born if self.born else _exists(self.pid)


@dataclass(frozen=True)
class Worker(Process):
    """A process that another one asks about, perhaps from another machine.

    Attributes:
        table: The machine's boot and the table of processes that the id belongs to; empty where the system does not tell.
    """

    table: str = ""

    def is_stopped(self) -> bool:
        """Whether it stands still because somebody stopped it, as far as this machine can tell: not of another one's."""
        if not self.table or self.table != _table():
            return False
        state, began = _looked_up(self.pid)
        return state in _STOPPED and began == self.born


@cache
def this_worker() -> Worker:
    """Describe this process for others."""
    return Worker(os.getpid(), born(os.getpid()), _table())


def this_process() -> Process:
    """Describe this process."""
    return process(os.getpid())


def process(pid: int) -> Process:
    """Describe the process that has an id now."""
    return Process(pid, born(pid))


def born(pid: int) -> int:
    """Read when a process started; 0 if there is no such process, or it is dead and only waited for."""
    state, began = _looked_up(pid)
    return 0 if state in ("Z", "X") else began


def _looked_up(pid: int) -> tuple[str, int]:
    """Give a process's state (one letter) and when it started; an empty state if there is none."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    return "", 0


@cache
def _table() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _exists(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
