"""A folder through a job's log: the same files on the other side, or none."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from eed_search.cli import sent_folder
from eed_search.cli.sent_folder import SentFolder, lines
from eed_search.core.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one of them larger than a line."""
    made = tmp_path / "made"
    (made / "in").mkdir(parents=True)
    (made / "a.txt").write_text("a")
    (made / "in" / "b.bin").write_bytes(bytes(range(256)) * 300)
    return made


def test_what_was_sent_arrives(folder: Path, tmp_path: Path) -> None:
    """Byte for byte, folders included."""
    taken = SentFolder(tmp_path / "out" / "best")
    for line in lines(folder):
        assert "\n" not in line
        taken.take(line)
    taken.unpack()
    for name in ("a.txt", "in/b.bin"):
        assert (tmp_path / "out" / "best" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("lost", [0, -1])
def test_a_line_that_is_lost_is_found(folder: Path, tmp_path: Path, lost: int) -> None:
    """The folder does not appear."""
    sent = list(lines(folder))
    del sent[lost]
    taken = SentFolder(tmp_path / "out")
    for line in sent:
        taken.take(line)
    with pytest.raises(BundleError, match="not all of it arrived"):
        taken.unpack()
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(folder: Path) -> None:
    """Before anything is asked of the cluster."""
    with pytest.raises(BundleError, match="exists already"):
        SentFolder(folder)


def test_too_much_for_a_log_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do instead."""
    monkeypatch.setattr(sent_folder, "MAX_BYTES", 100)
    with pytest.raises(BundleError, match="scp or rsync"):
        list(lines(folder))


def packed(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in members:
            archive.addfile(member)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, to
    return made


@pytest.mark.parametrize(
    "data",
    [
        packed(member("link", tarfile.SYMTYPE, "/etc/passwd")),
        packed(member("link", tarfile.SYMTYPE, "a.txt")),
        packed(member("link", tarfile.LNKTYPE, "a.txt")),
        packed(member("pipe", tarfile.FIFOTYPE)),
        packed(member("device", tarfile.CHRTYPE)),
        packed(member("../outside")),
        b"no archive",
        packed(member("a.txt"))[:30],
    ],
    ids=["link", "link to a sibling", "hard link", "pipe", "device", "outside", "no archive", "cut short"],
)
def test_what_is_no_folder_of_files_is_not_laid_out(tmp_path: Path, data: bytes) -> None:
    """Whatever a head sends: one clear error, and nothing appears."""
    taken = SentFolder(tmp_path / "out")
    taken.take(base64.b64encode(data).decode())
    taken.take(f"sha256 {hashlib.sha256(data).hexdigest()}")
    with pytest.raises(BundleError, match="what arrived cannot be unpacked"):
        taken.unpack()
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_is_no_base64_is_found(tmp_path: Path) -> None:
    taken = SentFolder(tmp_path / "out")
    taken.take("\x1b[31m é")
    taken.take(f"sha256 {'0' * 64}")
    with pytest.raises(BundleError, match="not all of it arrived"):
        taken.unpack()
