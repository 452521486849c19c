"""`eed-search launch` as a process of its own, through real Ray, Optuna, MLflow and ledger; only the trial is a stub."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eed_search.runs.ledger import read_run
from tests.cli.calling import ROOT, STUBBED, call, environment, python
from tests.waiting import HANGS_S

pytestmark = pytest.mark.timeout(900)  # whole searches, each in a process of its own

FILE = """
name: quick
threat: {eps: 0.15}
search: {trials: 4, startup_trials: 2, racing: false}
baselines: {sizes: [0.5]}
resources: {cpu: 1}
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A home with one finished search, and what its launch printed."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "quick.yaml").write_text(FILE, encoding="utf-8")
    home = folder / "home"
    done = python(
        STUBBED, "launch", folder / "quick.yaml", "--home", home, "--name", "one", "--set", "seed=5", cwd=folder
    )
    return home, done


def test_a_launch_ends_with_its_result(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Summary, events, table, verdict, next commands; exit code 0 and nothing on stderr."""
    home, done = launched
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "On this machine: no --address, no RAY_ADDRESS, no ray_cluster.yaml"
    assert lines[1] == f"Searching {home.parent / 'quick.yaml'}"
    events = [line for line in lines if re.match(r"\[ \d:\d\d\] ", line)]
    assert any(line.endswith("(0 s)") and " dense base: robust 84.0" in line for line in events)
    assert any(" scratch 50 % (labels): robust 60.0" in line for line in events)
    assert sum(" done: robust " in line for line in events) == 4
    assert any("  4 of 4 trials, " in line for line in events)
    assert any(line.startswith("one: finished after ") for line in lines)
    for part in ("plot    ", "MLflow  eed-search ui one", "export  eed-search export one --select knee --out one-knee"):
        assert any(line.startswith(part) for line in lines), part


def test_report_prints_the_same_result_again(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """From the ledger, word for word."""
    home, done = launched
    again = python(
        "from eed_search.cli import main; import sys; sys.argv[0] = 'eed-search'; main()", "report", "--home", home
    )
    assert again.stdout == done.stdout[done.stdout.index("\none: finished") + 1 :]


def test_everything_lies_under_the_home(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Nothing is written beside it; the changes of the command line stand in the resolved file."""
    home, _ = launched
    assert {path.name for path in home.parent.iterdir()} == {"home", "quick.yaml"}
    assert "seed: 5" in (home / "one" / "search_space.yaml").read_text(encoding="utf-8")
    assert call("check", home / "one" / "search_space.yaml").exit_code == 0


def test_the_plot_that_is_named_exists(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The path can be opened."""
    _, done = launched
    (plot,) = re.findall(r"^plot +(.+)$", done.stdout, re.MULTILINE)
    assert Path(plot).is_file()


def test_a_name_that_is_taken_is_refused(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """One message, exit code 7, the search of that name untouched."""
    home, _ = launched
    before = written(home / "one")
    done = python(STUBBED, "launch", home.parent / "quick.yaml", "--home", home, "--name", "one")
    assert done.returncode == 7
    assert done.stderr.startswith("error: --name one: ")
    assert (
        "(finished); take it to N trials in all with `eed-search resume one --trials N`, or choose another --name"
        in done.stderr
    )
    assert written(home / "one") == before


def written(folder: Path) -> dict[Path, int]:
    """Say when each file was written last; SQLite's readers touch the memory that they share."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.whole
def test_a_search_without_a_point_says_why(tmp_path: Path) -> None:
    """Every trial failed: the reasons are shown, the exit code is not 0."""
    (tmp_path / "quick.yaml").write_text(FILE, encoding="utf-8")
    done = python(
        STUBBED,
        *("launch", tmp_path / "quick.yaml", "--home", tmp_path / "home", "--trials", 2, "--set", "baselines.sizes=[]"),
        EED_STUB_FAULTS=json.dumps({"0": "raise", "1": "nan"}),
    )
    assert done.returncode == 7
    assert "trial 0 failed (error): " in done.stdout
    assert "the stub was told to raise" in done.stdout
    assert "trial 1 failed (diverged): " in done.stdout
    assert done.stderr.startswith("error: run quick-1: no trial gave a point")
    assert "Traceback" not in done.stderr


def test_a_file_with_mistakes_starts_nothing(tmp_path: Path) -> None:
    """Exit code 3, no home made."""
    (tmp_path / "quick.yaml").write_text(FILE + "serch: 1\n", encoding="utf-8")
    result = call("launch", tmp_path / "quick.yaml", "--home", tmp_path / "home", "--trials", "3")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[-1] == "error: 1 mistake; nothing was started"
    assert not (tmp_path / "home").exists()


@pytest.mark.whole
def test_ctrl_c_in_a_terminal_keeps_what_is_finished(tmp_path: Path) -> None:
    """On a terminal the live page runs; Ctrl-C ends the search with its result so far and exit code 130."""
    (tmp_path / "quick.yaml").write_text(FILE, encoding="utf-8")
    main, terminal = pty.openpty()
    command = [sys.executable, "-c", STUBBED, "launch", str(tmp_path / "quick.yaml"), "--home", str(tmp_path / "home")]
    faults = json.dumps({str(number): "sleep" for number in range(2, 4)})
    process = subprocess.Popen(
        [*command, "--name", "cut", "--set", "baselines.sizes=[]"],
        cwd=ROOT,
        env=environment(EED_STUB_FAULTS=faults, TERM="xterm", COLUMNS="80"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    text = ""
    interrupted = False
    deadline = time.monotonic() + HANGS_S
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([main], [], [], 1.0)
            if ready:
                try:
                    data = os.read(main, 65536)
                except OSError:  # the other end is closed
                    break
                if not data:
                    break
                text += data.decode(errors="replace")
            if not interrupted and "2 of 4 trials" in text and "best points so far" in text:
                process.send_signal(signal.SIGINT)
                interrupted = True
        code = process.wait(HANGS_S)
    finally:
        if process.poll() is None:
            process.kill()
        os.close(main)
    assert interrupted, text[-2000:]
    assert code == 130, text[-2000:]
    assert "cut: stopped after" in text
    assert "Traceback" not in text
    assert call("report", "cut", "--home", tmp_path / "home").stdout.startswith("cut: stopped after")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_a_pinned_launch_takes_only_the_cores_that_it_is_pinned_to(tmp_path: Path) -> None:
    """As under `taskset`: Ray is given as many, so as many trials run at once."""
    (tmp_path / "quick.yaml").write_text(FILE, encoding="utf-8")
    pinned = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\n{STUBBED}"
    done = python(pinned, "launch", tmp_path / "quick.yaml", "--home", tmp_path / "h", "--trials", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "h" / "quick-1").facts["machine"]["num_cpus"] == 1
