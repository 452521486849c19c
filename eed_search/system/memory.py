"""How much memory this process may still take. Loads neither torch nor Ray."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

_MEMINFO, _VMSTAT, _CGROUP = Path("/proc/meminfo"), Path("/proc/vmstat"), Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Give the least of what the system, the container and the process's own limit leave; none where nobody tells.

    Args:
        meminfo: The system's account.
        cgroup: Folder of the container's, version 2 or 1.
    """
    found = [_left_on_system(meminfo), _left_in_container(cgroup), _left_to_process()]
    return min((one for one in found if one is not None), default=None)


def memory_kills(vmstat: Path = _VMSTAT, cgroup: Path = _CGROUP) -> int:
    """Count the processes that the system has killed for want of memory since it started, as far as it tells.

    Args:
        vmstat: The system's counters.
        cgroup: Folder of the container's, version 2.
    """
    found = [0]
    for path in (vmstat, cgroup / "memory.events"):
        with suppress(OSError, ValueError):
            table = dict(line.split() for line in path.read_text(encoding="utf-8").splitlines())
            found.append(int(table.get("oom_kill", 0)))
    return max(found)


def _left_on_system(meminfo: Path) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _left_in_container(cgroup: Path) -> int | None:
    for folder, most, used in (
        (cgroup, "memory.max", "memory.current"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            limit = int((folder / most).read_text(encoding="utf-8"))  # version 2 says "max" where there is none
            cached = _cached(folder / "memory.stat")
            return max(0, limit - int((folder / used).read_text(encoding="utf-8")) + cached)
    return None


def _cached(stat: Path) -> int:
    """Count the bytes of files that the system gives back when it needs them."""
    with suppress(OSError, ValueError):
        table = dict(line.split() for line in stat.read_text(encoding="utf-8").splitlines())
        return int(table.get("inactive_file", table.get("total_inactive_file", 0)))
    return 0


def _left_to_process() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    with suppress(OSError, ValueError, IndexError):
        taken = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        return max(0, limit - taken)
    return limit
