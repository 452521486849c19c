"""What a person asks of a running search from outside, left as a file in the run's folder."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast

from eed_search.storage.store import write_atomic

Wish = Literal["stop", "cancel"]
REQUEST_FILE = "request.json"


def ask(folder: Path, wish: Wish) -> None:
    """Leave a request; a later one replaces it.

    Raises:
        StoreError: If the folder cannot be written.
    """
    write_atomic(
        folder / REQUEST_FILE, json.dumps({"what": wish, "by": os.getpid(), "at": time.time()}).encode(), private=True
    )


def asked(folder: Path) -> Wish | None:
    """Read what is asked for, if anything."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        what = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))["what"]
        return cast("Wish", what) if what in ("stop", "cancel") else None
    return None


def withdraw(folder: Path) -> None:
    """Remove a request that was heard, or that nobody is there to hear."""
    (folder / REQUEST_FILE).unlink(missing_ok=True)
