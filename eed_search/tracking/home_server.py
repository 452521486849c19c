"""Serves a whole home's MLflow, in the foreground or for good: database ready, server up, note left.

Whoever searches under the home then writes to this server, whose database may be PostgreSQL.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from eed_search.core.errors import RunError, StoreError
from eed_search.runs.home import path_problem
from eed_search.system.modes import make_file, make_folder
from eed_search.tracking import server
from eed_search.tracking.mlflow_store import artifact_folder, database_uri, make_database
from eed_search.tracking.moved import own_note, settle
from eed_search.tracking.server import ServerNote

LOG_NAME = "mlflow-server.log"
_STARTERS_S = 180.0
_left_running: list[subprocess.Popen[bytes]] = []  # Python warns of a process that is forgotten while it runs


@dataclass(frozen=True)
class ServerOptions:
    """How a home's MLflow shall be served.

    Attributes:
        home: The folder that holds every search.
        database: URI of a PostgreSQL database; none takes the home's own SQLite.
        artifacts: Folder or URI (`s3://…`) of the files; none takes the home's own folder.
        port: On loopback; 0 takes a free one.
        more_hosts: Further values of the Host header that it answers to.
        upgrade: Bring the tables of an older MLflow up to date.
    """

    home: Path
    database: str | None = None
    artifacts: str | None = None
    port: int = 5000
    more_hosts: Sequence[str] = ()
    upgrade: bool = False


@dataclass(frozen=True)
class HomeServer:
    """A server that answers.

    Attributes:
        note: Where it is and what it keeps where.
        is_new: Whether it was started now; else it ran already.
    """

    note: ServerNote
    is_new: bool
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def wait(self) -> None:
        """Block until the server ends; Ctrl-C raises KeyboardInterrupt as usual.

        Raises:
            RunError: If the server ends by itself.
        """
        if self._process is not None:
            code = self._process.wait()
            raise RunError(f"{self.note.url}: MLflow's server ended by itself (exit code {code}); start it again")


def start_for_good(wanted: ServerOptions) -> HomeServer:
    """Start a home's server and leave it running; one that runs already is left as it is.

    Args:
        wanted: How.

    Returns:
        The server, which answers.

    Raises:
        RunError: If another one runs, the port is taken, or the server does not start.
        StoreError: If the database cannot be used.
    """
    home = wanted.home.resolve()
    with _one_starter(home):
        if running := _running(home, wanted):
            return HomeServer(running, is_new=False)
        process, note = _start(home, wanted)
        server.write_note(home, note)
        _left_running.append(process)
        return HomeServer(note, is_new=True)


@contextmanager
def serve_home(wanted: ServerOptions) -> Iterator[HomeServer]:
    """Serve a home while the block runs.

    Its note stays behind where its data lie elsewhere: searches then say that the server is gone,
    instead of putting a part of their data into the home.

    Args:
        wanted: How.

    Yields:
        The server, which answers.

    Raises:
        RunError: If one runs already, the port is taken, or the server does not start.
        StoreError: If the database cannot be used.
    """
    home = wanted.home.resolve()
    with server.ends_on_sigterm():
        with _one_starter(home):
            if running := _running(home, wanted):
                raise RunError(f"{home}: is served already, at {running.url} (process {running.pid})")
            process, note = _start(home, wanted)
            server.write_note(home, note)
        try:
            yield HomeServer(note, is_new=True, _process=process)
        finally:
            server.stop(process)
            if note.database == database_uri(home):
                (home / server.NOTE_NAME).unlink(missing_ok=True)


@contextmanager
def _one_starter(home: Path) -> Iterator[None]:
    make_folder(home)
    try:
        with FileLock(home / f".{server.NOTE_NAME}.lock", timeout=_STARTERS_S):
            yield
    except Timeout as error:
        raise RunError(f"{home}: another mlflow-server is starting there; wait for it, or end it") from error


def _running(home: Path, wanted: ServerOptions) -> ServerNote | None:
    note = own_note(home)
    if note is None or not server.is_healthy(note.url):
        return None
    asked = _shown(wanted.database) if wanted.database else database_uri(home)
    if note.database != asked or (wanted.port and urlsplit(note.url).port != wanted.port):
        raise RunError(
            f"{home}: is served already, at {note.url} from {note.database} (process {note.pid});"
            f" end that one first: kill {note.pid}"
        )
    return note


def _shown(database: str) -> str:
    from eed_search.tracking.database import parse

    return parse(database).render_as_string(hide_password=True)


def _start(home: Path, wanted: ServerOptions) -> tuple[subprocess.Popen[bytes], ServerNote]:
    port = server.free_port(wanted.port, "eed-search mlflow-server or ui")
    artifacts = _artifacts(home, wanted.artifacts)
    if wanted.database is None:
        if wanted.upgrade:
            raise RunError("--upgrade: is for PostgreSQL; give --database, or leave --upgrade out")
        make_database(home, "mlflow-server")
        settle(home)
        uri = shown = database_uri(home)
    else:
        from eed_search.tracking.database import prepare_postgresql

        url = prepare_postgresql(wanted.database, artifacts, upgrade=wanted.upgrade)
        uri, shown = url.render_as_string(hide_password=False), url.render_as_string(hide_password=True)
    address = f"http://{server.HOST}:{port}"
    make_file(home / LOG_NAME)
    with (home / LOG_NAME).open("w+b") as log:
        process = server.start(uri, artifacts, home, port, log, wanted.more_hosts)
        try:
            server.wait_until_ready(process, address, log)
        except BaseException:
            server.stop(process)
            raise
    return process, ServerNote(address, shown, artifacts, process.pid)


def _artifacts(home: Path, given: str | None) -> str:
    """Name where files go; a folder is made, and written absolutely, since the server runs elsewhere."""
    if given is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", given) and not given.startswith("file:"):
        return given.rstrip("/")
    folder = artifact_folder(home) if given is None else _folder(given).expanduser().resolve()
    if problem := path_problem(folder):
        raise StoreError(f"--artifacts {str(folder)!r}: {problem}; allowed: any other characters; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"--artifacts {folder}: cannot be made ({error.strerror}); name another folder") from error
    return str(folder)


def _folder(given: str) -> Path:
    """Read a path, or a `file:` address, in which other rules hold.

    Raises:
        StoreError: If the address names more than a path.
    """
    if not given.startswith("file:"):
        return Path(given)
    parts = urlsplit(given)
    if parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise StoreError(
            f"--artifacts {given}: is no address of a folder; write such as file:///srv/files, or its path"
        )
    return Path(unquote(parts.path))
