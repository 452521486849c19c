"""Prepares the database of MLflow's server: it answers, and has all tables, made by one starter alone.

MLflow guards the making of its tables by a lock file, which two machines do not share, so two starters
of one PostgreSQL could make them at once. Here a lock of PostgreSQL itself is held meanwhile.
"""

from __future__ import annotations

import getpass
import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eed_search.core.errors import StoreError
from eed_search.tracking.mlflow_store import one_line, quiet_mlflow

if TYPE_CHECKING:
    from sqlalchemy import URL

_LOCK = 0x6EED_5EA2C4  # any number that nobody else takes
_LOCK_S = 600
_CONNECT_S = 10
_DRIVER = "psycopg"


def prepare_postgresql(uri: str, artifacts: str, *, upgrade: bool = False) -> URL:
    """Make sure that a PostgreSQL database answers and has MLflow's tables.

    Args:
        uri: `postgresql://USER@HOST:PORT/NAME`, or `postgresql:///NAME?host=/var/run/postgresql` for a socket.
        artifacts: Path or URI of the files that runs of the default experiment log.
        upgrade: Bring tables of an older MLflow up to date; for good, so make a copy first (`pg_dump`).

    Returns:
        The URI with its driver; `render_as_string()` hides a password.

    Raises:
        StoreError: If the driver is missing, PostgreSQL does not answer, the user or the database does
            not exist, or the tables are another version's; names the next command.
    """
    url = parse(uri)
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _alone(url):
            _make_tables(url, artifacts, upgrade=upgrade)
    except SQLAlchemyError as error:
        raise _explain(url, error) from error
    return url


def parse(uri: str) -> URL:
    """Read the address of a PostgreSQL database.

    Args:
        uri: As `prepare_postgresql` takes it.

    Returns:
        The URI with its driver.

    Raises:
        StoreError: If it is no address of a PostgreSQL database, or the driver is missing.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    allowed = "allowed: postgresql://USER@HOST:PORT/NAME, or postgresql:///NAME?host=/var/run/postgresql"
    try:
        url = make_url(re.sub(r"^postgres:", "postgresql:", uri))
    except ArgumentError:
        raise StoreError(f"--database: is not the address of a database; {allowed}") from None
    if url.get_backend_name() != "postgresql" or not url.database:
        shown = url.render_as_string(hide_password=True)
        raise StoreError(f"--database {shown}: is not a database of PostgreSQL; {allowed}; none takes SQLite")
    if find_spec(_DRIVER) is None:
        raise StoreError(
            "PostgreSQL's driver is not installed: pip install 'eed-search[postgres]' (in a checkout:"
            " pip install -c constraints.txt -e '.[postgres]')"
        )
    return url.set(drivername=f"postgresql+{_DRIVER}")


@contextmanager
def _alone(url: URL) -> Iterator[None]:
    """Hold PostgreSQL's own lock: other starters wait, and one that dies lets go of it."""
    from sqlalchemy import NullPool, create_engine, text

    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": _CONNECT_S})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"SET lock_timeout = '{_LOCK_S}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        yield


def _make_tables(url: URL, artifacts: str, *, upgrade: bool) -> None:
    quiet_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # MLflow sets it when it is imported
    uri = url.render_as_string(hide_password=False)
    there, wanted = _versions(url)
    is_other = there not in (None, wanted)  # None: new, or a starter was killed while it made the tables
    if is_other and upgrade:
        _upgrade(uri)
    elif is_other:
        raise StoreError(
            f"{_shown(url)}: its tables are of another version of MLflow ({there}, this one has {wanted}). Make a copy"
            f" (pg_dump -Fc -f mlflow.dump {shlex.quote(_libpq(url))}), then: eed-search mlflow-server --upgrade"
            f" --database {shlex.quote(_shown(url))}"
        )
    store: Any = SqlAlchemyStore  # without types
    try:
        store(uri, artifacts).engine.dispose()
    except MlflowException as error:
        raise StoreError(f"{_shown(url)}: MLflow cannot use it ({one_line(error)})") from error


def _upgrade(uri: str) -> None:
    """Do what `mlflow db upgrade` does, which would show a password in the process list."""
    from mlflow.store.db import utils

    untyped: Any = utils
    engine = untyped.create_sqlalchemy_engine(uri)
    try:
        untyped._upgrade_db(engine)
    finally:
        engine.dispose()


def _versions(url: URL) -> tuple[str | None, str | None]:
    """Give the version of the tables that are there, and the one that the installed MLflow makes."""
    import mlflow
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import NullPool, create_engine

    with create_engine(url, poolclass=NullPool).connect() as connection:
        there = MigrationContext.configure(connection).get_current_revision()
    steps = Path(mlflow.__file__).parent / "store" / "db_migrations"
    return there, ScriptDirectory(str(steps)).get_current_head()


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _libpq(url: URL) -> str:
    """Write it as PostgreSQL's own programs take it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


def _explain(url: URL, error: Exception) -> StoreError:
    said = str(getattr(error, "orig", None) or error)
    user, name = url.username or getpass.getuser(), url.database
    if re.search(r'database ".*" does not exist', said):
        why, fix = "there is no such database", f"sudo -u postgres createdb -O {user} {name}"
    elif re.search(r'role ".*" does not exist', said):
        why, fix = f"there is no user {user}", f"sudo -u postgres createuser {user}"
    elif "permission denied for schema" in said:
        why = "the user may not make tables there"
        fix = f"sudo -u postgres psql -c 'ALTER DATABASE {name} OWNER TO {user}'"
    elif re.search(r"authentication failed|no password supplied|no pg_hba.conf entry", said):
        why = f"it does not let {user} in ({_last_line(said)})"
        fix = "put the password into ~/.pgpass (mode 0600), or take the socket: ?host=/var/run/postgresql"
    elif "lock timeout" in said:
        why = f"another starter has been making its tables for {_LOCK_S // 60} minutes"
        fix = "wait for it, or end it, and try again"
    elif getattr(getattr(error, "orig", None), "sqlstate", None):  # it answered, and has a code for what is wrong
        why, fix = f"PostgreSQL refuses ({_last_line(said)})", "its log says more; correct that and try again"
    else:
        why = f"PostgreSQL does not answer ({_last_line(said)})"
        fix = "start it: sudo systemctl start postgresql (pg_lsclusters shows what runs, and on which port)"
    return StoreError(f"{_shown(url)}: {why}; {fix}")


def _last_line(said: str) -> str:
    """Give what PostgreSQL says itself, without hints and what was tried before."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(("\t", " ", "- "))]
    return lines[0].rstrip(".?")[:300] if lines else "it says nothing"
