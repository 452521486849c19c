"""Another user of this machine, for tests of what he can reach. Only root may become one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

UID = 65534  # nobody
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


def started_as_other(script: str, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start a shell script as another user."""
    return subprocess.Popen(
        ["sh", "-c", script, "sh", *map(str, arguments)],
        user=UID,
        group=UID,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


def as_other(script: str, *arguments: str | Path) -> str:
    """Run a shell script as another user; gives what it printed."""
    said, _ = started_as_other(script, *arguments).communicate()
    return said


def can_be_changed(path: Path) -> str:
    """Say what another user could do to a file or folder; nothing if he cannot reach or change it."""
    for one in reversed(path.parents):
        if not _may(one, 0o1):
            return ""  # he does not get there
        if _may(one, 0o2) and not one.stat().st_mode & 0o1000:
            return f"exchange what lies in {one}"
    return f"write {path}" if not path.is_symlink() and path.exists() and _may(path, 0o2) else ""


def _may(path: Path, bit: int) -> bool:
    there = path.stat()
    shift = 6 if there.st_uid == UID else 3 if there.st_gid == UID else 0
    return bool(there.st_mode >> shift & bit)
