"""Finds where a search runs: on a cluster that is named, on the running cluster of a file, else on this machine.

    --local  >  --address  >  RAY_ADDRESS  >  --cluster FILE  >  ray_cluster.yaml, if it was brought up from here

A file that merely lies there costs nothing: only what `ray up` left behind on this machine makes a cloud be asked,
and that with a limit of time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eed_search.cluster.cluster_file import ClusterFile, read
from eed_search.core.errors import RunError
from eed_search.search.execution.reachable import host_and_port

DEFAULT_FILE = Path("ray_cluster.yaml")
_PROVIDER_S = 30.0


@dataclass(frozen=True)
class WhereAsked:
    """What the command line says about where to run.

    Attributes:
        address: Address of a running Ray: `http://…` of its dashboard, or `auto` or HOST:PORT on one of its nodes.
        cluster: A cluster file.
        local: On this machine, whatever else is there.
    """

    address: str | None = None
    cluster: Path | None = None
    local: bool = False

    def options(self) -> list[str]:
        """Write it as options, for a command that is to find the same place."""
        if self.local:
            return ["--local"]
        if self.address is not None:
            return ["--address", self.address]
        return [] if self.cluster is None else ["--cluster", str(self.cluster)]


@dataclass(frozen=True)
class Place:
    """Where a search runs.

    Attributes:
        kind: `here`: this machine alone. `join`: this process drives, as a member of the Ray at `address`.
            `submit`: a job of the cluster does everything, this process only sends it and follows.
        text: Where that is and why, in one line.
        address: What Ray takes (`join`), or the dashboard's URL (`submit`); empty where a tunnel gives one.
        file: The cluster's file, where a file names it.
        head: The head's address as ssh takes it; empty without a file.
        source: The option or variable that gave the address; empty without one.
    """

    kind: Literal["here", "join", "submit"]
    text: str
    address: str = ""
    file: ClusterFile | None = None
    head: str = ""
    source: str = ""


def find(asked: WhereAsked, environment: Mapping[str, str] = os.environ) -> Place:
    """Find the place.

    Args:
        asked: What the command line says.
        environment: Looked up for RAY_ADDRESS.

    Raises:
        RunError: If what is named is no cluster that runs; names the next command.
        SpecError: If a cluster file is wrong.
    """
    if asked.local:
        return Place("here", "On this machine: --local")
    if asked.address is not None:
        return _at(asked.address, "--address")
    if there := environment.get("RAY_ADDRESS", "").strip():
        return _at(there, "RAY_ADDRESS")
    if asked.cluster is not None:
        return _of_file(read(asked.cluster), named=True)
    if DEFAULT_FILE.is_file():
        return _of_file(read(DEFAULT_FILE), named=False)
    return Place("here", f"On this machine: no --address, no RAY_ADDRESS, no {DEFAULT_FILE}")


def _at(address: str, source: str) -> Place:
    if address == "local":
        return Place("here", f"On this machine: {source} says local")
    if address.startswith(("http://", "https://")):
        return Place("submit", f"On the cluster at {address}: {source}", address.rstrip("/"), source=source)
    if "://" in address:
        raise RunError(
            f"{source} {address}: Ray's client protocol is not used; give the dashboard as http://HOST:8265, or HOST:PORT"
            " of Ray itself on one of its nodes"
        )
    if address != "auto" and host_and_port(address) is None:
        raise RunError(
            f"{source} {address}: is no address; give http://HOST:8265, HOST:PORT on one of Ray's nodes, or auto"
        )
    return Place("join", f"On the Ray cluster at {address}, driven from here: {source}", address, source=source)


def _of_file(file: ClusterFile, *, named: bool) -> Place:
    """Look whether the cluster of a file runs.

    Args:
        file: The cluster's.
        named: Whether the file was asked for: then it must run, and what another machine brought up counts too.
    """
    left = _local_state(file) if file.is_local else _cloud_trace(file)
    if left == "up" or (left == "" and named):
        if head := _head_of(file, named=named):
            return Place(
                "submit", f"On the cluster {file.name} of {file.path}, head {head}: it is up", file=file, head=head
            )
        left = "down"
    if named:
        raise RunError(
            f"--cluster {file.path}: the cluster {file.name} does not run; start it with `ray up {file.path}`"
        )
    why = "is down" if left == "down" else "was not brought up from this machine"
    return Place("here", f"On this machine: the cluster of {file.path} {why} (`ray up {file.path}`)")


def _head_of(file: ClusterFile, *, named: bool) -> str:
    """Give the head's address, from the file or by asking the provider; nothing if there is none.

    Raises:
        RunError: If the provider does not tell in time.
    """
    if file.head_address is not None:
        return str(file.raw["provider"].get("external_head_ip") or file.head_address)
    command = [sys.executable, "-W", "ignore", "-m", "ray.scripts.scripts", "get-head-ip", str(file.path)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PROVIDER_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        said = f"no answer within {_PROVIDER_S:g} s"
    else:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        if done.returncode == 0 and lines:
            return lines[-1]
        if "not found" in done.stderr and "Head node" in done.stderr:
            return ""
        said = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
    option = "" if named else "; `--local` searches on this machine"
    raise RunError(
        f"{file.path}: {file.provider} does not tell whether the cluster {file.name} runs ({said}); try"
        f" `ray get-head-ip {file.path}`{option}"
    )


# ---------------------------------------------------------------- what `ray up` leaves on this machine


def _local_state(file: ClusterFile) -> Literal["up", "down", ""]:
    """Read what the launcher keeps of own machines: whether the head was started last, or ended."""
    roots = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]
    for root in roots:
        state = Path(root or "/tmp") / "ray" / f"cluster-{file.name}.state"
        with suppress(OSError, ValueError, AttributeError):
            head = json.loads(state.read_text(encoding="utf-8")).get(file.head_address)
            if head is not None:
                return "down" if head.get("state") == "terminated" else "up"
    return ""


def _cloud_trace(file: ClusterFile) -> Literal["up", ""]:
    """Look for the launcher's note of a cluster of this name: `up` means that its provider is worth asking."""
    for config in _cached():
        provider = config.get("provider", {})
        if config.get("cluster_name") == file.name and provider.get("type") == file.provider:
            return "up"
    return ""


def _cached() -> Iterator[dict[str, Any]]:
    """Read the launcher's notes of the clusters that this user has brought up."""
    for path in Path(tempfile.gettempdir()).glob("ray-config-*"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if path.stat().st_uid == os.getuid():
                yield dict(json.loads(path.read_text(encoding="utf-8"))["config"])


def filled_in(file: ClusterFile) -> dict[str, Any]:
    """Give the `auth` section as the launcher completed it: a cloud's key is made at `ray up`."""
    for config in _cached():
        if config.get("cluster_name") == file.name and config.get("provider", {}).get("type") == file.provider:
            return dict(config.get("auth") or {})
    return {}
