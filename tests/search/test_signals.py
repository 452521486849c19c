"""Signals that end a search: a job system sends them to the driver, to its process group, or to all it ever started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from eed_search.runs.ledger import RunView, read_run
from eed_search.search import Silent
from eed_search.search.interrupts import exit_code, interrupts
from eed_search.search.resume import resume
from eed_search.system.private import holders, living_folders
from tests.search import stub_pipeline
from tests.waiting import HANGS_S, ended_afterwards, until

Send = Callable[[int, signal.Signals], None]
ROOT = Path(__file__).parents[2]
DRIVER = """
import sys
from pathlib import Path
from eed_search.config.spec import Baselines, Search, Spec, Threat
from eed_search.search import Silent, run
from tests.search import stub_pipeline

search = Search(trials=3, startup_trials=2, racing=False, first=({"num_members": 2},))
spec = Spec(name="s", threat=Threat(eps=0.15), search=search, baselines=Baselines(sizes=()))
view = run(spec, home=Path(sys.argv[1]), name="s", pipeline=stub_pipeline, listener=Silent())
print(view.state, view.reason)
"""


@contextmanager
def driver(home: Path, at: str) -> Iterator[subprocess.Popen[str]]:
    """A search in a process group of its own, one call of whose pipeline hangs."""
    environment = {**os.environ, "EED_STUB_HANGS": f"{at}:{home.parent / 'hangs'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(home)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with ended_afterwards(process):
        yield process


def sessions_processes(pid: int) -> list[int]:
    """All processes of a driver's Ray, workers included."""
    found = [one for folder, owner in living_folders() if owner.pid == pid for one in holders(folder)]
    return [one for one in found if one != pid]


def to_group(pid: int, number: signal.Signals) -> None:
    """As `timeout` and a terminal do."""
    os.killpg(pid, number)


def to_all(pid: int, number: signal.Signals) -> None:
    """As a service manager does, to whatever a service has started."""
    for one in (*sessions_processes(pid), pid):
        with suppress(ProcessLookupError):
            os.kill(one, number)


def state(pid: int) -> str:
    """Tell what a process does: T while it is stopped, none when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    return ""


@pytest.mark.whole
@pytest.mark.timeout(900)
def test_ctrl_z_stops_the_workers_too(tmp_path: Path) -> None:
    """Whoever stops a search wants the processors; `fg` and `bg` let all of it go on."""
    with driver(tmp_path / "home", "run") as process:
        until((tmp_path / "hangs").exists)
        theirs = sessions_processes(process.pid)
        workers = [pid for pid in theirs if b"ImplicitFunc" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert workers
        os.kill(process.pid, signal.SIGTSTP)
        until(lambda: state(process.pid) == "T")
        assert {state(pid) for pid in theirs} <= {"T", "Z", ""}
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: all(state(pid) != "T" for pid in theirs))
        assert all(state(pid) for pid in workers)
        os.kill(process.pid, signal.SIGHUP)
        assert process.communicate(timeout=HANGS_S) == ("stopped SIGHUP\n", "")


def test_what_nohup_ignores_stays_ignored() -> None:
    """A closed terminal ends a search in order, but none that was started to outlive it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.cause == "SIGTERM"
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with interrupts() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)  # of the shell, and once more of the system
            assert stop.cause == "SIGHUP"
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_each_cause_has_its_exit_code() -> None:
    """That of a process that the signal ends; `stop` and `cancel` count as Ctrl-C."""
    causes = ("Ctrl-C", "SIGTERM", "SIGHUP", "stop", "cancel", "another machine took it over")
    assert [exit_code(cause) for cause in causes] == [130, 143, 129, 130, 130, 130]


OTHERS = [
    pytest.param(send, at, id=f"{send.__name__}-{at}", marks=pytest.mark.slow)
    for send, at in ((to_group, "prepare"), (to_group, "final"), (to_all, "prepare"), (to_all, "final"))
]


@pytest.mark.whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("send", "at"), [(to_group, "run"), (to_all, "run"), *OTHERS])
def test_a_signal_that_hits_ray_too_ends_the_search_in_order(tmp_path: Path, send: Send, at: str) -> None:
    """The search stops and says so itself; nothing of it is left, and a resume goes on."""
    home = tmp_path / "home"
    with driver(home, at) as process:
        until((tmp_path / "hangs").exists)
        theirs = sessions_processes(process.pid)
        send(process.pid, signal.SIGTERM)
        told, complained = process.communicate(timeout=HANGS_S)
    assert (told, complained, process.returncode) in (
        ("stopped SIGTERM\n", "", 0),
        (
            "",
            "Stopped by SIGTERM. What is finished is kept; `eed-search resume s` goes on\n",
            143,
        ),  # Ray could not be asked any more
    )
    view = read_run(home / "s")
    assert (view.state, view.reason) == ("stopped", "SIGTERM")
    until(lambda: all(state(pid) in ("", "Z") for pid in theirs))
    again: RunView = resume(home / "s", pipeline=stub_pipeline, listener=Silent())
    assert (again.state, len(again.trials)) == ("finished", 3)
