"""Processes known by more than their id, which is used again: by when they started, too."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


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


def this_process() -> Process:
    """Describe this process."""
    return process(os.getpid())


def process(pid: int) -> Process:
    """Describe the process that has an id now."""
    return Process(pid, born(pid))


def born(pid: int) -> int:
    """Read when a process started; 0 if there is no such process, or it is dead and only waited for."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    return 0


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
