"""User code that travels with a search that is sent to a cluster: packed, kept there, and fetched by nodes that lack it.

What a plugin is made of (`plugins.sources`) keeps its paths below the plugin's folder. On the cluster it lies in
`HOME/.plugins/DIGEST`, so a search can be resumed when the job that brought it is gone, and, where the search has storage by
URL, in `plugins/DIGEST` below that URL, from where each node takes what it does not see in its home. The digest is that of
the contents: what has another one is not taken, and `plugins.load` runs nothing of it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eed_search.config import plugins
from eed_search.core.errors import StoreError
from eed_search.storage.shared_storage import Storage

SENT_AS = "plugins"  # folder of the job, and below a storage URL


@dataclass(frozen=True)
class Packed:
    """What travels.

    Attributes:
        entries: As the search-space file names them on the cluster.
        files: Contents, by path below the job's folder.
    """

    entries: tuple[str, ...]
    files: dict[str, bytes]


def pack(entries: Sequence[str], home: str) -> Packed:
    """Pack the user's own code; a module that is installed here must be installed there.

    Args:
        entries: Resolved ones.
        home: Home of searches on the cluster; may begin with `~`.
    """
    there, files = list[str](), dict[str, bytes]()
    for entry in entries:
        if (root := plugins.folder_of(entry)) is None:
            there.append(entry)
            continue
        own_files = [path for path in plugins.sources(entry) if path.is_relative_to(root)]
        contents = {path.relative_to(root).as_posix(): path.read_bytes() for path in own_files}
        digest = plugins.digest_of(contents)
        _, is_module, module = entry.partition(plugins.IN)
        own = f"{plugins.IN}{module}" if is_module else f"/{Path(entry).name}"
        there.append(f"{home}/{plugins.KEPT_AS}/{digest}{own}")
        files |= {f"{SENT_AS}/{digest}/{name}": content for name, content in contents.items()}
    return Packed(tuple(there), files)


def keep(job: Path, home: Path) -> None:
    """Copy what a job brought into the home, where its search-space file expects it.

    Args:
        job: The job's folder.
        home: Home of searches; exists already.
    """
    for folder in (job / SENT_AS).glob("*/"):
        _appear(home / plugins.KEPT_AS / folder.name, partial(shutil.copytree, folder, dirs_exist_ok=True))


def share(entries: Iterable[str], url: str) -> None:
    """Copy kept plugins to shared storage.

    Raises:
        StorageError: If the storage cannot be reached or written.
    """
    for folder, digest in _kept(entries):
        if folder.is_dir() and plugins.folder_digest(folder) == digest:  # an altered one is not passed on
            with tempfile.TemporaryDirectory() as name:
                whole = shutil.copytree(folder, Path(name) / digest, ignore=shutil.ignore_patterns("__pycache__"))
                Storage(url).put_folder(whole, f"{SENT_AS}/{digest}")


def bring(entries: Iterable[str], url: str | None) -> None:
    """Fetch kept plugins that this machine does not see from shared storage; who imports one says that it is gone.

    Args:
        entries: Entries of a search-space file.
        url: The storage; none: all nodes see the home.

    Raises:
        StoreError: If the storage cannot be reached or holds something else under their digest, or their folder cannot be
            written here.
    """
    for folder, digest in _kept(entries) if url else ():
        storage = Storage(str(url))
        if folder.is_dir() or digest not in storage.names(SENT_AS, folders=True):
            continue
        try:
            _appear(folder, partial(_fetch, storage, digest))
        except OSError as error:
            raise StoreError(
                f"plugins: {folder} cannot be written here ({error.strerror}), where the search looks for its own code;"
                " make its --home writable on every node"
            ) from error


def _fetch(storage: Storage, digest: str, folder: Path) -> None:
    """Bring what was sent from shared storage, if it is still that."""
    storage.get_folder(f"{SENT_AS}/{digest}", folder, plugins.MOST_BYTES)
    plugins.drop_caches(folder)
    if (now := plugins.folder_digest(folder)) != digest:
        raise StoreError(
            f"plugins: {storage}/{SENT_AS}/{digest} was altered since it was sent (its contents have the digest {now}), so"
            " nothing of it was taken; put it back, or remove it and launch again from where your code lies"
        )


def _kept(entries: Iterable[str]) -> list[tuple[Path, str]]:
    """Give folder and digest of each entry that was sent."""
    return [found for entry in entries if (found := plugins.kept(entry))]


def _appear(folder: Path, fill: Callable[[Path], object]) -> None:
    """Fill a folder beside its place, and put it there as a whole; nothing if it is there."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        new.chmod(0o755)
        fill(new)
        with suppress(OSError):  # another process was first
            os.rename(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
