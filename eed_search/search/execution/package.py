"""What travels to a cluster with a job: this installation's code, the search-space file and the code that it names.

The code travels so that laptop and cluster cannot run different versions of it; the cluster brings the libraries.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import eed_search
from eed_search.core.errors import RunError

MAX_BYTES = 20 * 2**20
JOB_VARIABLE = "EED_SEARCH_JOB"  # set by whoever sends a command as a job, with the code
_PATTERNS = ("*.py", "py.typed", "runtimes.json")


def is_sent() -> bool:
    """Say whether this process is itself the job that a laptop sent, and has said where it runs."""
    return bool(os.environ.get(JOB_VARIABLE))


def pack(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Lay out what travels.

    Args:
        folder: An empty folder.
        files: More files for it, path to content: the search-space file, the user's own code.

    Returns:
        The folder.

    Raises:
        RunError: If it is too large to be sent.
    """
    source = Path(eed_search.__file__).parent
    for pattern in _PATTERNS:
        for path in source.rglob(pattern):
            target = folder / "eed_search" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise RunError(
            f"{source}: {size / 2**20:.0f} MiB of code are too much to send with a search (at most {MAX_BYTES >> 20} MiB);"
            " remove what does not belong there"
        )
    return folder
