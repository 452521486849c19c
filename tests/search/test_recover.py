"""A search whose ledger was damaged: said, recovered, taken up, and in the end the undisturbed search."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eed_search.config.spec import Baselines, Search, Spec, Threat
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, read_run
from eed_search.runs.ledger_copies import COPY_NAMES
from eed_search.runs.run_lock import driving
from eed_search.search import LocalWorkers, Silent
from eed_search.search.driver import run
from eed_search.search.resume import resume
from tests.cli.calling import call
from tests.search import stub_pipeline

pytestmark = [  # MLflow and what it brings leave connections to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished search."""
    home = tmp_path_factory.mktemp("finished")
    spec = Spec(
        name="s",
        threat=Threat(eps=0.15),
        search=Search(trials=5, startup_trials=3, racing=False),
        baselines=Baselines(sizes=(0.5,)),
    )
    run(spec, home=home, name="s", pipeline=stub_pipeline, listener=Silent(), workers=LocalWorkers())  # type: ignore[arg-type]
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, without copies of the ledger."""
    home = shutil.copytree(finished, tmp_path / "home")
    for name in COPY_NAMES:
        (home / "s" / name).unlink(missing_ok=True)
    return home


def alter(folder: Path, kind: str, trial: int) -> None:
    """Change a digit of an event."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as database, database:
        changed = database.execute(
            "UPDATE event SET data = replace(data, '0.', '1.') WHERE kind = ? AND trial = ?", (kind, trial)
        )
        assert changed.rowcount == 1


def what(view: RunView) -> object:
    """What must be the same as in the undisturbed search."""
    figures = {n: (t.outcome, t.measurement and t.measurement.robust_accuracy.value) for n, t in view.trials.items()}
    return view.state, view.proposals, figures


@pytest.mark.parametrize(
    ("kind", "trial"),
    [
        pytest.param("result", 1, marks=pytest.mark.whole),
        pytest.param("proposal", 3, marks=pytest.mark.whole),
        pytest.param("result", 4, marks=pytest.mark.whole),
    ],
)
def test_recovered_and_taken_up_it_is_the_undisturbed_search(home: Path, finished: Path, kind: str, trial: int) -> None:
    """`status`, `report` and `resume` name the damage and the way out; it is gone; the search ends as it would have."""
    folder = home / "s"
    alter(folder, kind, trial)
    for command in ("status", "report", "resume"):
        for words in ([command, "s"], [command]):
            done = call(*words, "--home", home)
            assert done.exit_code == 7, (words, done.output)
            assert "eed-search recover " in done.output, (words, done.output)
            assert "Traceback" not in done.output
    done = call("recover", "--home", home)
    assert done.exit_code == 0, done.output
    assert " are lost; trial" in done.output
    assert "run" in done.output
    assert (folder / f"{FILE_NAME}.damaged-1").exists()
    view = resume(folder, pipeline=stub_pipeline, listener=Silent(), workers=LocalWorkers())  # type: ignore[arg-type]
    assert what(view) == what(read_run(finished / "s"))
    assert call("recover", "s", "--home", home).output.endswith("nothing to recover, nothing was changed\n")


def test_a_deleted_ledger_is_said_and_comes_back(finished: Path, tmp_path: Path) -> None:
    """From the copy that the search left; `launch` under its name is refused until then."""
    home = shutil.copytree(finished, tmp_path / "home")
    (home / "s" / FILE_NAME).unlink()
    for words in (
        ["status", "s"],
        ["status"],
        ["report"],
        ["resume"],
        ["attack", "s:0.0"],
        ["export", "--out", tmp_path / "b"],
    ):
        done = call(*words, "--home", home)
        assert done.exit_code == 7, (words, done.output)
        assert "eed-search recover " in done.output, (words, done.output)
    done = call("launch", "--name", "s", "--home", home)
    assert "exists already (damaged); take back what is sound with `eed-search recover s`" in done.output
    assert call("recover", "s", "--home", home).exit_code == 0
    assert what(read_run(home / "s")) == what(read_run(finished / "s"))


def test_a_search_that_runs_is_not_recovered(home: Path) -> None:
    """Its driver holds the ledger."""
    alter(home / "s", "result", 1)
    before = (home / "s" / FILE_NAME).read_bytes()
    with driving(home / "s"):
        done = call("recover", "s", "--home", home)
    assert done.exit_code == 7
    assert "still runs" in done.output
    assert (home / "s" / FILE_NAME).read_bytes() == before


def test_a_sound_search_beside_it_is_shown(home: Path) -> None:
    """`status` names the damaged one below."""
    shutil.copytree(home / "s", home / "t")
    alter(home / "s", "result", 1)
    done = call("status", "--home", home)
    assert done.exit_code == 0
    assert f"also    s: its ledger is damaged; `eed-search recover s --home {home}`" in done.output


def test_what_is_added_without_a_driver_is_chained_too(home: Path) -> None:
    """As `attack` and `cancel` do."""
    with driving(home / "s"), Ledger(home / "s" / FILE_NAME, write=True) as ledger:
        ledger.append("note", {"text": "offline", "offline": True})
    assert read_run(home / "s").notes[-1] == "offline"
