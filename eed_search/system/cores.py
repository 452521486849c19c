"""How many processor cores this process may use: the one answer for launch, dry run, doctor, workers and threads.

A machine's cores are not always ours: `taskset` and batch systems pin a process to some, containers give it a quota of
time. Both count, and the least decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_V1_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def usable_cores(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Count the cores that this process may use, at least 1.

    Args:
        cgroups: Where Linux mounts its control groups.
        membership: The file that says in which of them this process is.

    Returns:
        The fewest of: cores of the machine, cores that it is pinned to, whole cores of its quota.
    """
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([pinned, *(int(quota) for quota in _quotas(cgroups, membership))]))


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """Give every quota that holds for this process, in cores: its own group's, and those of the groups around it."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            for mount in ("", "unified"):
                yield from _along(cgroups / mount, group, _v2)
        elif "cpu" in controllers.split(","):
            for mount in dict.fromkeys((controllers, *_V1_MOUNTS)):
                yield from _along(cgroups / mount, group, _v1)


def _along(mount: Path, group: str, read: Callable[[Path], float | None]) -> Iterator[float]:
    """Read a group's quota and those above it; in a container the group's name may be one of outside, and only `/` is there."""
    folder = mount / os.path.normpath(f"/{group}").strip("/")
    while folder.is_relative_to(mount):
        with suppress(OSError, ValueError):
            if (quota := read(folder)) is not None:
                yield quota
        folder = folder.parent


def _v2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    return None if quota == "max" else _share(int(quota), int(period))


def _v1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
    return _share(quota, int((folder / "cpu.cfs_period_us").read_text(encoding="ascii")))


def _share(quota: int, period: int) -> float | None:
    return quota / period if quota > 0 and period > 0 else None
