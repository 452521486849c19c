"""An ssh tunnel to a port of a cluster's head, for as long as a block lasts.

The remote side runs `cat`, which ends when this process does, however it dies: no tunnel is left behind.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from eed_search.cluster.cluster_file import ClusterFile
from eed_search.cluster.where import filled_in
from eed_search.core.errors import RunError

_CONNECT_S = 15
_TRIES = 3
_END_S = 5.0


def login(file: ClusterFile, head: str) -> list[str]:
    """Write the ssh command that reaches the head, up to what is to be run there."""
    options = file.ssh_options()
    if file.ssh_key is None and (made := filled_in(file).get("ssh_private_key")):
        options = ["-i", str(Path(str(made)).expanduser()), "-o", "IdentitiesOnly=yes", *options]
    return [
        "ssh",
        "-T",
        *options,
        *("-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", f"ConnectTimeout={_CONNECT_S}"),
        *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "StrictHostKeyChecking=accept-new"),
        *("-o", "LogLevel=ERROR", "-o", "ControlMaster=no", "-o", "ControlPath=none"),
        f"{file.ssh_user}@{head}",
    ]


@contextmanager
def tunnel(file: ClusterFile, head: str, port: int, here: int = 0) -> Iterator[int]:
    """Forward a port of this machine's loopback to one of the head's.

    Args:
        file: The cluster's: user, key, proxy.
        head: The head's address.
        port: On the head's loopback.
        here: On this machine; 0 takes a free one.

    Yields:
        The port on this machine.

    Raises:
        RunError: If ssh is not there or does not get through; says what it said.
    """
    if shutil.which("ssh") is None:
        raise RunError("ssh is not installed on this machine; install it (openssh-client) and try again")
    with tempfile.TemporaryFile() as said:
        process, opened = _open(file, head, port, here, said)
        try:
            yield opened
        finally:
            _close(process)


def _open(file: ClusterFile, head: str, port: int, wanted: int, said: IO[bytes]) -> tuple[subprocess.Popen[bytes], int]:
    for tried in range(1, _TRIES + 1):
        here = wanted or _free_port()
        ssh, *rest = login(file, head)
        said.seek(0)
        said.truncate()
        process = subprocess.Popen(
            [ssh, "-L", f"127.0.0.1:{here}:127.0.0.1:{port}", *rest, "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # Ctrl-C is this process's, which ends the tunnel itself
        )
        try:
            if _wait(process, here):
                return process, here
        except BaseException:
            _close(process)
            raise
        _close(process)
        said.seek(0)
        lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
        if any("forward" in line or "in use" in line for line in lines):
            if wanted:
                raise RunError(f"--port {wanted}: is taken on this machine; give another one, or 0 for a free one")
            if tried < _TRIES:
                continue  # another program was faster with the port
        why = lines[-1] if lines else f"no answer within {_CONNECT_S} s"
        advice = (
            f"; if the machine behind this address is a new one, `ssh-keygen -R {head}`" if "ost key" in why else ""
        )
        raise RunError(
            f"ssh {file.ssh_user}@{head}: refused ({why}){advice}; `ray exec {file.path} uptime` shows more,"
            f" `ray up {file.path}` starts the cluster, `--local` searches on this machine"
        )
    raise AssertionError("unreachable")


def _wait(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the tunnel takes connections; False if ssh ended or never came through."""
    deadline = time.monotonic() + _CONNECT_S + 5
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process.poll() is None
        time.sleep(0.05)
    return False


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
