"""`.ci/soak`: the suite again and again, through kills, to one table."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.calling import ROOT, environment
from tests.waiting import HANGS_S, until

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (shutil.which("flock") and shutil.which("git")), reason="needs flock and git"),
]

PASSES = """
import pathlib

def test_one():
    with pathlib.Path(__file__).parents[2].joinpath("ran").open("a") as file:
        file.write("once")
"""
FAILS = "def test_one(): pass\ndef test_two(): assert 1 == 2\n"
# Leaves its process id, and sleeps the first time.
HANGS = """
import os, pathlib, time

def test_one():
    place = pathlib.Path(__file__).parents[2] / "pid"
    if not place.exists():
        place.with_name("new").write_text(str(os.getpid()))
        place.with_name("new").rename(place)
        time.sleep(3600)
"""


def _repository(folder: Path, tests: str) -> Path:
    """Make a repository with the same script and settings, and tests of its own."""
    made = folder / "repository"
    for name in (".ci/soak", "Makefile", "pyproject.toml", "constraints.txt", ".gitignore"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, made / name)
    (made / "tests").mkdir()
    (made / "tests" / "test_it.py").write_text(tests)
    git = ["git", "-C", str(made), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "--no-verify", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return made


def _start(made: Path, *arguments: str) -> subprocess.Popen[str]:
    kept = environment(VENV=sys.prefix, SOAK_PATIENCE_S="0", SOAK_BUSY="2", ARGS="")
    command = [str(made / ".ci" / "soak"), *arguments]
    return subprocess.Popen(command, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _soak(made: Path, *arguments: str) -> tuple[int, str]:
    process = _start(made, *arguments)
    said, _ = process.communicate(timeout=HANGS_S)
    return process.returncode, said


def _row(table: str, step: str) -> list[str]:
    """Give passed, failed, skipped, minutes and the remark of a step."""
    (line,) = re.findall(rf"^\| {step} \|(.*)\|$", table, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")][1:]


@pytest.mark.slow
def test_a_step_that_is_done_is_not_repeated(tmp_path: Path) -> None:
    """The table has its counts; others are left, so the exit code is 3."""
    made = _repository(tmp_path, PASSES)
    code, said = _soak(made, "loaded")
    assert (code, _row(said, "loaded")[:3]) == (3, ["1", "0", "0"]), said
    assert _row(said, "loaded")[4] == "beside 2 busy processes"
    assert _row(said, "idle-1")[-1] == "to do"
    again, table = _soak(made, "loaded")
    assert (again, _row(table, "loaded")) == (3, _row(said, "loaded")), table
    assert (tmp_path / "ran").read_text() == "once"
    assert _soak(made, "--status") == (3, table)


@pytest.mark.whole
def test_a_failure_is_named(tmp_path: Path) -> None:
    code, said = _soak(_repository(tmp_path, FAILS), "idle-2")
    assert (code, _row(said, "idle-2")[:3]) == (1, ["1", "1", "0"]), said
    assert "- FAILED idle-2: tests.test_it::test_two" in said.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_killed_leaves_nothing_behind_and_is_repeated(tmp_path: Path, number: signal.Signals) -> None:
    made = _repository(tmp_path, HANGS)
    process = _start(made, "loaded")
    until((tmp_path / "pid").exists)
    ours = _descendants(process.pid)
    assert len(ours) >= 2 + 3  # those that are busy, pytest and its two workers
    process.send_signal(number)
    process.communicate(timeout=HANGS_S)
    assert process.returncode in (128 + number, -number)
    until(lambda: not [pid for pid in ours if _lives(pid)])
    code, said = _soak(made, "loaded")
    assert (code, _row(said, "loaded")[:3]) == (3, ["1", "0", "0"]), said


@pytest.mark.parametrize("wrong", [["idle-4"], ["--minute", "3"], ["--minutes", "soon"]])
def test_wrong_use_is_refused(tmp_path: Path, wrong: list[str]) -> None:
    """Nothing is started."""
    made = _repository(tmp_path, PASSES)
    code, said = _soak(made, *wrong)
    assert code == 2, said
    assert not (made / ".soak").exists()


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
