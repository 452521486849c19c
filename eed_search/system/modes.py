"""Who may read what we make: its owner, and the group where the folder that it lies in is a group's.

Settings, measurements and notes of a search say where data and servers are, so they are nobody else's business. A
folder is a group's if the group may write to it, or if the group may read it and others may not; one that
everybody may write to is nobody's. What is there already keeps its modes.
"""

from __future__ import annotations

import os
from pathlib import Path


def file_mode(folder: Path) -> int:
    """Give the permission bits of a file that we make in a folder: 0600, or with the group's."""
    return 0o600 | (_group_of(folder) & 0o060)


def folder_mode(folder: Path) -> int:
    """Give the permission bits of a folder that we make in a folder: 0700, or with the group's."""
    return 0o700 | _group_of(folder)


def make_folder(path: Path) -> None:
    """Make a folder for us alone, or for the group as well; one that is there stays as it is, as do those above it.

    Raises:
        OSError: If it cannot be made.
    """
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        make_new_folder(path)
    except FileExistsError:
        if not path.is_dir():
            raise


def make_new_folder(path: Path) -> None:
    """Make a folder like `make_folder`, in one that is there.

    Raises:
        FileExistsError: If something of that name is there.
        OSError: If it cannot be made.
    """
    mode = folder_mode(path.parent)
    path.mkdir(mode=0o700)
    if mode != 0o700:
        path.chmod(mode | (path.stat().st_mode & 0o7000))  # a folder may hand its group on


def make_common_folder(path: Path) -> None:
    """Make a folder of a home that all who search there write to: as the umask has it, where others may enter the home.

    Raises:
        OSError: If it cannot be made.
    """
    parent = path.parent
    if parent.is_dir() and parent.stat().st_mode & 0o022:
        path.mkdir(exist_ok=True)
    else:
        make_folder(path)


def make_common_file(path: Path) -> None:
    """Make an empty file of a home that all who search there write to, by the rule of `make_common_folder`.

    Raises:
        OSError: If it cannot be made.
    """
    if path.parent.stat().st_mode & 0o022:
        path.touch(exist_ok=True)
    else:
        make_file(path)


def make_file(path: Path) -> None:
    """Make an empty file for us alone, or for the group as well; one that is there stays as it is.

    Raises:
        OSError: If it cannot be made.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    try:
        os.fchmod(handle, file_mode(path.parent))
    finally:
        os.close(handle)


def _group_of(folder: Path) -> int:
    """Give what the group may do in what is made in a folder, as permission bits."""
    mode = folder.stat().st_mode
    is_the_groups = not mode & 0o002 and (mode & 0o020 or not mode & 0o007)
    return mode & 0o070 & ~umask() if is_the_groups else 0


def umask() -> int:
    """Read the process' umask without changing it, where the system shows it."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except (OSError, ValueError, IndexError):
        pass
    return 0o022  # unknown: the group may not write
