"""Shared storage: a folder by URL (`file`, `s3`, `gs`) that every machine of a cluster reaches.

The one door to pyarrow's file systems. Names below the URL are relative paths with `/`. A reader sees all of a
file or none of it: an object store replaces whole objects, and on a file system a file is written beside and moved.
"""

from __future__ import annotations

import posixpath
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from eed_search.core.errors import StorageError, StoreError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("file", "s3", "gs")
_PROBE = ".eed-search-probe"
_DEEPEST = 32  # folders within each other
_NOT_IN_URLS = re.compile(r"""[^\x21-\x7e]|["<>\\^`{|}]""")


def url_problem(url: str) -> str:
    """Say what is wrong with a storage URL by its form alone; nothing if it may be one."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        return f"{url!r} has no scheme of {', '.join(SCHEMES)}; write such as s3://bucket/folder or file:///mnt/shared"
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            return f"{url!r} is not an absolute path; write such as file:///mnt/shared"
        if "?" in url or "#" in url:
            return f"{url!r} has ? or #, which end the path in a URL; write %3F and %23 for those of a folder's name"
    elif not parts.netloc:
        return f"{url!r} names no bucket; write such as {parts.scheme}://bucket/folder"
    if parts.username is not None or parts.password is not None:
        return "the URL holds a key; put it where the provider's tools look for it (such as AWS_ACCESS_KEY_ID)"
    if _NOT_IN_URLS.search(url):
        return f"{url!r} has characters that no URL may have; write it as {_escaped(url)}"
    return ""


def _escaped(url: str) -> str:
    return _NOT_IN_URLS.sub(lambda found: quote(found[0], safe="", errors="surrogateescape"), url)


class Storage:
    """Files below one URL. Can be pickled: another process opens it anew.

    Args:
        url: Such as `s3://bucket/folder`; what pyarrow reads from the query (`?region=…&endpoint_override=…`)
            may follow. Keys come from where the provider's own tools look for them.

    Raises:
        StoreError: If the URL is none of those.
    """

    def __init__(self, url: str) -> None:
        if problem := url_problem(url):
            raise StoreError(f"storage: {problem}")
        self.url = url
        self._opened: tuple[FileSystem, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_opened": None}

    def __str__(self) -> str:
        return self.url.partition("?")[0]

    def check(self) -> None:
        """Write, read and delete a small file.

        Raises:
            StorageError: If one of them fails.
        """
        name = f"{_PROBE}-{uuid.uuid4().hex[:8]}"
        self.write(name, b"eed-search")
        if self.read(name) != b"eed-search":
            raise StorageError(f"storage {self}: what was written is not read back; is it shared storage?")
        self.delete(name)

    def local_folder(self) -> Path | None:
        """Give the folder where it is one of this machine (`file`); none for the others."""
        return Path(self._open()[1]) if self._has_folders else None

    def sizes(self, folder: str) -> dict[str, int]:
        """Give the size in bytes of every file directly in a folder, by name; of one that is not there nothing.

        Raises:
            StorageError: If the storage cannot be reached or refuses.
        """
        return {name: size for name, (is_folder, size) in self._listed(folder).items() if not is_folder}

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """Give a file's bytes, or none where there is no such file.

        Args:
            name: Below the URL.
            most: Bytes that are read; all by default.

        Raises:
            StorageError: If the storage cannot be reached or refuses.
        """
        system, root = self._open()
        try:
            with system.open_input_stream(posixpath.join(root, name)) as stream:
                return bytes(stream.read(most))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error("read", name, error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            StorageError: If the storage cannot be reached or refuses.
        """
        system, root = self._open()
        path = posixpath.join(root, name)
        try:
            if not self._has_folders:
                with system.open_output_stream(path) as stream:
                    stream.write(data)
                return
            system.create_dir(posixpath.dirname(path), recursive=True)
            beside = f"{posixpath.dirname(path)}/.{posixpath.basename(path)}.{uuid.uuid4().hex[:8]}"
            with system.open_output_stream(beside) as stream:
                stream.write(data)
            system.move(beside, path)
        except OSError as error:
            raise self._error("written", name, error) from error

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is none.

        Raises:
            StorageError: If the storage cannot be reached or refuses.
        """
        system, root = self._open()
        try:
            system.delete_file(posixpath.join(root, name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._error("deleted", name, error) from error

    def delete_folder(self, name: str) -> None:
        """Delete a folder with all that is in it; one that is not there is none.

        Raises:
            StorageError: If the storage cannot be reached or refuses.
        """
        system, root = self._open()
        try:
            system.delete_dir(posixpath.join(root, name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._error("deleted", name, error) from error

    def names(self, folder: str, *, folders: bool = False) -> list[str]:
        """List what lies directly in a folder, sorted.

        Args:
            folder: Below the URL; one that is not there is empty.
            folders: List folders instead of files.

        Raises:
            StorageError: If the storage cannot be reached or refuses.
        """
        return [name for name, (is_folder, _) in self._listed(folder).items() if is_folder == folders]

    def _listed(self, folder: str) -> dict[str, tuple[bool, int]]:
        """List files and folders, sorted, and say of each whether it is a folder, and its bytes."""
        from pyarrow.fs import FileSelector, FileType

        system, root = self._open()
        try:
            there = system.get_file_info(FileSelector(posixpath.join(root, folder), allow_not_found=True))
        except OSError as error:
            raise self._error("listed", folder, error) from error
        return {
            one.base_name: (one.type == FileType.Directory, one.size or 0)
            for one in sorted(there, key=lambda one: one.base_name)
            if one.type in (FileType.File, FileType.Directory) and not one.base_name.startswith(".")
        }

    def put_folder(self, folder: Path, name: str, last: str = "") -> None:
        """Copy all files of a folder, those in its sub-folders too.

        Args:
            folder: Here.
            name: There.
            last: The file that is written last, so that where it lies everything lies.

        Raises:
            StorageError: If the storage cannot be reached or refuses.
        """
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix() == last):
            self.write(posixpath.join(name, path.relative_to(folder).as_posix()), path.read_bytes())

    def get_folder(self, name: str, folder: Path, most: int) -> int:
        """Copy all files of a folder here, those in its sub-folders too; gives how many bytes they had.

        Args:
            name: There.
            folder: Here.
            most: Bytes that they may have in all.

        Raises:
            StorageError: If they have more, or the storage cannot be reached or refuses.
        """
        left, todo = most, [""]
        while todo:
            below = todo.pop()
            there = f"{name}/{below}".rstrip("/")
            sizes = self.sizes(there)
            left -= sum(sizes.values())
            if left < 0 or below.count("/") > _DEEPEST:
                raise StorageError(f"storage {self}: {name} has more than {most:,} bytes, or folders without end")
            for file, size in sizes.items():
                if (data := self.read(f"{there}/{file}", size)) is not None:
                    (folder / below).mkdir(parents=True, exist_ok=True)
                    (folder / below / file).write_bytes(data)
            todo += [posixpath.join(below, one) for one in self.names(there, folders=True)]
        return most - left

    @property
    def _has_folders(self) -> bool:
        return urlsplit(self.url).scheme == "file"

    def _open(self) -> tuple[FileSystem, str]:
        if self._opened is None:
            import pyarrow
            from pyarrow.fs import FileSystem

            try:
                system, root = FileSystem.from_uri(self.url)
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise StorageError(f"storage {self}: cannot be opened ({_first_line(error)})") from error
            self._opened = system, root
        return self._opened

    def _error(self, what: str, name: str, error: OSError) -> StorageError:
        return StorageError(
            f"storage {self}: {name} cannot be {what} ({_first_line(error)}); check that it is there, that this machine"
            " reaches it and that its key may read and write"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
