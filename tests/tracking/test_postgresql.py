"""MLflow's server on a real PostgreSQL: one command, many searches at once, and clear errors where it cannot."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eed_search.core.errors import RunError, StoreError
from eed_search.runs.ledger import RunView, fold
from eed_search.tracking.database import prepare_postgresql
from eed_search.tracking.mlflow_log import MlflowTracker
from eed_search.tracking.mlflow_store import connect
from eed_search.tracking.server import NOTE_NAME, read_note
from eed_search.tracking.ui import serve
from tests.cli.calling import call, environment
from tests.runs.ledgers import events_of
from tests.tracking.factories import make_spec, make_view
from tests.tracking.postgres import USER, Postgres, running_postgres
from tests.waiting import HANGS_S

pytestmark = [pytest.mark.whole, pytest.mark.timeout(900)]  # PostgreSQL, an MLflow server, its tables made twice

MAKE_TABLES = "import sys\nfrom eed_search.tracking.database import prepare_postgresql\nprepare_postgresql(sys.argv[1], sys.argv[2])"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL with an empty database `mlflow`."""
    with running_postgres() as server:
        server.ask("CREATE DATABASE mlflow")
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that no search has written to."""
    return tmp_path_factory.mktemp("home")


def _starter(uri: str, folder: Path) -> subprocess.Popen[str]:
    """Make the tables in a process that shares no lock file with another, like one on another machine."""
    own = folder / f"tmp-{time.monotonic_ns()}"
    own.mkdir()
    command = [sys.executable, "-c", MAKE_TABLES, uri, str(folder)]
    kept = environment(TMPDIR=str(own))
    return subprocess.Popen(command, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def output(postgres: Postgres, home: Path) -> Iterator[str]:
    """What the one command says, run while another starter makes the same tables."""
    uri = postgres.uri("mlflow")
    other = _starter(uri, home)
    command = [
        sys.executable,
        "-m",
        "eed_search.cli",
        "mlflow-server",
        "--background",
        "--port",
        "0",
        "--home",
        str(home),
    ]
    started = subprocess.run(
        [*command, "--database", uri], env=environment(), capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    said, _ = other.communicate(timeout=HANGS_S)
    note = read_note(home)
    try:
        assert (other.returncode, said) == (0, "")
        assert (started.returncode, started.stderr) == (0, "")
        yield started.stdout
    finally:
        if note is not None:
            os.killpg(note.pid, signal.SIGTERM)


# ---------------------------------------------------------------- without PostgreSQL


def test_postgresql_down_is_one_clear_error(tmp_path: Path) -> None:
    """It says so within seconds, names the next command, shows no password, and starts nothing."""
    uri = "postgresql://ana:geheim@127.0.0.1:1/mlflow"
    result = call("mlflow-server", "--background", "--port", 0, "--home", tmp_path, "--database", uri)
    assert result.exit_code == 6
    assert result.stderr == (
        "error: postgresql+psycopg://ana:***@127.0.0.1:1/mlflow: PostgreSQL does not answer (connection failed: connection"
        ' to server at "127.0.0.1", port 1 failed: Connection refused); start it: sudo systemctl start postgresql'
        " (pg_lsclusters shows what runs, and on which port)\n"
    )
    assert not (tmp_path / NOTE_NAME).exists()


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("mysql://ana:geheim@h/x", r"^--database mysql://ana:\*\*\*@h/x: is not a database of PostgreSQL; allowed: "),
        ("postgresql://h", "is not a database of PostgreSQL"),
        ("mlflow", "^--database: is not the address of a database; allowed: postgresql://"),
    ],
)
def test_what_is_no_postgresql_is_one_clear_error(uri: str, text: str) -> None:
    """Another database, no database, no address."""
    with pytest.raises(StoreError, match=text):
        prepare_postgresql(uri, "files")


def test_a_pattern_of_hosts_is_refused(tmp_path: Path) -> None:
    """Only exact names: a pattern would let other web pages in."""
    result = call("mlflow-server", "--home", tmp_path, "--allow-host", "*.example.org")
    assert (result.exit_code, result.stdout) == (7, "")
    assert result.stderr.startswith("error: --allow-host '*.example.org': would let other web pages in")


# ---------------------------------------------------------------- with PostgreSQL


@pytest.mark.parametrize(
    ("database", "user", "text"),
    [
        ("absent", USER, f"there is no such database; sudo -u postgres createdb -O {USER} absent"),
        ("postgres", "stranger", "there is no user stranger; sudo -u postgres createuser stranger"),
    ],
)
def test_what_is_missing_is_named(postgres: Postgres, database: str, user: str, text: str) -> None:
    """With the command that makes it."""
    with pytest.raises(StoreError, match=re.escape(text)):
        prepare_postgresql(postgres.uri(database, user), "files")


def test_a_database_of_somebody_else_is_one_clear_error(postgres: Postgres) -> None:
    """PostgreSQL lets only the owner make tables."""
    postgres.ask("CREATE ROLE guest LOGIN")
    postgres.ask("CREATE DATABASE theirs")
    with pytest.raises(StoreError, match="may not make tables there; sudo -u postgres psql -c 'ALTER DATABASE theirs"):
        prepare_postgresql(postgres.uri("theirs", "guest"), "files")


def test_one_command_says_where_everything_is(output: str, home: Path, postgres: Postgres) -> None:
    """Address, database, files and log; the tables were made once, by whichever starter was first."""
    lines = output.splitlines()
    assert re.fullmatch(r"MLflow     http://127\.0\.0\.1:\d+", lines[1])
    assert lines[2].startswith(f"database   postgresql+psycopg://{USER}@/mlflow")
    assert lines[3:5] == [f"artifacts  {home / 'mlartifacts'}", f"log        {home / 'mlflow-server.log'}"]
    assert postgres.ask("SELECT count(*) FROM alembic_version", "mlflow") == "1"
    assert not (home / "mlflow.db").exists()


def test_a_second_start_finds_the_first(output: str, home: Path, postgres: Postgres) -> None:
    """The same command again changes nothing; another database is refused."""
    note = read_note(home)
    assert note
    again = call("mlflow-server", "--background", "--home", home, "--port", 0, "--database", postgres.uri("mlflow"))
    assert again.stdout.endswith(f"It ran already as process {note.pid}; `kill {note.pid}` ends it.\n")
    other = call("mlflow-server", "--background", "--home", home, "--port", 0)
    assert other.exit_code == 7
    assert f"is served already, at {note.url} from postgresql+psycopg://" in other.stderr


def _write(home: Path, name: str) -> tuple[MlflowTracker, RunView]:
    """Write a search as its driver would: the home alone says where."""
    view = make_view(4, name=name)
    tracker = MlflowTracker(make_spec(tracking={"experiment": "shared"}), home, name)
    tracker.start(view)
    so_far = RunView()
    for event in events_of(view):
        fold(so_far, event)
        tracker.deliver(event, so_far)
    tracker.finish(view, None, "finished")
    return tracker, view


def test_two_searches_write_at_once(output: str, home: Path, postgres: Postgres) -> None:
    """Both are whole, with the same numbers as in their ledgers, and lie in PostgreSQL."""
    with ThreadPoolExecutor(2) as pool:
        written = list(pool.map(_write, [home, home], ["ana", "ben"]))
    assert {tracker.uri for tracker, _ in written} == {output.splitlines()[1].split()[1]}
    for tracker, view in written:
        client = connect(tracker.uri)
        assert client.get_run(tracker.parent_run_id).info.status == "FINISHED"
        experiment = client.get_experiment_by_name("shared")
        assert experiment
        query = f"tags.`mlflow.parentRunId` = '{tracker.parent_run_id}'"
        runs = client.search_runs([experiment.experiment_id], query)
        found = {
            run.data.tags["point"]: run.data.metrics["robust_accuracy"] for run in runs if "point" in run.data.tags
        }
        for trial in view.trials.values():
            if trial.measurement:
                assert found[f"{trial.number}.0"] == pytest.approx(trial.measurement.robust_accuracy.value)
    searches = "SELECT count(DISTINCT run_uuid) FROM tags WHERE key = 'kind' AND value = 'search'"
    assert postgres.ask(searches, "mlflow") == "2"


def test_ui_leads_to_the_server(output: str, home: Path) -> None:
    """`eed-search ui` starts nothing of its own where the home has a server."""
    with serve(home, "ana", 0) as ui:
        assert ui.url == output.splitlines()[1].split()[1]
        assert ui.links
        assert ui.links.search == "ana"


def test_searches_do_not_split_their_data_when_the_server_is_gone(home: Path, tmp_path: Path, output: str) -> None:
    """They name the command that brings it back, instead of starting a database in the home."""
    note = (home / NOTE_NAME).read_text(encoding="utf-8").replace(str(home), str(tmp_path))
    (tmp_path / NOTE_NAME).write_text(re.sub(r"127.0.0.1:\d+", "127.0.0.1:1", note), encoding="utf-8")
    with pytest.raises(RunError, match="does not answer; start it again: eed-search mlflow-server --background"):
        MlflowTracker(make_spec(), tmp_path, "x")
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_tables_half_made_are_completed(postgres: Postgres, tmp_path: Path) -> None:
    """A starter that is killed lets go of the lock, and the next one goes on."""
    postgres.ask("CREATE DATABASE halved")
    first = _starter(postgres.uri("halved"), tmp_path)
    while postgres.ask("SELECT count(*) FROM pg_tables WHERE tablename = 'metrics'", "halved") == "0":
        assert first.poll() is None
    first.kill()
    first.communicate()
    prepare_postgresql(postgres.uri("halved"), str(tmp_path))
    assert postgres.ask("SELECT count(*) FROM alembic_version", "halved") == "1"


@pytest.mark.slow
def test_tables_of_an_older_mlflow_are_brought_up_to_date_on_request(postgres: Postgres, tmp_path: Path) -> None:
    """Never unasked: the message says how to copy them first."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine
    from mlflow.store.tracking.dbmodels.initial_models import Base

    postgres.ask("CREATE DATABASE older")
    uri = postgres.uri("older")
    engine = create_sqlalchemy_engine(uri.replace("postgresql:", "postgresql+psycopg:"))
    Base.metadata.create_all(engine)
    config = _get_alembic_config("postgresql://")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head-1")
    engine.dispose()
    before = postgres.ask("SELECT version_num FROM alembic_version", "older")
    with pytest.raises(StoreError, match=rf"another version of MLflow \({before}, .*pg_dump .*--upgrade --database"):
        prepare_postgresql(uri, str(tmp_path))
    assert postgres.ask("SELECT version_num FROM alembic_version", "older") == before
    prepare_postgresql(uri, str(tmp_path), upgrade=True)
    assert postgres.ask("SELECT version_num FROM alembic_version", "older") != before
    prepare_postgresql(uri, str(tmp_path))
