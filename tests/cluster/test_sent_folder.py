"""A folder through a job's log: the same files on the other side, or none."""

from __future__ import annotations

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
