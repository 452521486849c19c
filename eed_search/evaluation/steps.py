"""Steps of a long evaluation, each kept in a file of its own, so that a killed one goes on where it was.

A step is a pure function that gives arrays. Its file appears whole or not at all; whoever asks for
the step again, in this process or a later one, reads the file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eed_search.storage.store import write_atomic

Arrays = dict[str, np.ndarray]


class Steps:
    """Finished steps below one folder.

    Args:
        folder: Made with the first step.

    Attributes:
        num_computed: Steps that this object computed.
        num_read: Steps that it found.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_computed = self.num_read = 0

    def get(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """Read a step's arrays, or compute and keep them.

        Args:
            name: A file name without its ending; may hold slashes.
            compute: Makes the arrays; asked only where the file is missing or damaged.

        Returns:
            The arrays as a reader of the file sees them.

        Raises:
            StoreError: If the folder cannot be written.
        """
        path = self.folder / f"{name}.npz"
        if (found := _read(path)) is not None:
            self.num_read += 1
            return found
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **compute())  # type: ignore[arg-type]  # numpy's stub: an array named allow_pickle
        write_atomic(path, buffer.getvalue())
        self.num_computed += 1
        found = _read(path)
        assert found is not None
        return found


def _read(path: Path) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
