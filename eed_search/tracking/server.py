"""Starts and ends MLflow's server: on loopback, for exact host names, one worker, no jobs.

A server that serves a whole home leaves a note there (`mlflow-server.json`), by which the home's
searches and `eed-search ui` find it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from eed_search.config.addresses import without_passwords
from eed_search.core.errors import RunError
from eed_search.system.loopback import urlopen
from eed_search.system.modes import make_file

HOST = "127.0.0.1"
# Exact names with any port: a tunnel may end at another one. No page of another name gets in by the browser.
OWN_HOSTS = (HOST, f"{HOST}:*", "localhost", "localhost:*")
NOTE_NAME = "mlflow-server.json"
_START_S = 120.0
_LAST_LINES = 5


@dataclass(frozen=True)
class ServerNote:
    """What a home knows of the MLflow server that serves it.

    Attributes:
        url: Its address on this machine.
        database: Where it keeps runs, without a password.
        artifacts: Where it keeps files.
        pid: Its process.
    """

    url: str
    database: str
    artifacts: str
    pid: int


def write_note(home: Path, note: ServerNote) -> None:
    """Leave the note of a server in the home that it serves, at once or not at all."""
    made = home / f".{NOTE_NAME}.new"
    make_file(made)
    made.write_text(json.dumps(asdict(note), indent=2) + "\n", encoding="utf-8")
    made.replace(home / NOTE_NAME)


def read_note(home: Path) -> ServerNote | None:
    """Read a home's note; none if no server was ever started for it.

    Raises:
        RunError: If the note is damaged.
    """
    path = home / NOTE_NAME
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return ServerNote(str(plain["url"]), str(plain["database"]), str(plain["artifacts"]), int(plain["pid"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); remove it and start the server again: eed-search mlflow-server"
        ) from error


def is_healthy(url: str, patience_s: float = 5.0) -> bool:
    """Say whether a server answers there that it is well."""
    try:
        with urlopen(f"{url}/health", timeout=patience_s) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def free_port(port: int, command: str) -> int:
    """Find out that a port is free, or take one.

    Args:
        port: The port on loopback; 0 takes a free one.
        command: Who asks, for the message.

    Raises:
        RunError: If it is taken, or no port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RunError(
                f"--port {port}: cannot listen on {HOST} ({error.strerror}); is {command} running already?"
                " Allowed: a free port from 1024 to 65535, or 0 for any; give another --port"
            ) from error
        except OverflowError as error:
            raise RunError(f"--port {port}: is outside 0..65535; give another --port") from error
        return int(probe.getsockname()[1])


def start(
    uri: str, artifacts: str, folder: Path, port: int, log: IO[bytes], more_hosts: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start a server; it may take half a minute until it is ready.

    Args:
        uri: The database. It goes by the environment: a password in it stays out of the process list.
        artifacts: Path or URI of the files that runs log.
        folder: Where it runs.
        port: On loopback.
        log: Gets what it says.
        more_hosts: Further values of the Host header that it answers to, such as `mlflow.example.org:443`.

    Returns:
        Its process, the leader of a session of its own: Ctrl-C does not reach it.
    """
    # Settings of the user's shell must not open what is closed here.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_SERVER_")}
    environment |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--allowed-hosts", ",".join([*OWN_HOSTS, *more_hosts]), "--artifacts-destination", artifacts]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def wait_until_ready(server: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    """Wait until a started server answers.

    Args:
        server: As `start` gave it.
        url: Its address.
        log: What it says; readable.

    Raises:
        RunError: If it ends, or does not answer in two minutes; the server is ended then.
    """
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        if is_healthy(url):
            return
        time.sleep(0.2)
    ended = server.poll()
    stop(server)
    log.seek(0)
    last = without_passwords(log.read().decode(errors="replace")).strip().splitlines()[-_LAST_LINES:]
    what = f"ended with exit code {ended}" if ended is not None else f"did not answer within {_START_S:g} s"
    raise RunError(f"{url}: MLflow's server {what}; its last lines: {' | '.join(last) or 'none'}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and its workers: only the process group that was started here."""
    for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(server.pid, sign)
        except ProcessLookupError:
            break
        with suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            break
    server.wait(1)


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Leave the block in order when the terminal or a service manager asks the process to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
