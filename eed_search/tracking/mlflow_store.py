"""The one door to MLflow's stores: a home's own database, its server, or what `tracking.uri` names."""

from __future__ import annotations

import logging
import os
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from eed_search.config.addresses import without_passwords
from eed_search.config.spec import Tracking
from eed_search.core.errors import EedSearchError, RunError, SpecError, StoreError
from eed_search.runs.home import check_home
from eed_search.system.loopback import past_proxies, urlopen
from eed_search.system.machine_faults import is_full_disk
from eed_search.system.modes import make_common_file, make_common_folder
from eed_search.tracking.moved import own_note, settle
from eed_search.tracking.server import NOTE_NAME, is_healthy

if TYPE_CHECKING:
    from mlflow import MlflowClient

_AT_ONCE = 4  # runs that are written side by side, where MLflow's database is no file of ours


@dataclass(frozen=True)
class MlflowStore:
    """A store that answers, and an experiment in it.

    Attributes:
        uri: URI for tracking.
        client: Talks to it.
        experiment_id: Where runs are made.
        at_once: Runs that may be written side by side.
        close: Closes the files of a home's own database, so that one file holds all of it.
    """

    uri: str
    client: MlflowClient
    experiment_id: str
    at_once: int
    close: Callable[[], None]


def open_store(tracking: Tracking, home: Path, name: str) -> MlflowStore:
    """Reach MLflow, and make a home's own database and the experiment where they are not there.

    Args:
        tracking: Section `tracking` of the file.
        home: Where the default database and the artifacts lie.
        name: Name of who opens it; one writer for each name.

    Raises:
        SpecError: If `tracking.uri` cannot be used.
        StoreError: If the home's own database cannot be made, or its server cannot be used.
    """
    uri = tracking.uri or home_uri(home)
    close: Callable[[], None] = lambda: None  # noqa: E731
    try:
        if uri == database_uri(home):
            make_common_folder(artifact_folder(home))
            make_database(home, name)
            settle(home)
            close = _write_ahead(home)
        else:
            _reach(uri)
        client = connect(uri)
        experiment_id = _experiment(client, uri, home, tracking.experiment)
    except EedSearchError:
        raise
    except Exception as error:
        raise cannot_be_used(tracking, home, uri, error) from error
    return MlflowStore(uri, client, experiment_id, 1 if uri.startswith("sqlite:") else _AT_ONCE, close)


def cannot_be_used(tracking: Tracking, home: Path, uri: str, error: Exception) -> EedSearchError:
    """Say which store cannot be used, why, and what to do."""
    if tracking.uri:
        return SpecError(
            [
                f"tracking.uri: {uri}: cannot be used ({one_line(error)}); allowed: a server such as"
                " http://127.0.0.1:5000, or a database such as sqlite:////absolute/mlflow.db;"
                " leave it out for a database under the home"
            ]
        )
    if uri != database_uri(home):
        return StoreError(
            f"{home / NOTE_NAME}: MLflow's server at {uri} cannot be used ({one_line(error)});"
            " start it again: eed-search mlflow-server"
        )
    fix = (
        "make room, or choose another --home" if is_full_disk(error) else "choose another --home, or move the file away"
    )
    return StoreError(f"{home / 'mlflow.db'}: MLflow's database cannot be used ({one_line(error)}); {fix}")


def _experiment(client: MlflowClient, uri: str, home: Path, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise SpecError(
                [f"tracking.experiment: {name!r} was deleted in MLflow; restore it there or take another name"]
            )
        return str(found.experiment_id)
    remote = urlsplit(uri).scheme in ("http", "https", "databricks", "uc")
    where = None if remote else artifact_folder(home).as_uri()
    # The tag makes MLflow's pages open in their mode for training runs.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    try:
        return str(client.create_experiment(name, artifact_location=where, tags=tags))
    except Exception:
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)  # another search was first


def database_uri(home: Path) -> str:
    """Name the home's own MLflow database; absolute, because workers run in other folders.

    Raises:
        SpecError: If the address would mean another file.
    """
    return f"sqlite:///{check_home(home).resolve() / 'mlflow.db'}"


def artifact_folder(home: Path) -> Path:
    """Name the folder of MLflow's artifacts."""
    return home.resolve() / "mlartifacts"


def home_uri(home: Path) -> str:
    """Name where a home's searches are tracked: by the server started for it, else in its own database.

    Raises:
        RunError: If the server keeps its data elsewhere and does not answer; nothing is split in two.
    """
    own = database_uri(home)
    note = own_note(home)
    if note is None:
        return own
    if is_healthy(note.url):
        return note.url
    if note.database == own:
        return own
    raise RunError(
        f"{home / NOTE_NAME}: MLflow's server at {note.url}, which serves this home, does not answer; start it again:"
        f" eed-search mlflow-server --background --home {home} --database '{note.database}'; or remove that file, and"
        " MLflow's data lie under the home from now on"
    )


def quiet_mlflow() -> None:
    """Turn MLflow's telemetry and its chatter off, and let it go to loopback itself; call before MLflow is imported."""
    past_proxies()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # A server that died would otherwise hold the search for four minutes at each call.
    # Nor is anything tried again behind our back: a run would be made twice.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def connect(uri: str) -> MlflowClient:
    """Open a tracking store without touching MLflow's global state.

    Raises:
        Exception: Whatever MLflow raises for a wrong URI.
    """
    quiet_mlflow()
    from mlflow import MlflowClient

    # MLflow sets its loggers' levels when it is imported.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the SQL of each call that failed
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_database(home: Path, name: str) -> None:
    """Make the home's own database if there is none, so that it appears with all its tables or not at all.

    MLflow takes seconds for that, and cannot go on with a database whose tables are half made.

    Args:
        home: Its folder.
        name: Name of who makes it; one writer for each name.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = home.resolve() / "mlflow.db"
    if path.exists():
        return
    for end in ("-journal", "-wal", "-shm"):  # leftovers of a moved file: they would be taken for the new one's
        path.with_name(path.name + end).unlink(missing_ok=True)
    quiet_mlflow()
    made = path.with_name(f".mlflow-for-{name}.db")  # one driver for each name, so one writer
    left_over = [made.with_name(made.name + end) for end in ("", "-journal", "-wal", "-shm")]
    for file in left_over:
        file.unlink(missing_ok=True)
    try:
        make_common_file(made)
        store: Any = SqlAlchemyStore  # without types
        store(f"sqlite:///{made}", artifact_folder(home).as_uri()).engine.dispose()
        with suppress(FileExistsError):  # another search was first
            os.link(made, path)
    finally:
        for file in left_over:
            file.unlink(missing_ok=True)


def _write_ahead(home: Path) -> Callable[[], None]:
    """Let the home's own database wait for the disk now and then, rather than thrice at each of a trial's four writes.

    A killed process loses nothing by it. After a power cut the last moments may be missing: a resume completes them.

    Returns:
        Closes the files.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event

    store: Any = SqlAlchemyStore  # without types
    engine = store(database_uri(home), artifact_folder(home).as_uri()).engine  # the one that all of MLflow uses here
    if not event.contains(engine, "connect", _relax):
        event.listen(engine, "connect", _relax)
    engine.dispose()  # its first connections do not know the setting yet
    return cast("Callable[[], None]", engine.dispose)


def _relax(connection: Any, record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _reach(uri: str) -> None:
    """Fail within seconds if nobody answers at an http address; MLflow itself would try for minutes."""
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    try:
        urlopen(uri, timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()  # somebody answers; what is wrong, if anything, the next call says


def one_line(error: BaseException) -> str:
    """Put an error's first line into a message of ours."""
    lines = without_passwords(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")[:300]
