"""A process that somebody stopped is told from one that only waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from eed_search.search.execution.monitor import Monitor, Post
from eed_search.system.processes import Worker, _looked_up, this_worker
from tests.waiting import until


@pytest.fixture
def sleeper() -> Iterator[Worker]:
    """A process that waits."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    yield replace(this_worker(), pid=child.pid, born=_looked_up(child.pid)[1])
    child.kill()
    child.wait()


def test_a_process_is_stopped_until_it_goes_on(sleeper: Worker) -> None:
    assert not sleeper.is_stopped()
    os.kill(sleeper.pid, signal.SIGSTOP)
    until(sleeper.is_stopped)
    assert not replace(sleeper, born=sleeper.born + 1).is_stopped()  # the id is another's now
    assert not replace(sleeper, table="another machine").is_stopped()
    os.kill(sleeper.pid, signal.SIGCONT)
    until(lambda: not sleeper.is_stopped())


def test_one_that_is_gone_or_runs_is_not_stopped(sleeper: Worker) -> None:
    assert not this_worker().is_stopped()
    os.kill(sleeper.pid, signal.SIGKILL)
    until(lambda: _looked_up(sleeper.pid)[0] in ("Z", ""))
    assert not sleeper.is_stopped()


def test_a_line_says_what_lets_it_go_on(sleeper: Worker) -> None:
    """The monitor keeps where each worker works."""
    monitor = Monitor()
    monitor.post("trial 0", "members", sleeper)
    monitor.post("trial 1", "members")
    os.kill(sleeper.pid, signal.SIGSTOP)
    until(sleeper.is_stopped)
    posts = monitor.posts()
    assert posts["trial 0"] == Post("members", 1, sleeper)
    assert posts["trial 0"].stopped == (
        f"its process {sleeper.pid} is stopped, `kill -CONT {sleeper.pid}` lets it go on"
    )
    assert posts["trial 1"].stopped == ""
