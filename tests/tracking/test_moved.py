"""Homes that were copied or moved: they write to themselves, and the original stays as it is, byte for byte."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eed_search.config.spec import Baselines, Data, Search, Spec, Threat
from eed_search.core.errors import RunError
from eed_search.runs.ledger import read_run
from eed_search.runs.moved import path_now
from eed_search.runs.run_lock import driving, noted
from eed_search.search import LocalWorkers, Silent
from eed_search.search.driver import run
from eed_search.search.resume import stored_spec
from eed_search.tracking.mlflow_store import connect, database_uri, home_uri
from eed_search.tracking.moved import settle
from eed_search.tracking.report import HTML_NAME
from eed_search.tracking.server import NOTE_NAME, ServerNote, write_note
from tests.cli.calling import python
from tests.runs.ledgers import cut
from tests.search import stub_pipeline

pytestmark = [  # MLflow and what it brings leave connections to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


GO_ON = """
import sys
from pathlib import Path
from eed_search.search import LocalWorkers, Silent
from eed_search.search.resume import resume
from tests.search import stub_pipeline
resume(Path(sys.argv[1]), pipeline=stub_pipeline, listener=Silent(), workers=LocalWorkers())
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one search that was cut off in the middle, and whose data lie inside of it."""
    home = tmp_path_factory.mktemp("original") / "a home, with a space"
    data = home / "data"
    data.mkdir(parents=True)
    spec = Spec(
        name="s",
        threat=Threat(eps=0.15),
        data=Data(source="npz", path=str(data)),
        search=Search(trials=4, startup_trials=3, racing=False),
        baselines=Baselines(sizes=(0.5,)),
    )
    run(spec, home=home, name="s", pipeline=stub_pipeline, listener=Silent(), workers=LocalWorkers())  # type: ignore[arg-type]
    view = read_run(home / "s")
    assert view.state == "finished"
    cut(home / "s", view.num_events - 6)
    return home


def contents(home: Path) -> dict[str, tuple[bytes, int]]:
    """Read every file of a home, and when it was written."""
    return {
        str(path.relative_to(home)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }


def addresses(home: Path) -> set[str]:
    """Read every address of files in a home's MLflow database."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        return {
            str(row[0])
            for query in ("SELECT artifact_location FROM experiments", "SELECT artifact_uri FROM runs")
            for row in database.execute(query)
        }


def go_on(home: Path) -> None:
    """Take the search up and bring it to its end, in a process of its own: MLflow remembers where a run's files are."""
    done = python(GO_ON, home / "s")
    assert done.returncode == 0, done.stderr
    assert read_run(home / "s").state == "finished"
    assert [note for note in read_run(home / "s").notes if "MLflow" in note] == []


def is_whole(home: Path) -> None:
    """Hold that everything in a home points into it, and that the report is in its MLflow."""
    here = (home / "mlartifacts").as_uri()
    assert {address for address in addresses(home) if not address.startswith(f"{here}/") and address != here} == set()
    client = connect(database_uri(home))
    (experiment,) = [one for one in client.search_experiments() if one.name == "eed-search"]
    parents = client.search_runs([experiment.experiment_id], "tags.kind = 'search'")
    assert len(parents) == 1
    report = home / "s" / "report" / HTML_NAME
    (page,) = (home / "mlartifacts").rglob(HTML_NAME)
    assert page.read_bytes() == report.read_bytes()


@pytest.mark.whole
def test_a_copy_beside_its_original_never_touches_it(original: Path, tmp_path: Path) -> None:
    """Resumed, shown and resumed again; the original goes on later as if nothing had been."""
    before = contents(original)
    copy = shutil.copytree(original, tmp_path / "copy")
    go_on(copy)
    assert contents(original) == before
    is_whole(copy)


@pytest.mark.whole
def test_a_moved_home_goes_on(original: Path, tmp_path: Path) -> None:
    """Where it was there is nothing, and nothing is made there."""
    first = shutil.copytree(original, tmp_path / "first")
    settle(first)
    moved = first.rename(tmp_path / "second")
    go_on(moved)
    is_whole(moved)
    assert not first.exists()


def test_addresses_are_corrected_once(original: Path, tmp_path: Path) -> None:
    """By the home in which the database was made; other addresses are left alone."""
    copy = shutil.copytree(original, tmp_path / "copy")
    with closing(sqlite3.connect(copy / "mlflow.db")) as database, database:
        database.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
            " VALUES (99, 'elsewhere', 's3://bucket/mlartifacts', 'active')"
        )
        database.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (98, 'near', ?, 'active')",
            (f"{(original / 'mlartifacts').as_uri()}-2",),
        )
    assert settle(copy) > 0
    assert settle(copy) == 0
    others = {one for one in addresses(copy) if not one.startswith((copy / "mlartifacts").as_uri())}
    assert others == {"s3://bucket/mlartifacts", f"{(original / 'mlartifacts').as_uri()}-2"}


def test_a_home_that_is_reached_by_a_link_is_itself(original: Path, tmp_path: Path) -> None:
    """Nothing is corrected."""
    copy = shutil.copytree(original, tmp_path / "copy")
    settle(copy)
    (tmp_path / "link").symlink_to(copy)
    before = addresses(copy)
    assert settle(tmp_path / "link") == 0
    assert addresses(copy) == before


def test_data_inside_the_home_move_with_it(original: Path, tmp_path: Path) -> None:
    """Data elsewhere stay where they are, and so do those that were not copied along."""
    copy = shutil.copytree(original, tmp_path / "copy")
    view = read_run(copy / "s")
    assert view.spec["data"]["path"] == str(copy / "data")
    assert stored_spec(copy / "s", view).data.path == str(copy / "data")
    (copy / "data").rmdir()
    assert read_run(copy / "s").spec["data"]["path"] == str(original / "data")
    assert path_now("/elsewhere/data", str(original), copy) == "/elsewhere/data"
    assert path_now("/elsewhere/data", "", copy) == "/elsewhere/data"


def test_a_server_of_the_other_home_is_not_written_to(original: Path, tmp_path: Path) -> None:
    """Its note came along with the copy."""
    copy = shutil.copytree(original, tmp_path / "copy")
    note = ServerNote("http://127.0.0.1:1", database_uri(original), str(original / "mlartifacts"), 1)
    write_note(copy, note)
    assert home_uri(copy) == database_uri(copy)


def test_a_shared_database_with_the_other_homes_files_is_refused(original: Path, tmp_path: Path) -> None:
    """Both would write to it; the line says what to do."""
    copy = shutil.copytree(original, tmp_path / "copy")
    note = ServerNote("http://127.0.0.1:1", "postgresql+psycopg:///mlflow", str(original / "mlartifacts"), 1)
    write_note(copy, note)
    with pytest.raises(RunError, match=f"^{copy / NOTE_NAME}: tells of the server of another home"):
        home_uri(copy)


def test_the_note_of_a_driver_that_came_with_a_copy_says_nothing(original: Path, tmp_path: Path) -> None:
    """The original runs, the copy does not."""
    copy = tmp_path / "copy"
    there = shutil.copytree(original, tmp_path / "there")
    with driving(there / "s"):
        assert noted(there / "s") is not None
        shutil.copytree(there, copy)
        assert noted(copy / "s") is None
    assert json.loads((there / "s" / "driver.json").read_text())["folder"] == str(there / "s")
