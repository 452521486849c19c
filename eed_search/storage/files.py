"""Files below one folder of this machine, by the names that they have on shared storage (`Storage`)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from eed_search.core.errors import StoreError
from eed_search.storage.store import write_atomic


class Files(Protocol):
    """A place for files; names are relative paths with `/`. Each raises `StoreError` where the place refuses."""

    def read(self, name: str) -> bytes | None:
        """Give a file's bytes, or none where there is no such file."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, or replace it: a reader sees all of it or the previous one."""

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is none."""

    def names(self, folder: str) -> list[str]:
        """List the files directly in a folder, sorted; of one that is not there none."""

    def delete_folder(self, name: str) -> None:
        """Delete a folder with all that is in it; one that is not there is none."""


class LocalFiles:
    """Files below a folder.

    Args:
        root: The folder; made when the first file is written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def read(self, name: str) -> bytes | None:
        """Give a file's bytes, or none where there is no such file.

        Raises:
            StoreError: If it is there and cannot be read.
        """
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._root / name}: cannot be read ({error.strerror})") from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            StoreError: If the folder cannot be written to or the disk is full.
        """
        write_atomic(self._root / name, data)

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is none.

        Raises:
            StoreError: If it is there and cannot be deleted.
        """
        try:
            (self._root / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self._root / name}: cannot be deleted ({error.strerror})") from error

    def names(self, folder: str) -> list[str]:
        """List the files directly in a folder, sorted, without hidden ones.

        Raises:
            StoreError: If the folder is there and cannot be read.
        """
        try:
            return sorted(
                one.name for one in (self._root / folder).iterdir() if one.is_file() and not one.name.startswith(".")
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self._root / folder}: cannot be read ({error.strerror})") from error

    def delete_folder(self, name: str) -> None:
        """Delete a folder with all that is in it, as far as the system lets it."""
        shutil.rmtree(self._root / name, ignore_errors=True)
