"""Finished stages on shared storage: what one machine computed, every other one reads.

An artifact's manifest is written last and read first: without it the other files do not count. Its hashes are
checked where it is read, like those of an artifact on the disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from eed_search.core.errors import StorageError
from eed_search.storage.files import Files
from eed_search.storage.lease import Lease
from eed_search.storage.shared_storage import Storage

PATIENCE_S = 300.0
_STAGES, _LEASES = "stages", "leases"
_MANIFEST = "manifest.json"
_LONGEST_PAUSE_S = 30.0
T = TypeVar("T")


class SharedStages:
    """The stages below one storage URL.

    Args:
        storage: Where they lie, in its folder `stages`; leases beside it.
        patience_s: How long storage that does not answer is tried again before that is an error.
        sleep: Waits so many seconds before the next try.
    """

    def __init__(
        self, storage: Storage, *, patience_s: float = PATIENCE_S, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._storage = storage
        self._patience_s, self._sleep = patience_s, sleep

    @property
    def files(self) -> Files:
        """The storage itself, for what is not finished: it is read patiently; a write that fails fails at once."""
        return _ReadPatiently(self._storage, self)

    def pull(self, stage: str, key: str, folder: Path) -> bool:
        """Fetch an artifact's files into a folder that is there.

        Returns:
            Whether the artifact is on the storage; its hashes are still to be checked.

        Raises:
            StorageError: If the storage cannot be reached.
        """
        return self._patiently(lambda: self._pull(f"{_STAGES}/{stage}/{key}", folder))

    def push(self, stage: str, key: str, folder: Path) -> None:
        """Copy an artifact's files to the storage, the manifest last.

        Raises:
            StorageError: If the storage cannot be reached or written.
        """
        self._patiently(lambda: self._storage.put_folder(folder, f"{_STAGES}/{stage}/{key}", last=_MANIFEST))

    def computing(self, stage: str, key: str, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lease on a stage: of several machines that need it, one computes it.

        Args:
            stage: Its name with its version.
            key: Hash of its settings.
            on_wait: Called every few seconds while another machine has it.
        """
        lease = Lease(self._storage, f"{_LEASES}/{stage}/{key}")
        return lease.hold(lambda holder: on_wait(), patiently=self._patiently)

    def _pull(self, there: str, folder: Path) -> bool:
        if (manifest := self._storage.read(f"{there}/{_MANIFEST}")) is None:
            return False
        try:
            names = list(json.loads(manifest)["sha256"])
        except (ValueError, KeyError, TypeError):
            return False
        for name in names:
            data = self._storage.read(f"{there}/{Path(name).name}")
            if data is None:
                return False
            (folder / Path(name).name).write_bytes(data)
        (folder / _MANIFEST).write_bytes(manifest)
        return True

    def _patiently(self, do: Callable[[], T]) -> T:
        """Do it; again, after growing pauses, as long as the storage does not answer."""
        deadline, pause = time.monotonic() + self._patience_s, 1.0
        while True:
            try:
                return do()
            except StorageError:
                if time.monotonic() + pause > deadline:
                    raise
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


class _ReadPatiently:
    """Shared storage as a place for files; what is read from it is waited for.

    Args:
        storage: The storage.
        shared: Waits for it.
    """

    def __init__(self, storage: Storage, shared: SharedStages) -> None:
        self._storage, self._shared = storage, shared
        self.write, self.delete, self.delete_folder = storage.write, storage.delete, storage.delete_folder

    def __str__(self) -> str:
        return str(self._storage)

    def read(self, name: str) -> bytes | None:
        """Give a file's bytes, or none where there is no such file."""
        return self._shared._patiently(lambda: self._storage.read(name))

    def names(self, folder: str) -> list[str]:
        """List the files directly in a folder."""
        return self._shared._patiently(lambda: self._storage.names(folder))
