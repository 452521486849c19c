"""Temporary folders and a lock that no other user of this machine can enter, exchange or stand in the way of.

Who may write to a folder may put something else in the place of what lies in it. So ours lie only where nobody but their owner
may rename them (`/tmp`, by its sticky bit), and each is looked at before it is believed: a folder and no link, ours, for us alone.
A note in it says which process made it; what a killed process has left is removed by a later command.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from eed_search.core.errors import RunError
from eed_search.system.processes import Process, this_process

SHARED_ROOTS = ("/tmp", "/var/tmp", "/dev/shm")  # shared by all processes of a machine, whatever their environment says
_PREFIX, _OWNER = "eed-", "owner.json"
_LARGEST_NOTE = 1000  # bytes
_OTHERS, _OTHERS_WRITE = stat.S_IRWXG | stat.S_IRWXO, stat.S_IWGRP | stat.S_IWOTH
_NAMES = 100  # for the folder of the lock: others may have taken the first ones
_CLEAR_S = 10.0
_UID_MAP, _OVERFLOW = Path("/proc/self/uid_map"), Path("/proc/sys/kernel/overflowuid")


# ---------------------------------------------------------------- temporary folders


@contextmanager
def temporary_folder(kind: str = "", longest: int | None = None) -> Iterator[Path]:
    """Make a folder for as long as the block lasts, for this user alone.

    Args:
        kind: A word for its name.
        longest: Bytes that the path of the folder around it may take; no limit by default.

    Raises:
        RunError: If no folder for temporary files is safe from other users; says what to do.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-" if kind else _PREFIX, dir=temporary_root(longest)))
    try:
        with (folder / _OWNER).open("x", encoding="utf-8") as note:
            json.dump(asdict(this_process()), note)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_root(longest: int | None = None, roots: Sequence[str] = SHARED_ROOTS) -> Path:
    """Find where temporary folders may lie: where `TMPDIR` says, else in the first of `roots` that is safe.

    Args:
        longest: Bytes that its path may take.
        roots: What else may do.

    Raises:
        RunError: If none does.
    """
    given = tempfile.gettempdir()
    for root in _safe((given, *roots)):
        if longest is None or len(os.fsencode(root)) <= longest:
            return root
    limit = "" if longest is None else f" of at most {longest} characters"
    raise RunError(
        f"TMPDIR: {given}: other users may exchange what lies in it, or its name is too long; take a folder{limit} that is"
        " yours alone: `mkdir -m 700 DIR`, then `export TMPDIR=DIR`"
    )


def clear_leftovers() -> None:
    """Remove the folders of processes that are gone, and end what still runs in them."""
    for root in _safe((tempfile.gettempdir(), *SHARED_ROOTS)):
        for folder in root.glob(f"{_PREFIX}*"):
            if (owner := owner_of(folder)) is not None and not owner.alive():
                end_holders(folder)
                shutil.rmtree(folder, ignore_errors=True)


def owner_of(folder: Path) -> Process | None:
    """Read which process made a temporary folder; none unless folder and note are this user's alone."""
    with suppress(OSError, ValueError, TypeError), _opened(folder) as inside:
        if _is_ours_alone(inside):
            note = os.open(_OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
            with open(note, "rb") as file:
                there = os.fstat(note)
                if stat.S_ISREG(there.st_mode) and there.st_uid == os.getuid():
                    return Process(**json.loads(file.read(_LARGEST_NOTE)))
    return None


def living_folders() -> list[tuple[Path, Process]]:
    """List this user's temporary folders whose makers still run."""
    found = []
    for root in _safe((tempfile.gettempdir(), *SHARED_ROOTS)):
        for folder in sorted(root.glob(f"{_PREFIX}*")):
            if (owner := owner_of(folder)) is not None and owner.alive():
                found.append((folder, owner))
    return found


def end_holders(folder: Path, patience_s: float = 0.0) -> None:
    """End the processes that work in a folder, but for this one.

    Args:
        folder: Folder of this user alone.
        patience_s: Seconds that they may take to end by themselves.
    """
    begun = time.monotonic()
    while (left := holders(folder)) and time.monotonic() - begun < patience_s + _CLEAR_S:
        for pid in left if time.monotonic() - begun >= patience_s else ():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def holders(folder: Path) -> list[int]:
    """List the processes that hold a file below a folder open, but for this one.

    Who only reads the owner's note, or holds folders while it removes them, clears up as we do and is none of them.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            if any(_works_in(folder, file) for file in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def _works_in(folder: Path, handle: Path) -> bool:
    """Whether a process's open file is one that only who works in the folder opens."""
    with suppress(OSError):  # closed meanwhile
        name = os.readlink(handle)
        note = f"{folder}/{_OWNER}"
        return name.startswith(f"{folder}/") and not name.startswith(note) and not handle.is_dir()
    return False


# ---------------------------------------------------------------- one lock for a user's processes


@contextmanager
def machine_lock(name: str, roots: Sequence[str] = SHARED_ROOTS) -> Iterator[None]:
    """Hold a lock that this user's processes on this machine share, and that no other user can take.

    Args:
        name: The lock's.
        roots: Where its folder may lie, the first safe one first.

    Raises:
        RunError: If none of them is safe from other users.
    """
    inside = _open_own_folder(roots)
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=inside)
    finally:
        os.close(inside)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _open_own_folder(roots: Sequence[str]) -> int:
    """Open the folder that all processes of this user find: the first of its names that is ours, else the first to be had.

    Raises:
        RunError: If none of the roots is safe from other users.
    """
    for root in _safe(roots):
        names = [root / f"eed-search-{os.getuid()}{'' if i == 0 else f'-{i}'}" for i in range(_NAMES)]
        for make in (False, True):
            for path in names:
                if make:
                    with suppress(FileExistsError):
                        path.mkdir(mode=0o700)
                with suppress(OSError), _opened(path) as inside:
                    if _is_ours_alone(inside):
                        return os.dup(inside)
    raise RunError(
        f"{', '.join(roots)}: other users may exchange what lies there; ask who runs this machine for `chmod 1777 /tmp`"
    )


# ---------------------------------------------------------------- what is safe


def _safe(roots: Sequence[str]) -> Iterator[Path]:
    """Give the folders that are there, can be written, and in which nobody else may rename what is ours; each once."""
    for root in dict.fromkeys(os.path.realpath(root) for root in roots):
        if os.access(root, os.W_OK | os.X_OK) and nobody_else_renames_in(Path(root)):
            yield Path(root)


def nobody_else_renames_in(folder: Path) -> bool:
    """Whether nobody but its owner and root may rename what lies in a folder, nor the folder, nor one above it.

    Args:
        folder: Absolute, without links.
    """
    trusted = {0, os.getuid()} | _unmapped()
    for one in (folder, *folder.parents):
        try:
            there = one.stat()
        except OSError:
            return False
        if there.st_uid not in trusted or (there.st_mode & _OTHERS_WRITE and not there.st_mode & stat.S_ISVTX):
            return False
    return True


def _unmapped() -> set[int]:
    """Give the id under which root is seen in a container that knows only some users, if this is one."""
    with suppress(OSError, ValueError, IndexError):
        if int(_UID_MAP.read_text(encoding="ascii").split()[2]) < 2**32 - 1:
            return {int(_OVERFLOW.read_text(encoding="ascii"))}
    return set()


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open a folder, and no link to one: what is looked at through it cannot be exchanged meanwhile."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)


def _is_ours_alone(handle: int) -> bool:
    there = os.fstat(handle)
    return there.st_uid == os.getuid() and not there.st_mode & _OTHERS
