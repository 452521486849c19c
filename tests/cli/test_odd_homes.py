"""Homes with characters that mean something in addresses: refused before anything is made, or everything lies below them."""

from __future__ import annotations

from pathlib import Path

import pytest

from eed_search.runs.ledger import read_run
from eed_search.tracking.mlflow_store import connect, database_uri
from tests.cli.calling import STUBBED, call, python
from tests.cli.test_launch import FILE

COMMANDS = [
    ("launch",),
    ("launch", "--dry-run"),
    ("resume",),
    ("status",),
    ("report",),
    ("stop",),
    ("cancel",),
    ("ui",),
    ("mlflow-server", "--port", "0"),
    ("benchmark", "benchmark_digits"),
    ("attack", "knee"),
    ("export", "--out", "x"),
    ("fetch", "x", "--storage", "file:///nowhere"),
    ("doctor",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("name", ["a?b", "a%20b", "a\nb"])
def test_every_command_refuses_them_and_makes_nothing(tmp_path: Path, command: tuple[str, ...], name: str) -> None:
    """One mistake, exit code 3, nothing on the disk."""
    result = call(*command, "--home", tmp_path / name / "runs")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"--home {str(tmp_path / name / 'runs')!r}: holds ")
    assert list(tmp_path.iterdir()) == []


def test_a_searchs_folder_in_such_a_home_is_refused_too(tmp_path: Path) -> None:
    """Its home would be the folder around it."""
    folder = tmp_path / "a?b" / "one"
    folder.mkdir(parents=True)
    (folder / "ledger.sqlite").touch()
    result = call("resume", folder, "--home", tmp_path)
    assert result.exit_code == 3
    assert "holds a question mark" in result.stderr


def test_a_benchmark_needs_a_name_that_is_a_folders(tmp_path: Path) -> None:
    """As a search does: a path in it would lead out of the home."""
    result = call("benchmark", "benchmark_digits", "--home", tmp_path / "home", "--name", "../a?b")
    assert result.exit_code == 7
    assert "--name ../a?b: is not allowed" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["a?b", "a%20b", "file://{}/a?b"])
def test_artifacts_that_mlflow_would_write_elsewhere_are_refused(tmp_path: Path, given: str) -> None:
    """Before the server is started."""
    given = given.format(tmp_path) if "://" in given else str(tmp_path / given)
    result = call("mlflow-server", "--home", tmp_path / "home", "--port", 0, "--artifacts", given)
    assert result.exit_code == 6
    assert result.stderr.startswith("error: --artifacts ")
    assert not any(path.name.startswith("a") for path in tmp_path.iterdir())


@pytest.mark.slow
def test_with_other_odd_characters_everything_lies_below(tmp_path: Path) -> None:
    """Ledger, study, MLflow's database and its files; and the report is read again."""
    home = tmp_path / "a b;c'd\"e#f ü&g=h:i\\j[k]@+100%" / "runs"
    (tmp_path / "quick.yaml").write_text(FILE, encoding="utf-8")
    words = ("launch", tmp_path / "quick.yaml", "--home", home, "--name", "one", "--trials", 2)
    done = python(STUBBED, *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {home.parent.name, "quick.yaml"}
    assert read_run(home / "one").notes == []
    client = connect(database_uri(home))
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'search'")
    assert {file.path for file in client.list_artifacts(run.info.run_id, "report")} >= {"report/frontier.html"}
    assert list(home.glob("mlartifacts/*/artifacts/report/frontier.html"))
    assert call("report", "one", "--home", home).exit_code == 0
