"""Temporary folders and the lock: what another user of the machine can do to them, and what a killed process leaves."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from eed_search.core.errors import RunError
from eed_search.system import private
from eed_search.system.private import clear_leftovers, machine_lock, owner_of, temporary_folder, temporary_root
from eed_search.system.processes import Process, this_process
from tests.others import UID, as_other, needs_root
from tests.waiting import until

DEAD = Process(2**22 + 1, 1)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like `/tmp`, in `/tmp`: pytest's own lie in one of root's that others do not enter."""
    with tempfile.TemporaryDirectory(prefix="eedtest", dir="/tmp") as name:
        os.chmod(name, 0o1777)  # noqa: S103
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setattr(private, "SHARED_ROOTS", (name,))
        yield Path(name)


def left(folder: Path, owner: Process = DEAD, mode: int = 0o700) -> Path:
    """Make what a process leaves behind."""
    folder.mkdir()
    (folder / "owner.json").write_text(json.dumps(asdict(owner)))
    folder.chmod(mode)
    return folder


def test_a_temporary_folder_is_for_its_owner_alone_and_goes_at_the_end(root: Path) -> None:
    """Even under an umask that gives everything to everyone."""
    before = os.umask(0)
    try:
        with temporary_folder("x") as folder:
            assert folder.parent == root
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert owner_of(folder) == this_process()
    finally:
        os.umask(before)
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_by_a_later_one(root: Path) -> None:
    """What still lives stays."""
    dead, alive = left(root / "eed-dead"), left(root / "eed-alive", this_process())
    clear_leftovers()
    assert (dead.exists(), alive.exists()) == (False, True)


def test_what_still_runs_in_a_left_folder_is_ended(root: Path) -> None:
    """It is known by the files that it holds open."""
    folder = left(root / "eed-dead")
    (folder / "log").touch()
    with (folder / "log").open() as log:
        process = subprocess.Popen(["sleep", "3600"], stdin=log)
    clear_leftovers()
    assert process.wait() == -9
    assert not folder.exists()


def test_who_clears_up_at_the_same_time_is_left_alone(root: Path) -> None:
    """It has the note open, or folders that it removes: so two searches that begin at once do not end each other."""
    folder = left(root / "eed-dead")
    (folder / "inner").mkdir()
    script = "import os, sys; [os.open(one, os.O_RDONLY) for one in sys.argv[1:]]; print(flush=True); sys.stdin.read()"
    opened = [folder / "owner.json", folder / "inner"]
    with subprocess.Popen(
        [sys.executable, "-c", script, *opened], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        clear_leftovers()
        assert not folder.exists()
        assert other.poll() is None
        other.communicate(b"")
    assert other.returncode == 0


NOTES = {
    "none": "",
    "no-json": "echo nonsense > $1/owner.json",
    "another-form": "echo '[1]' > $1/owner.json",
    "pipe": "mkfifo $1/owner.json",
    "link": 'echo \'{"pid": 4194305, "born": 1}\' > $1/note; ln -s note $1/owner.json',
    "folder": "mkdir $1/owner.json",
    "endless": "ln -s /dev/zero $1/owner.json",
}


@pytest.mark.parametrize("script", NOTES.values(), ids=NOTES.keys())
def test_a_note_that_is_none_is_not_believed_and_keeps_nobody_waiting(root: Path, script: str) -> None:
    """The folder is ours; who wrote the note may have been anybody."""
    folder = root / "eed-odd"
    folder.mkdir(mode=0o700)
    subprocess.run(["sh", "-c", script, "sh", folder], check=True)
    clear_leftovers()
    assert folder.exists()


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o750, 0o755, 0o777, 0o1777])
def test_a_folder_that_others_enter_is_not_believed(root: Path, mode: int) -> None:
    """They may have written its note."""
    folder = left(root / "eed-open", mode=mode)
    clear_leftovers()
    assert folder.exists()


@needs_root
def test_another_users_folder_is_not_believed(root: Path) -> None:
    """Whatever stands in it; nor a link of his to ours."""
    ours = left(root / "kept")
    as_other(
        'umask 077; mkdir $1/eed-1 && echo \'{"pid": 4194305, "born": 1}\' > $1/eed-1/owner.json; ln -s kept $1/eed-2',
        root,
    )
    assert (root / "eed-1" / "owner.json").stat().st_uid == UID
    clear_leftovers()
    assert sorted(path.name for path in root.iterdir()) == ["eed-1", "eed-2", "kept"]
    assert (ours / "owner.json").exists()


# ---------------------------------------------------------------- where they may lie


def test_a_folder_in_which_others_may_rename_is_not_taken(root: Path) -> None:
    """Nor one below such a folder: the next that is safe is."""
    open_, below = root / "open", root / "open" / "below"
    below.mkdir(parents=True)
    open_.chmod(0o777)
    safe = root / "safe"
    safe.mkdir()
    assert temporary_root(roots=[str(safe)]) == root
    for given in (open_, below):
        tempfile.tempdir = str(given)
        assert temporary_root(roots=[str(safe)]) == safe


@needs_root
def test_another_users_folder_is_not_taken(root: Path) -> None:
    """He may exchange what lies in it, whatever its mode."""
    (root / "safe").mkdir()
    as_other("mkdir -m 755 $1/his; mkdir -m 1777 $1/his/below", root)
    os.chown(root / "his" / "below", 0, 0)
    for given in ("his", "his/below"):
        tempfile.tempdir = str(root / given)
        assert temporary_root(roots=[str(root / "safe")]) == root / "safe"


def test_a_name_that_is_too_long_is_not_taken(root: Path) -> None:
    """A socket's path may not be long."""
    long = root / ("x" * 50)
    long.mkdir()
    tempfile.tempdir = str(long)
    assert temporary_root() == long
    assert temporary_root(longest=40, roots=[str(root)]) == root


def test_no_safe_place_is_one_clear_error(root: Path) -> None:
    """It says what to do."""
    (root / "open").mkdir()
    (root / "open").chmod(0o777)
    tempfile.tempdir = str(root / "open")
    with pytest.raises(RunError, match=r"TMPDIR: .*/open: other users .* `mkdir -m 700 DIR`, then `export TMPDIR=DIR`"):
        temporary_root(roots=[])


# ---------------------------------------------------------------- the lock

HOLDS = """
import sys, time
from eed_search.system.private import machine_lock
print("waits", flush=True)
with machine_lock("try", [sys.argv[1]]):
    print("holds", flush=True)
    time.sleep(3600)
"""


def holder(root: Path) -> subprocess.Popen[str]:
    """Another process of this user that wants the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    return process


def name_of(root: Path, number: int = 0) -> Path:
    """The folder of the lock."""
    return root / f"eed-search-{os.getuid()}{f'-{number}' if number else ''}"


def opened(pid: int, root: Path) -> list[str]:
    """The lock files that a process has open."""
    files = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()]
    return [file for file in files if file.startswith(f"{root}/") and file.endswith("/try")]


def shares_it(root: Path) -> bool:
    """Whether another process wants the very file that this one holds, and gets it then."""
    with machine_lock("try", [str(root)]):
        process = holder(root)
        until(lambda: opened(process.pid, root))
        same = opened(process.pid, root) == opened(os.getpid(), root)
    assert process.stdout is not None
    got = process.stdout.readline() == "holds\n"
    process.kill()
    process.wait()
    process.stdout.close()
    return same and got


def test_all_processes_of_a_user_share_the_lock(root: Path) -> None:
    """Whatever their `TMPDIR`."""
    assert shares_it(root)
    assert stat.S_IMODE(name_of(root).stat().st_mode) == 0o700


IN_THE_WAY = {
    "file": "touch $1",
    "pipe": "mkfifo -m 666 $1",
    "folder": "mkdir -m 777 $1",
    "link to a folder": "mkdir -m 777 $1.his; ln -s $1.his $1",
    "link to nothing": "ln -s $1.none $1",
    "link to itself": "ln -s $1 $1",
}


@needs_root
@pytest.mark.parametrize("script", IN_THE_WAY.values(), ids=IN_THE_WAY.keys())
def test_what_another_user_put_in_its_place_is_neither_followed_nor_waited_for(root: Path, script: str) -> None:
    """The next name is taken, by all processes alike; also once the first is free."""
    as_other(script, name_of(root))
    assert shares_it(root)
    as_other("rm -r $1", name_of(root))
    assert shares_it(root)
    assert not os.path.lexists(name_of(root))
    assert [path.name for path in name_of(root, 1).iterdir()] == ["try"]


def test_a_folder_of_ours_that_others_enter_is_not_taken(root: Path) -> None:
    """They could hold the lock for ever."""
    name_of(root).mkdir()
    name_of(root).chmod(0o755)
    assert shares_it(root)
    assert not list(name_of(root).iterdir())


def test_a_lock_without_a_safe_place_is_one_clear_error(root: Path) -> None:
    """It says what to do."""
    (root / "open").mkdir()
    (root / "open").chmod(0o777)
    with (
        pytest.raises(RunError, match=r"/open: other users may exchange .* `chmod 1777 /tmp`"),
        machine_lock("try", [str(root / "open")]),
    ):
        pass
