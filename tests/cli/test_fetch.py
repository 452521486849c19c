"""What the command line does with shared storage: fetch a search, verify a bundle there, say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from eed_search.runs.replicas import Copies
from eed_search.storage.shared_storage import Storage
from tests.cli.calling import call
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_view


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Storage that holds the search `first`."""
    there = Storage(f"file://{tmp_path}/shared")
    write_ledger(tmp_path / "elsewhere" / "first", make_view(name="first"))
    Copies(there, "first").save(tmp_path / "elsewhere" / "first")
    return there


def test_a_fetched_search_is_shown_like_one_made_here(storage: Storage, tmp_path: Path) -> None:
    """The ledger is all that the report needs; the next commands find the home again."""
    fetched = call("fetch", "first", "--storage", storage.url, "--home", tmp_path / "here")
    assert fetched.exit_code == 0
    assert f"eed-search report first --home {tmp_path / 'here'}" in fetched.stdout

    shown = call("report", "first", "--json", "--home", tmp_path / "here").stdout
    assert shown == call("report", "first", "--json", "--home", tmp_path / "elsewhere").stdout


def test_an_unknown_search_lists_those_on_the_storage(storage: Storage, tmp_path: Path) -> None:
    result = call("fetch", "second", "--storage", storage.url, "--home", tmp_path / "here")
    assert result.exit_code == 7
    assert "run second: is not there; runs there: first" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fetch", "first"), "--storage: names no storage"),
        (("fetch", "first", "--storage", "/mnt/shared"), "no scheme of file, s3, gs"),
        (("launch", "digits", "--storage", "http://x"), "storage.url: 'http://x' has no scheme"),
        (("verify", "s3://"), "names no bucket"),
    ],
)
def test_a_wrong_storage_is_one_clear_error(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    result = call(*words, *(() if words[0] == "verify" else ("--home", tmp_path)))
    assert result.exit_code in (3, 6)
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bundle_that_is_not_there_says_so(tmp_path: Path) -> None:
    result = call("verify", f"file://{tmp_path}/nothing")
    assert result.exit_code == 8
    assert "there is nothing" in result.stderr
