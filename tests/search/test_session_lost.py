"""Processes of Ray that die during a search: which end it in order, which cost nothing, and that nothing is lost by any."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import ray

from eed_search.config.spec import Baselines, Resources, Search, Spec, Threat
from eed_search.core.errors import MachineFault
from eed_search.runs.ledger import RunView, read_run
from eed_search.runs.records import TrialRecord
from eed_search.search import LocalWorkers, Silent, run
from eed_search.search.resume import resume
from eed_search.system.cores import usable_cores
from eed_search.system.private import holders, living_folders
from eed_search.system.processes import this_process
from tests.search import stub_pipeline
from tests.waiting import until

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TRIALS = 3
GIVEN: Any = {"pipeline": stub_pipeline, "listener": Silent()}


def spec() -> Spec:
    """One trial at a time, so that the order of the results does not hang on the clock."""
    search = Search(trials=TRIALS, startup_trials=2, racing=False, first=({"num_members": 2},))
    return Spec(
        name="s",
        threat=Threat(eps=0.15),
        search=search,
        baselines=Baselines(sizes=()),
        resources=Resources(cpu=float(usable_cores())),
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """The undisturbed search."""
    return run(spec(), home=tmp_path_factory.mktemp("calm"), name="s", workers=LocalWorkers(), **GIVEN)


def same(view: RunView, other: RunView) -> bool:
    """Whether two searches have the same trials, results and finals."""

    def facts(one: RunView) -> tuple[Any, ...]:
        return one.state, one.proposals, one.trials, one.latencies, one.confirmed, one.fresh

    return facts(view) == facts(other)


def processes(name: str) -> list[int]:
    """Find the processes of this one's session by what they are."""
    (folder,) = [folder for folder, owner in living_folders() if owner == this_process()]
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace") for pid in holders(folder)}
    return [pid for pid, command in commands.items() if re.search(name, command)]


class Kills:
    """Ends a process of the session as soon as a call of the pipeline hangs, or a file is made.

    Args:
        at: The call; none where the caller makes the file `hangs`.
        name: What the process's command line holds.
    """

    def __init__(self, at: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pids: list[int] = []
        self._mark, self._name = folder / "hangs", name
        if at:
            monkeypatch.setenv("EED_STUB_HANGS", f"{at}:{self._mark}")
        self._thread = threading.Thread(target=self._kill, daemon=True)
        self._thread.start()

    def _kill(self) -> None:
        until(self._mark.exists)
        until(lambda: processes(self._name))
        self.pids = processes(self._name)
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)

    def done(self) -> list[int]:
        """Wait for it; gives the processes."""
        self._thread.join()
        return self.pids


RAYLET, GCS = r"raylet/raylet", "gcs/gcs_server"
SLOW = pytest.mark.slow
VITAL = [
    pytest.param(RAYLET, "run", id="raylet-trials"),
    pytest.param(GCS, "run", id="gcs-trials", marks=SLOW),
    pytest.param(RAYLET, "prepare", id="raylet-base", marks=SLOW),
    pytest.param(GCS, "prepare", id="gcs-base", marks=SLOW),
    pytest.param(RAYLET, "final", id="raylet-finals", marks=SLOW),
    pytest.param(GCS, "recheck", id="gcs-finals", marks=SLOW),
]


@pytest.mark.whole
@pytest.mark.parametrize(("name", "at"), VITAL)
def test_without_a_vital_process_the_search_ends_in_order_and_goes_on_later(
    calm: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: str
) -> None:
    """One error that says what to do, no trial closed, no process left; resumed, it is the undisturbed search."""
    kills = Kills(at, name, tmp_path, monkeypatch)
    said = r"infrastructure: Ray's process (raylet|GCS) \(\d+\) ended during the search \(killed by SIGKILL\)"
    with pytest.raises(MachineFault, match=rf"^run s: {said}\. .* `eed-search resume s` goes on$") as caught:
        run(spec(), home=tmp_path / "home", name="s", **GIVEN)
    assert caught.value.exit_code == 6
    assert len(kills.done()) == 1
    view = read_run(tmp_path / "home" / "s")
    assert view.state == "failed"
    assert re.fullmatch(said, view.reason)
    assert {trial.outcome for trial in view.trials.values()} <= {"done"}
    assert view.losses == {}
    assert view.unfinished() == ([0] if at == "run" else [])
    assert not ray.is_initialized()
    assert [owner for _, owner in living_folders() if owner == this_process()] == []
    assert same(resume(tmp_path / "home" / "s", **GIVEN), calm)


WORKERS = [
    pytest.param("ImplicitFunc|ray::.*train", "run", id="worker-trials"),
    pytest.param("ray::alone_task", "prepare", id="worker-base", marks=SLOW),
    pytest.param("ray::alone_task", "final", id="worker-finals", marks=SLOW),
    pytest.param("ray::alone_task", "recheck", id="worker-checks", marks=SLOW),
    pytest.param("ray::ProbeActor", "probe", id="probe", marks=SLOW),
]


@pytest.mark.whole
@pytest.mark.parametrize(("name", "at"), WORKERS)
def test_without_one_of_the_others_it_goes_on(
    calm: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: str
) -> None:
    """What was lost is done again, and the result is the undisturbed one."""
    kills = Kills(at, name, tmp_path, monkeypatch)
    view = run(spec(), home=tmp_path / "home", name="s", **GIVEN)
    assert kills.done()
    assert view.notes == calm.notes
    assert same(view, calm)


@pytest.mark.slow
def test_without_the_monitor_it_goes_on(calm: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the workers say is heard again from the next one."""

    class Makes(Silent):
        def on_result(self, record: TrialRecord, view: RunView) -> None:
            (tmp_path / "hangs").touch()

    kills = Kills("", "ray::Monitor", tmp_path, monkeypatch)
    view = run(spec(), home=tmp_path / "home", name="s", pipeline=GIVEN["pipeline"], listener=Makes())
    assert len(kills.done()) == 1
    assert same(view, calm)
