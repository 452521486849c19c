"""What travels to a cluster with a job: this installation's code and the search-space file, nothing else.

The code travels so that laptop and cluster cannot run different versions of it; the cluster brings the libraries.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import eed_search
from eed_search.core.errors import RunError

MAX_BYTES = 20 * 2**20
_PATTERNS = ("*.py", "py.typed")


def pack(folder: Path, files: Mapping[str, str]) -> Path:
    """Lay out what travels.

    Args:
        folder: An empty folder.
        files: More files for it, name to text: the search-space file.

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
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise RunError(
            f"{source}: {size / 2**20:.0f} MiB of code are too much to send with a search (at most {MAX_BYTES >> 20} MiB);"
            " remove what does not belong there"
        )
    return folder
