"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, on a socket there, by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import HANGS_S

USER = "tester"


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL.

    Attributes:
        folder: Holds its data and its socket.
        programs: Folder of its programs.
        identity: Who runs it, as arguments of `subprocess`.
    """

    folder: Path
    programs: Path
    identity: dict[str, Any]

    def uri(self, database: str, user: str = USER) -> str:
        """Name a database."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def ask(self, statement: str, database: str = "postgres") -> str:
        """Run a statement; give what it returns as psql prints it, without headers."""
        command = [self.programs / "psql", "-h", self.folder, "-U", USER, "-d", database, "-XAtqc", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=HANGS_S).stdout.strip()

    def baseline(self, *arguments: str) -> None:
        """Start or stop it."""
        settings = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        command = [self.programs / "pg_ctl", "-D", self.folder / "data", "-w", "-t", "600", *arguments]
        command += ["-l", self.folder / "log", "-o", settings] if arguments[0] == "start" else []
        # What it says goes to a file: the server would keep a pipe open for ever.
        with (self.folder / "said").open("wb") as said:
            subprocess.run(command, check=True, stdout=said, stderr=said, timeout=HANGS_S, cwd="/", **self.identity)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Make and start one for as long as the block lasts; skips the test where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's programs (Debian: apt-get install postgresql)")
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
        identity = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="eed-pg-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
    try:
        if identity:
            os.chown(folder, pwd.getpwnam(identity["user"]).pw_uid, identity["group"])
        make = [programs / "initdb", "-D", folder / "data", "-U", USER, "--auth=trust", "--no-sync", "--encoding=UTF8"]
        subprocess.run(make, check=True, capture_output=True, timeout=HANGS_S, cwd="/", **identity)
        server = Postgres(folder, programs, identity)
        server.baseline("start")
        try:
            yield server
        finally:
            server.baseline("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    """Find the folder of initdb; Debian keeps it off the PATH, one for each version."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return versions[-1].parent if versions else None


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
