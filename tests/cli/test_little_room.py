"""A home with little room on its disk: said at the door, and not waited for at the end; on a real small file system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eed_search.runs.disk_space import fixed_bytes, free_bytes, shortage, size_of
from tests.cli.calling import STUBBED, environment, python
from tests.cli.test_launch import FILE

MOUNT = 'mount -t tmpfs -o "size=$1" none "$2" && shift 2 && exec "$@"'
THEN_ROOM = """
python="$1" code="$2" file="$3"
"$python" -c "$code" launch "$file" --home home --name run > launched 2> complained
echo $? > code
"$python" -c "$code" status run --home home --json > status
mount -o remount,size=300m none home
"$python" -c "$code" resume run --home home > resumed 2> complained-again
exec "$python" -c 'from pathlib import Path; from benchmarks import kills; print(kills.compare(Path("calm"), Path("home")))'
"""


def on_small_disk(
    folder: Path, size: str, *words: object, script: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command, or a script of several, with a small file system of its own at `folder`; or skip the test."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs unshare and root, to mount a small file system that nobody else sees")
    folder.mkdir()
    mounted = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", size, str(folder)]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small file system")
    through = ["sh", "-c", script, "sh"] if script else []
    command = [*mounted, *through, sys.executable, *([] if script else ["-c"]), STUBBED, *map(str, words)]
    return subprocess.run(
        command, cwd=folder.parent, env=environment(**more), capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.whole
def test_a_search_says_at_once_that_room_is_short_and_waits_for_none(tmp_path: Path) -> None:
    """Room for everything but MLflow's copy of the report: the result is there, and the notes say what lacks and what to do."""
    (tmp_path / "quick.yaml").write_text(FILE, encoding="utf-8")
    done = on_small_disk(
        tmp_path / "home", "8m", "launch", tmp_path / "quick.yaml", "--home", "home", "--name", "one", "--trials", 1
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum(line.startswith("note: home: 8.4 MB free, and report, MLflow") for line in lines) == 1
    start = next(i for i, line in enumerate(lines) if " dense base" in line)
    assert lines.index(next(line for line in lines if line.startswith("note: home:"))) < start
    notes = [line for line in lines if "] note: MLflow" in line]
    assert ["No space left on device" in notes[0], "MLflow's disk is full" in notes[1]] == [True, True]
    assert not any("waiting for MLflow" in line for line in lines)


@pytest.mark.whole
def test_mlflows_database_that_finds_no_room_is_one_clear_error(tmp_path: Path) -> None:
    """With what to do."""
    (tmp_path / "quick.yaml").write_text(FILE, encoding="utf-8")
    done = on_small_disk(tmp_path / "home", "900k", "launch", tmp_path / "quick.yaml", "--home", "home")
    assert done.returncode == 6
    (line,) = done.stderr.splitlines()
    assert "database or disk is full" in line
    assert "; make room, or choose another --home. What is finished is kept" in line


def test_what_is_short_depends_on_the_number_of_trials(tmp_path: Path) -> None:
    """The home need not be there yet."""
    home = tmp_path / "not" / "there"
    enough = max(1, int((free_bytes(home) - fixed_bytes(0)) / 2 / (fixed_bytes(1) - fixed_bytes(0))))
    assert shortage(home, enough) == ""
    assert shortage(home, 10**9).startswith(f"{home}: ")


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 kB"), (8.39e6, "8.4 MB"), (123e6, "123 MB"), (3.2e9, "3.2 GB"), (70e9, "70 GB")]
)
def test_sizes_are_said_so_that_little_is_not_nothing(num_bytes: float, text: str) -> None:
    """8 MB are not 0 GB."""
    assert size_of(num_bytes) == text


@pytest.mark.whole
@pytest.mark.parametrize("racing", ["false", "true"])
def test_a_disk_that_fills_up_while_trials_run_ends_no_trial(tmp_path: Path, racing: str) -> None:
    """The search ends with one line and code 6, its trials stay open; with room a resume is the undisturbed search."""
    text = FILE.replace("trials: 4", "trials: 8").replace("racing: false", f"racing: {racing}")
    (tmp_path / "quick.yaml").write_text(text.replace("cpu: 1", f"cpu: {os.cpu_count()}"), encoding="utf-8")
    stored = {"EED_STUB_STORED": "1500"}
    calm = python(STUBBED, "launch", tmp_path / "quick.yaml", "--home", tmp_path / "calm", "--name", "run", **stored)
    assert calm.returncode == 0
    done = on_small_disk(tmp_path / "home", "10m", tmp_path / "quick.yaml", script=THEN_ROOM, **stored)
    complained = (tmp_path / "complained").read_text(encoding="utf-8").splitlines()
    assert (tmp_path / "code").read_text().strip() == "6"
    assert len(complained) == 1, complained
    assert complained[0].startswith("error: run run: ")
    assert "No space left on device" in complained[0] or "disk is full" in complained[0]
    assert "`eed-search resume run` goes on" in complained[0]
    status = json.loads((tmp_path / "status").read_text(encoding="utf-8"))
    assert status["state"] in ("failed", "interrupted")
    assert (status["trials"]["failed"], status["trials"]["pruned"]) == (0, 0)
    assert (tmp_path / "complained-again").read_text() == ""
    assert done.stdout.strip() == "[]"
