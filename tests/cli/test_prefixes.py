"""The beginning of a search's name is enough for whoever reads, and never for what ends or frees something."""

from __future__ import annotations

from pathlib import Path

import pytest

from eed_search.cli.attack import is_frontier
from eed_search.runs.ledger import FILE_NAME, Ledger
from tests.cli.calling import call
from tests.runs.ledgers import events_of
from tests.tracking.factories import make_view


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three finished searches, two of which begin alike."""
    for name in ("digits-1", "digits-2", "gtsrb-1"):
        folder = tmp_path / "home" / name
        folder.mkdir(parents=True)
        with Ledger(folder / FILE_NAME, write=True) as ledger:
            for event in events_of(make_view(8, name=name)):
                ledger.append(event.kind, event.data, event.trial)
    return tmp_path / "home"


@pytest.mark.parametrize("words", [("status",), ("report",), ("report", "--json")])
def test_whoever_reads_needs_no_more(home: Path, words: tuple[str, ...]) -> None:
    whole = call(words[0], "gtsrb-1", *words[1:], "--home", home)
    found = call(words[0], "g", *words[1:], "--home", home)
    assert (found.exit_code, found.stdout) == (0, whole.stdout)


def test_two_that_begin_alike_are_named(home: Path) -> None:
    found = call("report", "dig", "--home", home)
    assert (found.exit_code, found.stdout) == (7, "")
    assert found.stderr == "error: dig: begins the names of digits-1, digits-2; give more of one\n"


def test_a_whole_name_goes_first(home: Path) -> None:
    (home / "digits-1").rename(home / "digits")
    assert call("status", "digits", "--home", home).stdout.startswith("digits: finished")


def _files(home: Path) -> dict[str, bytes]:
    """What lies there, but for what SQLite makes for whoever reads."""
    files = (path for path in home.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize("command", ["stop", "cancel", "resume", "recover"])
def test_what_changes_something_wants_the_whole_name(home: Path, command: str) -> None:
    before = _files(home)
    found = call(command, "gts", "--home", home)
    assert found.exit_code == 7
    assert found.stderr.startswith("error: gts: no such search in ")
    assert _files(home) == before


def test_a_users_module_is_no_beginning_of_a_name(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gtsrb:frontier` may be a function of the user's own file."""
    monkeypatch.chdir(tmp_path)
    assert is_frontier("gtsrb:frontier", home)
    (tmp_path / "gtsrb.py").touch()
    assert not is_frontier("gtsrb:frontier", home)
