"""`eed-search mlflow-server` on SQLite: it serves until Ctrl-C, and leaves nothing behind but the data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from eed_search.runs.ledger import read_run
from eed_search.tracking.mlflow_store import home_uri
from eed_search.tracking.server import NOTE_NAME, read_note
from tests.cli.calling import STUBBED, call, environment, python
from tests.cli.test_launch import FILE
from tests.waiting import HANGS_S


def _status(url: str, host: str) -> int:
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=HANGS_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_serves_until_ctrl_c(tmp_path: Path) -> None:
    """Exact host names at any port, a pattern of MLflow's default not; another server for the home is refused."""
    home = tmp_path / "home"
    command = [sys.executable, "-m", "eed_search.cli", "mlflow-server", "--port", "0", "--home", str(home)]
    command += ["--allow-host", "mlflow.example.org:443"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = []
        while (line := process.stdout.readline()) and not line.startswith("Ctrl-C"):
            lines.append(line.rstrip())
        note = read_note(home)
        assert note
        assert f"MLflow     {note.url}" in lines
        assert home_uri(home) == note.url
        allowed = ("127.0.0.1:1234", "localhost:80", "mlflow.example.org:443")
        assert {_status(note.url, host) for host in allowed} == {200}
        assert {_status(note.url, host) for host in ("10.0.0.1", "example.org", "mlflow.example.org")} == {403}
        second = call("mlflow-server", "--home", home, "--port", 0)
        assert second.exit_code == 7
        assert f"is served already, at {note.url}" in second.stderr
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "MLflow has ended.\n"
        assert process.wait(HANGS_S) == 0
    assert not (home / NOTE_NAME).exists()
    assert home_uri(home) == f"sqlite:///{home / 'mlflow.db'}"


def test_a_damaged_note_is_one_clear_error(tmp_path: Path) -> None:
    """It names the file and what to do."""
    (tmp_path / NOTE_NAME).write_text("{", encoding="utf-8")
    result = call("mlflow-server", "--home", tmp_path, "--port", 0)
    assert result.exit_code == 7
    assert result.stderr.startswith(f"error: {tmp_path / NOTE_NAME}: cannot be read (")
    assert result.stderr.endswith("remove it and start the server again: eed-search mlflow-server\n")


@pytest.mark.whole
def test_a_proxy_is_not_asked_for_a_server_on_this_machine(tmp_path: Path) -> None:
    """It starts, and a search writes to it, although the proxy of the environment answers nothing."""
    (tmp_path / "quick.yaml").write_text(FILE, encoding="utf-8")
    home = tmp_path / "home"
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    proxies |= {"no_proxy": "", "NO_PROXY": ""}
    started = python(STUBBED, "mlflow-server", "--background", "--port", 0, "--home", home, cwd=tmp_path, **proxies)
    note = json.loads((home / NOTE_NAME).read_text(encoding="utf-8"))
    try:
        assert (started.returncode, started.stderr) == (0, "")
        words = ("launch", tmp_path / "quick.yaml", "--home", home, "--name", "one", "--trials", 1)
        launched = python(STUBBED, *words, cwd=tmp_path, **proxies)
        assert (launched.returncode, launched.stderr) == (0, "")
        view = read_run(home / "one")
        assert (view.notes, view.tracker["uri"], view.tracker["complete"]) == ([], note["url"], True)
    finally:
        os.killpg(note["pid"], signal.SIGTERM)
