"""Homes can be moved, and copied: what lay inside a home is found in the home where the run lies now.

The ledger keeps the home that its search-space file was written in. A path below that one, which the home of now has
too, means the home of now: so a copy reads and writes its own files, and the original stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

_OWN_DATABASE = re.compile(r"sqlite:///(/.*)/mlflow\.db")


def home_of_database(uri: str) -> str:
    """Give the home whose own MLflow database an address names; empty if it names another one."""
    found = _OWN_DATABASE.fullmatch(uri)
    return found[1] if found else ""


def same_tracker(before: object, now: str) -> bool:
    """Whether two addresses of MLflow mean the same, where a home may have been moved in between."""
    return before == now or (isinstance(before, str) and bool(home_of_database(before) and home_of_database(now)))


def same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, such as by a link or by another mount."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def path_now(path: str, before: str, home: Path) -> str:
    """Give the place of what lay in a home.

    Args:
        path: Absolute, as it was written down.
        before: The home then; empty where nobody knows.
        home: The home now.

    Returns:
        The place in the home now, if the path lay below the other one and it is there; else the path.
    """
    home = home.resolve()
    if not before or PurePath(before) == home or same_folder(Path(before), home):
        return path
    try:
        there = home / PurePath(path).relative_to(before)
    except ValueError:
        return path
    return str(there) if there.exists() else path


def spec_now(spec: Mapping[str, Any], before: str, home: Path) -> dict[str, Any]:
    """Copy a search-space file's content with the data where they lie now."""
    plain = dict(spec)
    data = plain.get("data")
    if isinstance(data, Mapping) and isinstance(path := data.get("path"), str):
        plain["data"] = {**data, "path": path_now(path, before, home)}
    return plain
