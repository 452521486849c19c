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
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eed_search.core.errors import RunError, StoreError
from eed_search.runs.home import SPACE_FILE
from eed_search.runs.ledger import FILE_NAME, read_run
from eed_search.runs.ledger_file import MARK_NAME
from eed_search.storage.lease import BEAT_S, Lease
from eed_search.storage.shared_storage import Storage
from eed_search.storage.store import write_atomic
from eed_search.system.modes import make_folder
from eed_search.system.private import temporary_folder

if TYPE_CHECKING:
    from eed_search.config.spec import Spec

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

    def last_event(self) -> int:
        """Give the number of the newest copy's last event; 0 where there is none.

        Raises:
            StoreError: If the storage cannot be reached.
        """
        return max((int(copy["events"]) for copy in self._latest()), default=0)

    @contextmanager
    def driving(self, *, beat_s: float = BEAT_S) -> Iterator[Lease]:
        """Hold the right to drive the run, among all machines that reach the storage.

        Args:
            beat_s: How often this driver says that it lives.

        Raises:
            RunError: If another machine drives it.
            StoreError: If the storage cannot be reached.
        """
        lease = Lease(self.storage, f"{self._there}/driver", beat_s=beat_s)
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
            if (folder / FILE_NAME).exists() and last_event(folder / FILE_NAME) >= int(copy["events"]):
                return folder
            for file in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", MARK_NAME):
                (folder / file).unlink(missing_ok=True)
            make_folder(home)
            make_folder(folder)
            write_atomic(folder / FILE_NAME, data, private=True)
            with closing(sqlite3.connect(folder / FILE_NAME)) as database:
                database.execute("PRAGMA journal_mode=WAL")  # as the driver's own has it
            for name in self.storage.names(f"{self._there}/files"):
                if (content := self.storage.read(f"{self._there}/files/{name}")) is not None:
                    write_atomic(folder / name, content, private=True)
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


class Copier:
    """Copies a run's ledger every few seconds from a thread of its own, if there is news.

    Args:
        copies: Where to.
        folder: The run's.
        lease: The right to drive it.
    """

    def __init__(self, copies: Copies, folder: Path, lease: Lease) -> None:
        self._copies, self._folder, self._lease = copies, folder, lease
        self._note = ""
        self._failed = False

    @property
    def lost(self) -> bool:
        """Whether another machine took this driver for dead and may drive the run."""
        return self._lease.lost

    def take_note(self) -> str:
        """Give what a reader of the result should know, once; empty if there is nothing."""
        note, self._note = self._note, ""
        return note

    def save(self, report: Path) -> str:
        """Copy the run as it ended, its report too; gives what went wrong, or nothing."""
        if self.lost:
            return "the copies on shared storage are now another machine's; this one's end is not copied there"
        try:
            self._copies.save(self._folder, report=report)
        except (StoreError, sqlite3.Error, OSError) as error:
            return f"the end of this search could not be copied: {error}"
        return ""

    @contextmanager
    def copying(self, every_s: float) -> Iterator[None]:
        """Copy for as long as the block lasts."""
        done = threading.Event()

        def copy() -> None:
            saved = 0
            while not done.wait(every_s):
                try:
                    ledger = self._folder / FILE_NAME
                    if not self.lost and ledger.exists() and last_event(ledger) > saved:
                        saved = self._copies.save(self._folder)
                except (StoreError, sqlite3.Error, OSError) as error:
                    if not self._failed:
                        self._note, self._failed = _storage_away(error), True

        thread = threading.Thread(target=copy, name="copies", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@contextmanager
def copied(spec: Spec, folder: Path, every_s: float = EVERY_S) -> Iterator[Copier | None]:
    """Hold the right to drive a run on shared storage and copy its ledger there; none where the file names no storage.

    Args:
        spec: The search.
        folder: The run's.
        every_s: Seconds between two copies.

    Raises:
        RunError: If another machine drives the run.
        StoreError: If the storage cannot be reached.
    """
    if not spec.storage.url:
        yield None
        return
    copies = Copies(Storage(spec.storage.url), folder.name)
    with copies.driving() as lease:
        copier = Copier(copies, folder, lease)
        with copier.copying(every_s):
            yield copier


def is_on_storage(spec: Spec, name: str) -> bool:
    """Whether shared storage holds a run of that name."""
    return bool(spec.storage.url) and Copies(Storage(str(spec.storage.url)), name).exist()


def _storage_away(error: Exception) -> str:
    return f"{error}. The search goes on; its ledger is copied as soon as the storage answers"


def _snapshot(path: Path) -> tuple[bytes, int]:
    """Copy a ledger that somebody may be writing; gives its bytes and its last event."""
    with temporary_folder("copy") as folder:
        copy = folder / FILE_NAME
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
        events = last_event(copy)
        return copy.read_bytes(), events


def last_event(path: Path) -> int:
    """Give the number of a ledger's last event; 0 if it has none."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0])
