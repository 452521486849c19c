"""A search that is killed again and again is the same search in the end: real processes, real SQLite, MLflow, Ray."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from benchmarks import kills
from benchmarks.victims import MlflowServer
from eed_search.runs.ledger import read_run
from tests.runs.ledgers import rewritten
from tests.waiting import HANGS_S, until

pytestmark = pytest.mark.timeout(1800)  # a dozen drivers, one after another

TRIALS = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all searches, so that the undisturbed one runs once."""
    return tmp_path_factory.mktemp("kills")


@pytest.mark.slow
def test_random_kills_change_nothing(root: Path) -> None:
    """Two kills of a search in the driver's own process, one of one under Ray; `benchmarks/kills.py` does many."""
    seed = 5  # its three moments are numbers of events: seconds would hit another place on each machine, or none
    done = kills.campaign(root, kills=3, ray_kills=1, seed=seed, trials=TRIALS)
    assert {searched.where for searched in done} == {"local", "ray"}
    assert [problem for searched in done for problem in searched.problems] == []
    assert sum(len(searched.kills) for searched in done) >= 2


@pytest.mark.whole
def test_a_kill_at_each_critical_place_changes_nothing(root: Path) -> None:
    """One search, killed at one place after the other; each driver goes on where the last one died."""
    places = (
        "ledger.append:kill:1",  # nothing is written yet
        "tracker.created:kill:1",  # MLflow has the search, nobody knows
        "ledger.appended:kill:12",
        "race.decide:kill:2",  # a trial has reported at a rung, whether it goes on is not written
        "study.rebuilt:kill",
        "study.tell:kill:2",  # the ledger has an end that Optuna was not told
        "tracker.created:kill:2",  # MLflow has a trial, nobody knows
        "tracker.create:kill:2",
        "driver.trials_done:kill",
        "finals.look:kill",  # all is measured that a decision on the frontier rests on, the decision is not written
        "driver.report:kill",
        "tracker.close:kill",
    )
    home = root / "places"
    for place in places:
        if place.startswith("finals.look") and read_run(home / "run").validation_rounds:
            continue  # MLflow is told in the background: on a busy machine the driver had come so far before it was killed there
        process = kills.start(home, "run", "local", "tpe", TRIALS, place)
        assert process.wait(HANGS_S) == -9, place
    assert kills.start(home, "run", "local", "tpe", TRIALS).wait(HANGS_S) == 0
    assert kills.compare(kills.undisturbed(root, "tpe", TRIALS), home) == []


@pytest.mark.whole
def test_a_full_disk_is_one_clear_error_and_no_loss(root: Path) -> None:
    """The ledger cannot be written: exit code 6, what is finished stays readable, and goes on with space."""
    home = root / "full"
    assert kills.start(home, "run", "local", "tpe", TRIALS, "ledger.append:enospc:25").wait(HANGS_S) == 6
    message = (home / "run.log").read_text().strip().splitlines()[-1]
    assert "ledger.sqlite: cannot be written" in message
    assert "No space left on device" in message
    assert "free the disk" in message
    assert len(read_run(home / "run").trials) > 0
    assert kills.start(home, "run", "local", "tpe", TRIALS).wait(HANGS_S) == 0
    assert kills.compare(kills.undisturbed(root, "tpe", TRIALS), home) == []


@pytest.mark.whole
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("report", "reports at rungs differ from the undisturbed search's"),
        ("decision", "decisions differ from the undisturbed search's"),
        ("rivals", "incumbents differ from the undisturbed search's"),
    ],
)
def test_another_race_is_found_by_the_comparison(root: Path, tmp_path: Path, kind: str, problem: str) -> None:
    """One event of the race is missing; all else is as it was."""
    calm = kills.undisturbed(root, "tpe", TRIALS)
    other = shutil.copytree(calm, tmp_path / "other")
    with rewritten(other / "run") as database:
        database.execute("DELETE FROM event WHERE seq = (SELECT max(seq) FROM event WHERE kind = ?)", (kind,))
    assert problem in kills.compare(calm, other)


@pytest.mark.whole
def test_a_server_that_is_killed_or_frozen_does_not_answer(tmp_path: Path) -> None:
    """All of its processes are hit, not only the command that started them; on the same port it comes back."""
    with MlflowServer(tmp_path / "mlflow") as server:
        url = server.url
        server.signal(signal.SIGSTOP)
        assert not server.answers()
        server.signal(signal.SIGCONT)
        until(server.answers)
        server.kill()
        assert not server.answers()
        server.start()
        assert (server.answers(), server.url) == (True, url)
    assert not server.answers()
