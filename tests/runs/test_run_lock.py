"""Who drives a run: one at a time, known by more than a process id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eed_search.core.errors import RunError
from eed_search.runs.ledger import RunView
from eed_search.runs.run_lock import DRIVER_FILE, driver_of, driving, noted, run_state, wait_until_gone
from eed_search.system.processes import Process, this_process
from tests.waiting import HANGS_S

HOLDS = """
import sys, time
from pathlib import Path
from eed_search.runs.run_lock import driving
with driving(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that drives the run."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "holds\n"
    yield process  # type: ignore[misc]
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_that_is_driven_is_refused_with_its_process(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """Both the way to watch it and the way to end it are named."""
    with (
        pytest.raises(RunError, match=rf"still runs \(process {holder.pid}\); watch it with .* stop"),
        driving(tmp_path),
    ):
        pass


def test_a_killed_driver_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """The system gives its lock back; the note still says who it was."""
    driver = driver_of(tmp_path)
    assert driver is not None
    assert driver.pid == holder.pid
    assert run_state(tmp_path, RunView()) == "running"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert wait_until_gone(driver, HANGS_S)
    assert driver_of(tmp_path) is None
    assert noted(tmp_path) == driver
    assert run_state(tmp_path, RunView()) == "interrupted"
    with driving(tmp_path):
        assert driver_of(tmp_path) == this_process()


def test_a_process_id_that_is_used_again_is_another_process() -> None:
    """Born at another time."""
    me = this_process()
    assert me.alive()
    assert not Process(me.pid, me.born + 1).alive()
    assert Process(me.pid, 0).alive()  # where the system does not tell, the id alone counts
    assert not Process(0, 0).alive()


def test_a_process_that_is_dead_and_not_waited_for_is_gone() -> None:
    """A zombie drives nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    born = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    driver = Process(process.pid, born)
    assert driver.alive()
    os.kill(process.pid, signal.SIGKILL)
    assert wait_until_gone(driver, HANGS_S)
    process.wait()


def test_a_run_that_nobody_ever_drove(tmp_path: Path) -> None:
    """No lock file is made by asking."""
    assert driver_of(tmp_path) is None
    assert noted(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"pid": 1})])
def test_a_note_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    """Half written or of another form: it is only a note."""
    (tmp_path / DRIVER_FILE).write_text(text)
    assert noted(tmp_path) is None


@pytest.mark.parametrize("state", ["stopped", "finished", "failed", "cancelled"])
def test_a_run_that_ended_is_as_it_ended(tmp_path: Path, state: str) -> None:
    """Its ledger says so."""
    assert run_state(tmp_path, RunView(state=state)) == state
