"""A method's unfinished state in a file, so that a member whose making was cut off goes on where it was."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from eed_search.core.store import write_atomic


class FileCheckpoint:
    """Keeps the latest state under one path; whoever reads it gets a whole state or none.

    Args:
        path: The file; its folder is made when the first state is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Tensor] | None:
        """Give the state kept last; none where there is none, or it cannot be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self._path)
        except (FileNotFoundError, SafetensorError):
            return None

    def save(self, state: dict[str, Tensor]) -> None:
        """Keep a state instead of the last.

        Raises:
            StoreError: If the folder cannot be written.
        """
        from safetensors.torch import save

        write_atomic(self._path, save({name: tensor.contiguous() for name, tensor in state.items()}))

    def clear(self) -> None:
        """Forget the state: the member is made, or never will be."""
        self._path.unlink(missing_ok=True)
