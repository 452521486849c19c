"""Who may read what we make: the owner, and the group where the folder is a group's; whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from eed_search.storage.store import write_atomic
from eed_search.system.modes import make_common_folder, make_file, make_folder


@pytest.fixture(params=[0, 0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Each umask that people have."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    """Give its permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def made(path: Path, bits: int) -> Path:
    """Make a folder of a user's own choice."""
    path.mkdir()
    path.chmod(bits)
    return path


def test_what_we_make_is_ours_alone(umask: int, tmp_path: Path) -> None:
    """A home, a run in it, its files."""
    home = tmp_path / "home"
    make_folder(home)
    make_folder(home / "run")
    make_file(home / "run" / "a")
    write_atomic(home / "run" / "b", b"", private=True)
    make_common_folder(home / "store")
    assert [mode(one) for one in (home, home / "run", home / "store")] == [0o700] * 3
    assert [mode(home / "run" / name) for name in "ab"] == [0o600] * 2


@pytest.mark.parametrize("bits", [0o755, 0o700, 0o711, 0o777, 0o1777])
def test_a_home_that_is_there_keeps_its_modes(umask: int, tmp_path: Path, bits: int) -> None:
    """What we make in it is ours alone all the same: it is no group's."""
    home = made(tmp_path / "home", bits)
    make_folder(home)
    make_folder(home / "run")
    make_file(home / "run" / "a")
    assert (mode(home), mode(home / "run"), mode(home / "run" / "a")) == (bits, 0o700, 0o600)


@pytest.mark.parametrize("bits", [0o770, 0o775, 0o2770, 0o750])
def test_a_groups_home_stays_the_groups(umask: int, tmp_path: Path, bits: int) -> None:
    """As far as the umask lets it; nobody else gets in."""
    home = made(tmp_path / "home", bits)
    make_folder(home / "run")
    make_file(home / "run" / "a")
    assert mode(home / "run") & 0o777 == 0o700 | (bits & 0o070 & ~umask)
    assert mode(home / "run" / "a") == 0o600 | (bits & 0o060 & ~umask)


@pytest.mark.parametrize("bits", [0o777, 0o1777, 0o775, 0o2775])
def test_the_store_of_a_shared_home_is_everybodys_who_searches_there(umask: int, tmp_path: Path, bits: int) -> None:
    """As the umask has it, as ever."""
    home = made(tmp_path / "home", bits)
    make_common_folder(home / "store")
    assert mode(home / "store") & 0o777 == 0o777 & ~umask


def test_a_file_that_is_there_keeps_its_modes(tmp_path: Path) -> None:
    """Somebody has let others read it."""
    write_atomic(tmp_path / "a", b"1", private=True)
    (tmp_path / "a").chmod(0o640)
    write_atomic(tmp_path / "a", b"2", private=True)
    make_file(tmp_path / "a")
    assert (mode(tmp_path / "a"), (tmp_path / "a").read_bytes()) == (0o640, b"2")


def test_other_files_are_readable_as_the_umask_lets(umask: int, tmp_path: Path) -> None:
    """Reports and artifacts, which lie in folders of ours."""
    write_atomic(tmp_path / "a", b"")
    assert mode(tmp_path / "a") == 0o644 & ~umask
