"""Finished stages on shared storage: what one machine computed, every other one reads.

An artifact's manifest is written last and read first: without it the other files do not count. Its hashes are
checked where it is read, like those of an artifact on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from eed_search.core.lease import Lease
from eed_search.core.storage import Storage

_STAGES, _LEASES = "stages", "leases"
_MANIFEST = "manifest.json"


class SharedStages:
    """The stages below one storage URL.

    Args:
        storage: Where they lie, in its folder `stages`; leases beside it.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def pull(self, stage: str, key: str, folder: Path) -> bool:
        """Fetch an artifact's files into a folder that is there.

        Returns:
            Whether the artifact is on the storage; its hashes are still to be checked.

        Raises:
            StoreError: If the storage cannot be reached.
        """
        there = f"{_STAGES}/{stage}/{key}"
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

    def push(self, stage: str, key: str, folder: Path) -> None:
        """Copy an artifact's files to the storage, the manifest last.

        Raises:
            StoreError: If the storage cannot be reached or written.
        """
        there = f"{_STAGES}/{stage}/{key}"
        for path in sorted(folder.iterdir(), key=lambda path: path.name == _MANIFEST):
            self._storage.write(f"{there}/{path.name}", path.read_bytes())

    def computing(self, stage: str, key: str, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lease on a stage: of several machines that need it, one computes it.

        Args:
            stage: Its name with its version.
            key: Of its settings.
            on_wait: Called every few seconds while another machine has it.
        """
        return Lease(self._storage, f"{_LEASES}/{stage}/{key}").hold(lambda holder: on_wait())
