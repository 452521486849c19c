"""Which folders can hold searches: every library that a home's path goes through must read the same folder in it.

MLflow and SQLAlchemy take addresses, not paths. In an address `?` begins a query and `%20` is a space; escaped for the one,
they mean another folder to the other, so that a database would lie outside of the home. Other characters mean
themselves to all of them.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from eed_search.core.errors import SpecError

SPACE_FILE = "search_space.yaml"  # in a run's folder
_WRONG = (
    (re.compile(r"\?"), "a question mark"),
    (re.compile(r"%[0-9A-Fa-f]{2}"), "a percent sign before two hexadecimal digits"),
    (re.compile(r"[\x00-\x1f\x7f]"), "a line break or another control character"),
)


def path_problem(path: Path) -> str:
    """Say what keeps MLflow's files from lying below a folder; nothing if they can.

    Args:
        path: As given; judged as it is when links and what is relative are resolved.
    """
    text = str(path)
    if "\0" not in text:  # the system knows no such path
        text = str(path.expanduser().resolve())
    found = [what for pattern, what in _WRONG if pattern.search(text)]
    if not _is_utf8(text):
        found.append(
            f"bytes that are no UTF-8 (here file names are {sys.getfilesystemencoding()}; LC_ALL=C.UTF-8 helps)"
        )
    return "" if not found else f"holds {' and '.join(found)}, which SQLAlchemy or MLflow would take for something else"


def _is_utf8(text: str) -> bool:
    """Say whether the system reads a name as databases do, which take UTF-8 whatever the locale."""
    try:
        return os.fsencode(text) == text.encode("utf-8")
    except UnicodeEncodeError:
        return False


def check_home(home: Path) -> Path:
    """Refuse a home that not everything can lie below, before anything is made; gives the home.

    Raises:
        SpecError: If so.
    """
    if problem := path_problem(home):
        shown = str(home.expanduser().resolve()) if "\0" not in str(home) else str(home)
        raise SpecError(
            [
                f"--home {shown!r}: {problem}; allowed: any other characters, spaces too; choose another --home"
                " (or EED_SEARCH_HOME)"
            ]
        )
    return home
