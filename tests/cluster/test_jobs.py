"""A search sent to a real Ray as a job, from another process: followed, left alone, looked at, stopped, resumed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.calling import environment
from tests.cluster.one_node import OneNode, one_node
from tests.waiting import HANGS_S

FILE = """
name: quick
threat: {eps: 0.15}
search: {trials: 3, startup_trials: 2, racing: false}
baselines: {sizes: [0.5]}
resources: {cpu: 1}
"""
OURS = [sys.executable, "-c", "import sys; sys.argv[0] = 'eed-search'; from eed_search.cli import main; main()"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def node() -> Iterator[OneNode]:
    """A Ray of one node whose trials are stubs."""
    with one_node() as made:
        (made.folder / "quick.yaml").write_text(FILE)
        yield made


def variables(node: OneNode) -> dict[str, str]:
    """The environment of a laptop that has the token."""
    return environment(**node.environment())


def place(node: OneNode) -> list[str]:
    """The options that find the cluster, and a home on it."""
    return ["--address", node.url, "--home", str(node.folder / "home")]


def call(node: OneNode, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours against it, from a folder of its own."""
    return subprocess.run(
        [*OURS, *words, *place(node)],
        env=variables(node),
        cwd=node.folder,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )


@pytest.fixture(scope="module")
def launched(node: OneNode) -> subprocess.CompletedProcess[str]:
    """A search that was followed to its end."""
    return call(node, "launch", "quick.yaml", "--name", "one")


def test_a_launch_is_followed_to_its_result(launched: subprocess.CompletedProcess[str], node: OneNode) -> None:
    """First where it runs; then what was sent; then the head's own lines, and nothing of Ray's."""
    assert (launched.returncode, launched.stderr) == (0, "")
    lines = launched.stdout.splitlines()
    assert lines[:2] == [f"On the cluster at {node.url}: --address", "Searching quick.yaml"]
    assert sum(" done: robust " in line for line in lines) == 3
    assert any(line.startswith("one: finished after ") for line in lines)
    assert not [line for line in lines if "INFO" in line or line.startswith(("out|", "err|"))]


def test_the_commands_it_prints_work_here(launched: subprocess.CompletedProcess[str], node: OneNode) -> None:
    """With the address, and the home as it was given."""
    suffix = f" --home {node.folder}/home --address {node.url}"
    assert f"again   eed-search status one --watch{suffix}" in launched.stdout
    assert f"MLflow  eed-search ui one{suffix}" in launched.stdout


def test_status_and_report_answer_in_json(launched: subprocess.CompletedProcess[str], node: OneNode) -> None:
    """Nothing else stands on stdout."""
    status, report = call(node, "status", "--json"), call(node, "report", "one", "--json")
    assert json.loads(status.stdout)["state"] == "finished"
    assert json.loads(report.stdout)["run"] == "one"


def test_the_page_is_brought_here(launched: subprocess.CompletedProcess[str], node: OneNode) -> None:
    """By the command that the result prints in the place of a path on the head."""
    suffix = f" --home {node.folder}/home --address {node.url}"
    assert f"plot    eed-search report one --out one-report{suffix}" in launched.stdout
    done = call(node, "report", "one", "--out", "one-report")
    assert (done.returncode, done.stderr.splitlines()[1:]) == (0, [])
    assert "written one-report/frontier.html" in done.stdout
    assert json.loads((node.folder / "one-report" / "frontier.json").read_text())["run"] == "one"
    again = call(node, "report", "one", "--out", "one-report")
    assert "one-report: exists already and is left as it is" in again.stderr


def test_an_error_there_is_an_error_here(launched: subprocess.CompletedProcess[str], node: OneNode) -> None:
    """Message and exit code, of a search that is not there and of a name that is taken."""
    done = call(node, "report", "none")
    assert done.returncode == 7
    assert done.stderr.splitlines()[-1].startswith(f"error: none: no such search in {node.folder}/home; there: one.")
    again = call(node, "launch", "quick.yaml", "--name", "one")
    assert again.returncode == 7
    assert "exists already (finished)" in again.stderr


def test_ctrl_c_leaves_the_search_alone(launched: subprocess.CompletedProcess[str], node: OneNode) -> None:
    """It says how to come back; `stop` ends it; `resume` finishes it."""
    slow = [*OURS, "launch", "quick.yaml", "--name", "two", "--trials", "30", *place(node)]
    process = subprocess.Popen(slow, env=variables(node), cwd=node.folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        shown = []
        for line in process.stdout:
            shown.append(line)
            if "dense base" in line:
                break
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=HANGS_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, shown
    assert "Not followed any more; the search goes on." in rest
    assert re.search(rf"^end it  eed-search stop two --home .* --address {node.url}$", rest, re.MULTILINE)
    folder = node.folder / "home" / "two"
    _until_running(folder)
    assert json.loads(call(node, "status", "two", "--json").stdout)["state"] in ("running", "finished")
    stopped = call(node, "stop", "two")
    assert stopped.returncode == 0 or "finished" in stopped.stderr, stopped.stderr
    resumed = call(node, "resume", "two", "--trials", "31")
    assert resumed.returncode == 0, resumed.stderr
    assert "two: finished after " in resumed.stdout


def test_the_user_s_own_code_travels(node: OneNode) -> None:
    """It is found by the search that was sent, and by the one that goes on when laptop's file and job are gone."""
    (node.folder / "mine.py").write_text(
        "from eed_search import plugins\nimport mine_too\n\n"
        "@plugins.score('sent')\ndef f(model, batch):\n    return {}\n"
    )
    (node.folder / "mine_too.py").write_text("")
    text = FILE.replace("name: quick", "name: own\nplugins: [mine.py]").replace(
        "trials: 3", "trials: 3, space: {score: sent}"
    )
    (node.folder / "own.yaml").write_text(text)
    done = call(node, "launch", "own.yaml", "--name", "own")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("mine.py", "mine_too.py", "own.yaml"):
        (node.folder / name).unlink()
    resumed = call(node, "resume", "own", "--trials", "4")
    assert resumed.returncode == 0, resumed.stderr
    assert "own: finished after " in resumed.stdout
    kept = node.folder / "home" / ".plugins"
    assert sorted(path.name for path in kept.rglob("*.py")) == ["mine.py", "mine_too.py"]


def _until_running(folder: Path) -> None:
    deadline = time.monotonic() + HANGS_S
    while not (folder / "ledger.sqlite").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
