"""A Ray of one node with a dashboard, on loopback, with a token and ports of its own; ends with the block."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cli.calling import ROOT

STUBBED = Path(__file__).parent / "stubbed"
_START_S = 120.0


@dataclass(frozen=True)
class OneNode:
    """What a client needs to know.

    Attributes:
        url: Of the dashboard.
        token_file: The file that holds the token.
        folder: Where everything of it lies.
    """

    url: str
    token_file: Path
    folder: Path

    def environment(self) -> dict[str, str]:
        """What a command needs to get in."""
        return {"RAY_AUTH_TOKEN_PATH": str(self.token_file)}


@contextmanager
def one_node(num_cpus: int = 2) -> Iterator[OneNode]:
    """Start it, with the stub for the trial; its processes share the fate of the one that is started here."""
    with tempfile.TemporaryDirectory(prefix="eed-node-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        token = folder / "token"
        token.write_text(secrets.token_hex(16))
        token.chmod(0o600)
        ports = _free_ports(4)
        options = {
            "--port": ports[0],
            "--dashboard-port": ports[1],
            "--dashboard-agent-listen-port": ports[2],
            "--ray-client-server-port": ports[3],
            "--dashboard-host": "127.0.0.1",
            "--node-ip-address": "127.0.0.2",
            "--temp-dir": folder / "ray",
            "--num-cpus": num_cpus,
            "--object-store-memory": 100_000_000,
        }
        words = [f"{option}={value}" for option, value in options.items()]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        variables = {
            "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
            "PYTHONPATH": f"{STUBBED}:{ROOT}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        dies_with_us = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        command = [*dies_with_us, sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words]
        with (folder / "start.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=kept | variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
            )
        node = OneNode(f"http://127.0.0.1:{ports[1]}", token, folder)
        try:
            _wait(node, process)
            yield node
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def _wait(node: OneNode, process: subprocess.Popen[bytes]) -> None:
    headers = {"Authorization": f"Bearer {node.token_file.read_text()}"}
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, urllib.error.URLError):
            request = urllib.request.Request(f"{node.url}/api/version", headers=headers)
            urllib.request.urlopen(request, timeout=2).close()
            return
        time.sleep(0.3)
    raise AssertionError((node.folder / "start.log").read_text())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
