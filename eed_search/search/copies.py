"""Copies of a run on shared storage, so that another machine can take it up when the driver's is gone.

    runs/NAME/latest.json            which copies there are, newest first, with their hashes
    runs/NAME/ledger-00000123.sqlite the ledger up to that event; the last two are kept
    runs/NAME/files/…                the search-space file and the report
    runs/NAME/driver/                the lease of whoever drives the run

The ledger is copied while the search runs, from a thread of its own; storage that is away for a while costs
nothing but the newest copy. What came after the last copy happens again from the stages, which are on the storage too.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from eed_search.core.errors import RunError, StoreError
from eed_search.core.lease import Lease
from eed_search.core.ledger import FILE_NAME, read_run
from eed_search.core.storage import Storage
from eed_search.core.store import write_atomic

EVERY_S = 15.0
_RUNS, _LATEST, _KEPT = "runs", "latest.json", 2


class Copies:
    """A run's place on shared storage.

    Args:
        storage: Where all runs' copies lie.
        name: The run's.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self._name = name
        self._there = f"{_RUNS}/{name}"

    def exist(self) -> bool:
        """Whether the storage holds anything of the run.

        Raises:
            StoreError: If the storage cannot be reached.
        """
        return self.storage.read(f"{self._there}/{_LATEST}") is not None

    @contextmanager
    def driving(self, **timing: float) -> Iterator[Lease]:
        """Hold the right to drive the run, among all machines that reach the storage.

        Raises:
            RunError: If another machine drives it.
            StoreError: If the storage cannot be reached.
        """
        lease = Lease(self.storage, f"{self._there}/driver", **timing)
        if not lease.try_acquire():
            raise RunError(
                f"run {self._name}: another machine drives it ({lease.holder()}), or did until a minute ago; watch it"
                f" there, end it with `eed-search stop {self._name}`, or try again in a minute"
            )
        with lease.beating():
            yield lease

    # ------------------------------------------------------------ keep

    def save(self, folder: Path, *, report: Path | None = None) -> int:
        """Copy the ledger as it is now, the search-space file, and the report if there is one.

        Args:
            folder: The run's.
            report: Its report's folder.

        Returns:
            The last event of the copy.

        Raises:
            StoreError: If the storage cannot be reached or written.
        """
        from eed_search.search.driver import SPACE_FILE

        data, events = _snapshot(folder / FILE_NAME)
        name = f"ledger-{events:08d}.sqlite"
        self.storage.write(f"{self._there}/{name}", data)
        files = [folder / SPACE_FILE, *(sorted(report.iterdir()) if report and report.is_dir() else ())]
        for path in files:
            if path.is_file():
                self.storage.write(f"{self._there}/files/{path.relative_to(folder).as_posix()}", path.read_bytes())
        one = {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "events": events}
        before = [copy for copy in self._latest() if copy["file"] != name]
        kept = [one, *before][:_KEPT]
        self.storage.write(f"{self._there}/{_LATEST}", json.dumps(kept, indent=1).encode())
        for copy in before[_KEPT - 1 :]:
            self.storage.delete(f"{self._there}/{copy['file']}")
        return events

    @contextmanager
    def keeping(self, folder: Path, note: Callable[[str], None], every_s: float = EVERY_S) -> Iterator[None]:
        """Copy a run's ledger every few seconds while the block lasts, if there is news.

        Args:
            folder: The run's.
            note: Told once, from the thread, when the storage cannot be written.
            every_s: Seconds between two copies.
        """
        done = threading.Event()

        def keep() -> None:
            saved, told = 0, False
            while not done.wait(every_s):
                try:
                    if _last_event(folder / FILE_NAME) > saved:
                        saved = self.save(folder)
                except (StoreError, sqlite3.Error, OSError) as error:
                    if not told:
                        note(f"{error}. The search goes on; its ledger is copied as soon as the storage answers")
                    told = True

        thread = threading.Thread(target=keep, name="copies", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    # ------------------------------------------------------------ fetch

    def fetch(self, home: Path) -> Path:
        """Bring the newest sound copy into a home, unless the home's own ledger is as new.

        Args:
            home: Where the run's folder is to lie.

        Returns:
            The run's folder.

        Raises:
            RunError: If the storage holds no sound copy of the run.
            StoreError: If the storage cannot be reached, or the home cannot be written to.
        """
        folder = home / self._name
        copies = self._latest()
        for copy in copies:
            data = self.storage.read(f"{self._there}/{copy['file']}")
            if data is None or hashlib.sha256(data).hexdigest() != copy["sha256"]:
                continue
            if (folder / FILE_NAME).exists() and _last_event(folder / FILE_NAME) >= int(copy["events"]):
                return folder
            for file in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
                (folder / file).unlink(missing_ok=True)
            write_atomic(folder / FILE_NAME, data)
            for name in self.storage.names(f"{self._there}/files"):
                if (content := self.storage.read(f"{self._there}/files/{name}")) is not None:
                    write_atomic(folder / name, content)
            read_run(folder)
            return folder
        there = ", ".join(self.storage.names(_RUNS, folders=True)) or "none"
        what = "its copies were altered" if copies else f"is not there; runs there: {there}"
        raise RunError(f"storage {self.storage}: run {self._name}: {what}")

    def _latest(self) -> list[dict[str, Any]]:
        text = self.storage.read(f"{self._there}/{_LATEST}")
        try:
            return list(json.loads(text)) if text else []
        except ValueError:
            return []


def _snapshot(path: Path) -> tuple[bytes, int]:
    """Copy a ledger that somebody may be writing; gives its bytes and its last event."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / FILE_NAME
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
        events = _last_event(copy)
        return copy.read_bytes(), events


def _last_event(path: Path) -> int:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0])
