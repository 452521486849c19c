"""`eed-search status`, `stop`, `cancel` and `resume`: what they say of a search in each state, and to each other."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, read_run
from eed_search.runs.run_lock import driving
from eed_search.search.sampling.study import STUDY_FILE
from tests.cli.calling import ROOT, STUBBED, call, environment, python
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_view
from tests.waiting import HANGS_S, ended_afterwards, until

pytestmark = pytest.mark.timeout(900)  # whole searches, each in a process of its own

FILE = """
name: quick
threat: {eps: 0.15}
search: {trials: 4, startup_trials: 2, racing: false}
baselines: {sizes: []}
resources: {cpu: 1}
"""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver on a busy machine takes long to end: it is not killed for it."""
    for limit in ("_STOP_S", "_CANCEL_S"):
        monkeypatch.setattr(f"eed_search.cli.stop.{limit}", HANGS_S)


@contextmanager
def launched(home: Path, name: str, faults: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A search that runs in another process, until the block ends; trials hang as `faults` says."""
    (home.parent / "quick.yaml").write_text(FILE, encoding="utf-8")
    command = [sys.executable, "-c", STUBBED, "launch", str(home.parent / "quick.yaml"), "--home", str(home)]
    process = subprocess.Popen(
        [*command, "--name", name],
        cwd=ROOT,
        env=environment(EED_STUB_FAULTS=json.dumps(faults)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with ended_afterwards(process):
        yield process


def ended(folder: Path) -> int:
    """Count the trials that have ended."""
    return len(read_run(folder).trials) if (folder / FILE_NAME).exists() else 0


@pytest.mark.whole
def test_a_running_search_is_watched_stopped_and_resumed(tmp_path: Path) -> None:
    """One search through its states: running, stopped by request, resumed to its end."""
    home = tmp_path / "home"
    with launched(home, "one", {"2": "sleep", "3": "sleep"}) as process:
        until(lambda: ended(home / "one") == 2)
        hung = {"trial 2", "trial 3"}
        until(lambda: json.loads(call("status", "--home", home, "--json").stdout)["stages"].keys() >= hung)
        facts = json.loads(call("status", "--home", home, "--json").stdout)
        assert (facts["name"], facts["state"], facts["pid"]) == ("one", "running", process.pid)
        assert facts["trials"]["done"] == 2
        assert facts["num_trials"] == 4
        assert facts["stages"]["trial 2"] == "members"
        text = call("status", "one", "--home", home).stdout
        assert text.startswith(f"one: running (process {process.pid}), ")
        assert "\nnow     trial 2: members\nnow     trial 3: members\n" in text
        assert f"\nstop    eed-search stop one --home {home}\n" in text
        refused = call("resume", "one", "--home", home)
        assert refused.exit_code == 7
        assert f"run one: still runs (process {process.pid})" in refused.stderr
        stopped = call("stop", "--home", home)
        assert stopped.exit_code == 0, stopped.stderr
        assert stopped.stdout.splitlines()[0] == f"Asked one (process {process.pid}) to stop; waiting for it …"
        assert re.search(r"^one: stopped after [^;]+; 2 trials are finished, 2 done$", stopped.stdout, re.MULTILINE)
        assert f"resume  eed-search resume one --home {home}" in stopped.stdout
        assert process.wait(HANGS_S) == 130
    assert call("status", "one", "--home", home).stdout.startswith("one: stopped (stop), ")
    done = python(STUBBED, "resume", "--home", home)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("On this machine: ")
    assert lines[1] == "Resuming one (stopped): 2 of 4 trials are finished"
    assert lines[2] == "  2 were under way and run again"
    assert any(line.startswith("one: finished after ") for line in lines)
    view = read_run(home / "one")
    assert (view.state, view.num_trials()["done"], view.requests) == ("finished", 4, ["stop"])
    assert not (home / "one" / "request.json").exists()


@pytest.mark.whole
def test_a_killed_search_is_interrupted_and_can_be_cancelled(tmp_path: Path) -> None:
    """Nobody is there to say its end: `status` sees that, `cancel` writes it down and closes MLflow's runs."""
    home = tmp_path / "home"
    with launched(home, "two", {"1": "sleep", "2": "sleep", "3": "sleep"}) as process:
        until(lambda: ended(home / "two") == 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    text = call("status", "--home", home).stdout
    assert text.startswith("two: interrupted, ")
    assert re.search(r"1 of 4 \(1 done, [123] under way\)", text)
    assert f"resume  eed-search resume two --home {home}" in text
    assert "two: interrupted after" in call("report", "--home", home).stdout
    refused = call("stop", "two", "--home", home)
    assert refused.exit_code == 7
    assert "run two: does not run (interrupted), so there is nothing to stop; go on with" in refused.stderr
    cancelled = python("from eed_search.cli import main; main()", "cancel", "two", "--home", home)
    assert (cancelled.returncode, cancelled.stderr) == (0, "")
    assert "two: cancelled after" in cancelled.stdout
    view = read_run(home / "two")
    from eed_search.tracking.mlflow_store import connect

    runs = connect(view.tracker["uri"]).search_runs([view.tracker["experiment_id"]])
    assert "RUNNING" not in {run.info.status for run in runs}
    again = call("resume", "two", "--home", home)
    assert again.exit_code == 7
    assert "--force` takes it up all the same" in again.stderr


@pytest.mark.whole
def test_cancel_ends_a_running_search_at_once(tmp_path: Path) -> None:
    """Its process ends by itself with 130; no report is written."""
    home = tmp_path / "home"
    with launched(home, "three", {"0": "sleep", "1": "sleep"}) as process:
        until(lambda: (home / "three" / FILE_NAME).exists() and read_run(home / "three").attempts)
        done = call("cancel", "three", "--home", home)
        assert done.exit_code == 0, done.stderr
        assert "three: cancelled after" in done.stdout
        assert process.wait(HANGS_S) == 130
    assert not (home / "three" / "report").exists()
    assert read_run(home / "three").state == "cancelled"


@pytest.mark.whole
def test_cancel_of_a_frozen_search_leaves_nothing_open(tmp_path: Path) -> None:
    """Its driver hears nothing and is killed: ledger, Optuna's study and MLflow are closed by that very command."""
    home = tmp_path / "home"
    with launched(home, "eight", {"1": "sleep", "2": "sleep", "3": "sleep"}) as process:
        until(lambda: ended(home / "eight") == 1 and len(read_run(home / "eight").attempts) > 1)
        until(lambda: "RUNNING" in _trial_states(home / "eight"))
        process.send_signal(signal.SIGSTOP)
        at_once = "from eed_search.cli import main, stop; stop._CANCEL_S = 0.0; main()"
        done = python(at_once, "cancel", "eight", "--home", home)
        assert (done.returncode, done.stderr) == (0, "")
        assert "It does not answer: killing it." in done.stdout
    view = read_run(home / "eight")
    assert (view.state, view.unfinished()) == ("cancelled", [])
    assert sorted(set(_trial_states(home / "eight"))) == ["COMPLETE", "PRUNED"]
    assert _open_runs(view) == []


@pytest.mark.whole
def test_a_second_cancel_tells_mlflow_what_it_did_not_take(tmp_path: Path) -> None:
    """MLflow was broken at the first one; there is nothing to cancel after the second."""
    home = tmp_path / "home"
    with launched(home, "nine", {"1": "sleep", "2": "sleep", "3": "sleep"}) as process:
        until(lambda: ended(home / "nine") == 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    for file in sorted(home.glob("mlflow.db*")):
        file.rename(home / file.name.replace("mlflow", "away"))
    (home / "mlflow.db").write_text("no database, but long enough to be taken for one " * 50)
    cancel = "from eed_search.cli import main; main()"
    done = python(cancel, "cancel", "nine", "--home", home)
    assert (done.returncode, done.stderr) == (0, "")
    view = read_run(home / "nine")
    assert view.state == "cancelled"
    assert any("MLflow could not be told of the end" in note for note in view.notes)
    for file in sorted(home.glob("away.db*")):
        file.replace(home / file.name.replace("away", "mlflow"))
    done = python(cancel, "cancel", "nine", "--home", home)
    assert (done.returncode, done.stderr) == (0, "")
    assert _open_runs(read_run(home / "nine")) == []
    again = call("cancel", "nine", "--home", home)
    assert again.exit_code == 7
    assert "run nine: is cancelled, so there is nothing to cancel" in again.stderr


def _trial_states(folder: Path) -> list[str]:
    """How Optuna's trials are."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{(folder / STUDY_FILE).as_uri()}?mode=ro", uri=True)) as db:
        return [state for (state,) in db.execute("SELECT state FROM trials ORDER BY number")]
    return []


def _open_runs(view: RunView) -> list[str]:
    """Name the runs that MLflow shows as RUNNING."""
    from eed_search.tracking.mlflow_store import connect

    runs = connect(view.tracker["uri"]).search_runs([view.tracker["experiment_id"]])
    return [run.info.run_name for run in runs if run.info.status == "RUNNING"]


@pytest.mark.slow
def test_sigterm_ends_with_143(tmp_path: Path) -> None:
    """As a job system ends it: what is finished is kept."""
    home = tmp_path / "home"
    with launched(home, "four", {"1": "sleep", "2": "sleep", "3": "sleep"}) as process:
        until(lambda: ended(home / "four") == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANGS_S) == 143
    view = read_run(home / "four")
    assert (view.state, view.reason, view.trials[0].outcome) == ("stopped", "SIGTERM", "done")


@pytest.mark.slow
def test_a_search_that_was_killed_before_its_ledger_is_resumed(tmp_path: Path) -> None:
    """It has its name and its file, and no more: every command knows it, and `resume` begins it."""
    home = tmp_path / "home"
    (home / "five").mkdir(parents=True)
    (home / "five" / "search_space.yaml").write_text(FILE.replace("trials: 4", "trials: 1"), encoding="utf-8")
    refused = call("launch", "digits", "--name", "five", "--home", home, "--local")
    assert refused.exit_code == 7
    assert "exists already (killed at its start); resume it with `eed-search resume five`" in refused.stderr
    assert call("status", "five", "--home", home).stdout.startswith("five: interrupted, 0 s of work\ntrials  0 of 1")
    assert "`eed-search resume five` begins it" in call("report", "five", "--home", home).stderr
    assert call("status", "--home", home).stdout.startswith("five: interrupted")
    write_ledger(home / "older", make_view(0, state="finished"))
    assert "also    five: interrupted" in call("status", "--home", home).stdout
    done = python(STUBBED, "resume", "--home", home)  # the only one that waits for it, named or not
    assert (done.returncode, done.stderr) == (0, "")
    assert "Resuming five (interrupted): 0 of 1 trials are finished" in done.stdout
    assert read_run(home / "five").num_trials()["done"] == 1


def test_a_search_that_was_killed_before_its_ledger_can_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "six").mkdir()
    (tmp_path / "six" / "search_space.yaml").write_text(FILE, encoding="utf-8")
    done = call("cancel", "six", "--home", tmp_path)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "six: cancelled after 0 s; 0 trials are finished" in done.stdout
    assert call("status", "six", "--home", tmp_path).stdout.startswith("six: cancelled (cancel), ")


def test_an_exported_point_is_no_search(tmp_path: Path) -> None:
    """It has a search-space file too."""
    (tmp_path / "best").mkdir()
    for name in ("search_space.yaml", "manifest.json"):
        (tmp_path / "best" / name).write_text(FILE, encoding="utf-8")
    assert "best: no such search in" in call("resume", "best", "--home", tmp_path).stderr


def test_a_folder_that_a_launch_left_empty_is_named(tmp_path: Path) -> None:
    """Killed between the folder and its file: there is nothing to resume."""
    (tmp_path / "seven").mkdir()
    refused = call("launch", "digits", "--name", "seven", "--home", tmp_path, "--local")
    assert refused.exit_code == 7
    assert (
        f"exists already (empty); if no launch has just begun there, remove it with `rmdir {tmp_path}/seven`"
        in refused.stderr
    )


# ---------------------------------------------------------------- states that need no process


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one search in each state but running."""
    write_ledger(tmp_path / "a", make_view(8, name="a"))
    write_ledger(tmp_path / "b", make_view(8, name="b", state="running"))
    write_ledger(tmp_path / "c", make_view(8, name="c", state="failed", reason="the base went wrong: no data"))
    return tmp_path


def test_status_names_the_others(home: Path) -> None:
    """The latest in full, the others that are not finished in a line each."""
    text = call("status", "--home", home).stdout
    assert text.startswith("c: failed (the base went wrong: no data), ")
    assert text.splitlines()[-1] == "also    b: interrupted"


def test_status_of_a_finished_search_says_what_comes_next(home: Path) -> None:
    """Its points, and the commands."""
    lines = call("status", "a", "--home", home).stdout.splitlines()
    assert lines[0].startswith("a: finished, ")
    assert any(re.match(r"best    \d+ on the frontier and \d+ uncertain, hypervolume 0\.\d+$", line) for line in lines)
    assert f"report  eed-search report a --home {home}" in lines
    assert f"resume  eed-search resume a --trials N --home {home}" in lines


def test_status_of_a_search_that_patience_ended_names_the_key(home: Path) -> None:
    """More trials alone would be refused."""
    write_ledger(home / "d", make_view(8, name="d", reason="search.patience 3: so many trials in a row added nothing"))
    lines = call("status", "d", "--home", home).stdout.splitlines()
    assert lines[0].startswith("d: finished (search.patience 3: so many")
    assert f"more    give search.patience a higher value, or null, in {home}/d/search_space.yaml, then resume" in lines
    assert f"resume  eed-search resume d --home {home}" in lines


def test_status_counts_trials_that_wait_apart(home: Path) -> None:
    """Two of ten wait at their first rung: they have not ended."""
    params: dict[int, dict[str, Any]] = {number: {"num_members": 1} for number in range(10)}
    write_ledger(home / "e", make_view(8, name="e", state="running", proposals=params))
    with Ledger(home / "e" / FILE_NAME, write=True) as ledger:
        for number in (8, 9):
            ledger.append("report", {"rung": 0, "metrics": {"robust_accuracy": 0.5, "latency_ms": 0.1}}, number)
            ledger.append("decision", {"rung": 0, "decision": "pause"}, number)
    assert (
        "\ntrials  8 of 20 (5 done, 1 infeasible, 1 pruned, 1 failed, 2 waiting)\n"
        in call("status", "e", "--home", home).stdout
    )


def test_watch_ends_with_the_search(home: Path) -> None:
    """What does not run is said once."""
    watched = call("status", "b", "--watch", "--home", home)
    assert watched.exit_code == 0
    assert watched.stdout.startswith("b: interrupted, ")


def test_json_is_one_object(home: Path) -> None:
    """Every number that the text shows."""
    facts = json.loads(call("status", "a", "--json", "--home", home).stdout)
    assert facts["state"] == "finished"
    assert facts["pid"] is None
    assert {"id", "robust_accuracy", "latency_ms", "speedup", "clean_accuracy"} <= facts["frontier"][0].keys()
    assert all(
        one["front_probability"] < 0.75 <= facts["frontier"][0]["front_probability"] for one in facts["may_belong"]
    )
    assert sum(facts["trials"].values()) == 8


@pytest.mark.parametrize("command", ["status", "resume", "stop", "cancel"])
def test_a_home_without_a_search_says_so(tmp_path: Path, command: str) -> None:
    """And how to start one."""
    result = call(command, "--home", tmp_path)
    assert result.exit_code == 7
    assert f"{tmp_path}: holds no search; start one with `eed-search launch`" in result.stderr


@pytest.mark.parametrize("command", ["status", "resume", "stop", "cancel"])
def test_an_unknown_name_names_those_that_are_there(home: Path, command: str) -> None:
    """A slip of the pen is seen at once."""
    result = call(command, "aa", "--home", home)
    assert result.exit_code == 7
    assert "aa: no such search in" in result.stderr
    assert "a, b, c" in result.stderr


@pytest.mark.parametrize("command", ["stop", "cancel"])
def test_nothing_runs_is_said_with_what_there_is(home: Path, command: str) -> None:
    """Without a name, these end what runs and nothing else."""
    result = call(command, "--home", home)
    assert result.exit_code == 7
    assert "no search is running; there: a (finished), b (interrupted), c (failed). Name one of them" in result.stderr


@pytest.mark.parametrize("command", ["stop", "cancel"])
def test_several_that_run_must_be_named(home: Path, command: str) -> None:
    """It does not guess."""
    with driving(home / "a"), driving(home / "b"):
        result = call(command, "--home", home)
    assert result.exit_code == 7
    assert "several searches run: a, b; name one" in result.stderr


def test_resume_of_a_home_where_all_is_finished(home: Path) -> None:
    """There is nothing to take up without a name."""
    shutil.rmtree(home / "b"), shutil.rmtree(home / "c")
    result = call("resume", "--home", home)
    assert result.exit_code == 7
    assert "no search is waiting to be resumed; there: a (finished). Name one of them" in result.stderr


def test_cancel_of_a_finished_search_is_refused(home: Path) -> None:
    """It has its result."""
    result = call("cancel", "a", "--home", home)
    assert result.exit_code == 7
    assert "run a: is finished, so there is nothing to cancel" in result.stderr


def test_a_damaged_ledger_hides_no_other_search(home: Path) -> None:
    """It is passed over where none is named."""
    with Ledger(home / "c" / FILE_NAME, write=True) as ledger:
        ledger.append("result", {"number": 0}, 0)
    result = call("stop", "--home", home)
    assert "there: a (finished), b (interrupted). Name" in result.stderr
