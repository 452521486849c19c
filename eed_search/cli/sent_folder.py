"""A folder that a job on a cluster sends through its log: packed there, unpacked here, checked on the way."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from eed_search.core.errors import BundleError

MAX_BYTES = 256 * 2**20
_LINE_BYTES = 12_000
_END = "sha256 "


def lines(folder: Path) -> Iterator[str]:
    """Write a folder as lines of text, the last one its digest.

    Raises:
        BundleError: If it is too large for a log.
    """
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            archive.add(folder, arcname=".")
        if (size := packed.tell()) > MAX_BYTES:
            raise BundleError(
                f"{folder}: {size / 2**20:.0f} MiB are too much for a job's log (at most {MAX_BYTES >> 20} MiB); fetch it from"
                " the head with scp or rsync"
            )
        packed.seek(0)
        while piece := packed.read(_LINE_BYTES):
            digest.update(piece)
            yield base64.b64encode(piece).decode()
    yield f"{_END}{digest.hexdigest()}"


class SentFolder:
    """Takes the lines in and lays the folder out.

    Args:
        folder: Where; must not exist.

    Raises:
        BundleError: If it exists.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists():
            raise BundleError(f"--out {folder}: exists already and is left as it is; give a new folder")
        self.folder = folder
        self._digest = hashlib.sha256()
        self._packed = io.BytesIO()
        self._sent = ""

    def take(self, line: str) -> None:
        """Take one line in."""
        if line.startswith(_END):
            self._sent = line.removeprefix(_END)
            return
        try:
            piece = base64.b64decode(line)
        except ValueError:
            piece = line.encode()  # the digest tells
        self._digest.update(piece)
        self._packed.write(piece)

    def unpack(self) -> None:
        """Lay the folder out; it appears whole or not at all.

        Raises:
            BundleError: If something was lost on the way.
        """
        if self._sent != self._digest.hexdigest():
            raise BundleError(f"{self.folder}: not all of it arrived; run the command again")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._packed.seek(0)
        with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=f".{self.folder.name}.") as made:
            whole = Path(made) / "folder"
            try:
                with tarfile.open(fileobj=self._packed, mode="r:gz") as archive:
                    archive.extractall(whole, filter=_file_or_folder)  # noqa: S202  # files and folders below it
            except (tarfile.TarError, zlib.error, EOFError) as error:
                raise BundleError(f"{self.folder}: what arrived cannot be unpacked ({error})") from error
            whole.rename(self.folder)


def _file_or_folder(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """Let files and folders through, below the folder, without owners; nothing else is ever sent."""
    if not (member.isreg() or member.isdir()):
        raise tarfile.FilterError(f"{member.name!r} is no file")
    return tarfile.data_filter(member, path)
