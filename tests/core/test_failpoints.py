"""Fail points: off unless asked for, at the place and the time that is asked for."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eed_search.core import failpoints
from eed_search.core.failpoints import POINTS, VARIABLE, fail_point


@pytest.fixture(autouse=True)
def _from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count each test's calls from the first."""
    failpoints._calls.clear()
    monkeypatch.delenv(VARIABLE, raising=False)


def test_nothing_happens_without_the_variable() -> None:
    """Off by default."""
    for point in POINTS:
        fail_point(point)


def test_the_nth_call_of_the_point_that_is_named_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first, not another point, not again."""
    monkeypatch.setenv(VARIABLE, "study.tell:raise:2,tracker.close:enospc")
    fail_point("study.tell")
    fail_point("ledger.append")
    with pytest.raises(RuntimeError, match=r"fail point study\.tell"):
        fail_point("study.tell")
    fail_point("study.tell")
    with pytest.raises(OSError, match="No space left") as caught:
        fail_point("tracker.close")
    assert caught.value.errno == errno.ENOSPC


def test_kill_ends_the_process_at_once() -> None:
    """No handler, no cleaning up."""
    code = (
        "from eed_search.core.failpoints import fail_point\ntry:\n fail_point('study.tell')\nfinally:\n print('late')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={VARIABLE: "study.tell:kill"}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_sleep_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a call that hangs would."""
    slept: list[float] = []
    monkeypatch.setattr(failpoints.time, "sleep", slept.append)
    monkeypatch.setenv(VARIABLE, "study.tell:sleep")
    fail_point("study.tell")
    assert slept == [3600]


@pytest.mark.parametrize(
    "text", ["study.tel:kill", "study.tell:burn", "study.tell:kill:0", "study.tell:kill:x", "kill"]
)
def test_a_name_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that names no place would test nothing."""
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=r"must be NAME:ACTION or NAME:ACTION:NTH; names: ledger.append, "):
        fail_point("ledger.append")


def test_every_place_in_the_code_can_be_asked_for() -> None:
    """And every name has its place."""
    files = Path(failpoints.__file__).parents[1].rglob("*.py")
    places = {name for file in files for name in re.findall(r'fail_point\("([a-z._]+)"\)', file.read_text("utf-8"))}
    assert places == set(POINTS)
